from __future__ import annotations

import os
from pathlib import Path

import pytest

from convc import processors


def lay(root: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "own").write_text(own)
    monkeypatch.setattr(processors, "GROUPS", root / "groups")
    monkeypatch.setattr(processors, "OWN", root / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
        ("0::/docker/x\n", {"cpu.max": "200000 100000\n"}, 2),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ("4:cpu:/t\n", {"cpu/t/cpu.cfs_quota_us": "100000\n", "cpu/t/cpu.cfs_period_us": "100000\n"}, 1),
        ("4:cpu:/t\n", {"cpu/t/cpu.cfs_quota_us": "-1\n", "cpu/t/cpu.cfs_period_us": "100000\n"}, 8),
        ("0::/../..\n", {}, 8),
        ("nonsense\n", {"cpu.max": "nonsense"}, 8),
    ],
)
def test_quotas(
    own: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, monkeypatch, own, files)
    assert processors.default_threads() == expected


def test_no_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, monkeypatch, "", {})
    (tmp_path / "own").unlink()
    assert processors.default_threads() == 8
