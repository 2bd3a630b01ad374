"""The kernel store: keys, damaged files, folders that cannot be used, several processes, clearing."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.backends import store as stores
from convc.backends.cpu import build, isa, jit
from convc.backends.cpu.driver import POST
from convc.backends.store import Store
from convc.errors import StoreWarning
from convc.frontends.builder import Builder
from convc.ir.graph import Graph

MADE: dict[tuple[str, str, isa.Isa], bytes] = {}
X = np.linspace(-1, 1, 6, dtype=np.float32)


def graph() -> Graph:
    b = Builder("small")
    return b.finish(b.relu(b.input("x", (6,))))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of its own."""
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the kernels that are compiled from here on."""
    names: list[str] = []
    real = jit.compile_object

    def spy(name: str, source: str, kind: isa.Isa) -> bytes:
        names.append(name)
        if (name, source, kind) not in MADE:
            MADE[name, source, kind] = real(name, source, kind)
        return MADE[name, source, kind]

    monkeypatch.setattr(jit, "compile_object", spy)
    yield names


def test_keys_tell_apart_what_makes_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    one = isa.choose()
    keys = [build.kernel_key("f", "def f(a): pass", one), build.kernel_key("g", "def f(a): pass", one)]
    keys += [build.kernel_key("f", "def f(b): pass", one)]
    keys += [build.kernel_key("f", "def f(a): pass", kind) for kind in isa.ISAS.values() if kind is not one]
    keys += [build.kernel_key("f", "def f(a): pass", replace(one, tune="generic"))]
    keys += [build.kernel_key("f", "def f(a): pass", replace(one, cpu="other"))]
    monkeypatch.setattr(build, "generator_digest", lambda: "another")
    keys += [build.kernel_key("f", "def f(a): pass", one)]
    assert len(set(keys)) == len(keys)
    assert build.kernel_key("f", "def f(a): pass", one) == keys[-1]


def test_the_generator_is_all_that_makes_code() -> None:
    """Every module whose vocabulary or driver a kernel is compiled with is part of the key."""
    for name in build.GENERATOR_FILES:
        assert (Path(build.__file__).parent / name).is_file()
    modules = Path(jit.__file__).parent.glob("*.py")
    used = {path.name for path in modules if "VOCABULARY: dict" in path.read_text("utf-8")}
    assert len(used) >= 6 and {*used, "jit.py"} <= set(build.GENERATOR_FILES)


def test_kernels_are_kept_and_found(folder: Path, compiled: list[str]) -> None:
    first = convc.compile(graph(), threads=1)
    assert compiled and len(Store(folder.parent).entries()) == len(compiled)
    compiled.clear()
    again = convc.compile(graph(), threads=1)
    assert not compiled
    np.testing.assert_array_equal(again(X), first(X))


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "header", "other version", "a folder"])
def test_damaged_files_are_made_again(folder: Path, compiled: list[str], damage: str) -> None:
    convc.compile(graph(), threads=1)
    compiled.clear()
    files = sorted(folder.glob("*.o"))
    for path in files:
        data = path.read_bytes()
        half = len(data) // 2
        if damage == "a folder":
            path.unlink()
            path.mkdir()
            continue
        path.write_bytes({
            "cut": data[:-1], "flipped": data[:half] + bytes([data[half] ^ 1]) + data[half + 1:], "emptied": b"",
            "header": data[20:], "other version": data.replace(b"convc-kernel 1", b"convc-kernel 0", 1),
        }[damage])  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if damage == "a folder" else "error")
        model = convc.compile(graph(), threads=1)
    assert len(compiled) == len(files)
    np.testing.assert_array_equal(model(X), np.maximum(X, 0))
    if damage != "a folder":
        compiled.clear()
        convc.compile(graph(), threads=1)
        assert not compiled


@pytest.mark.usefixtures("compiled")
def test_a_folder_that_cannot_be_made_is_given_up_with_one_warning(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = convc.compile(graph(), threads=1)
        convc.compile(graph(), threads=1)
    assert [w.category for w in caught] == [StoreWarning]
    assert "cannot be written" in str(caught[0].message) and "CONVC_CACHE_DIR" in str(caught[0].message)
    np.testing.assert_array_equal(model(X), np.maximum(X, 0))
    assert stores.store().entries() == [] and stores.store().clear() == 0


@pytest.mark.usefixtures("compiled")
def test_a_full_disk_is_given_up_with_one_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores.os, "replace", full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = convc.compile(graph(), threads=1)
    assert [str(w.message) for w in caught if "No space left on device" in str(w.message)]
    assert len(caught) == 1 and not list(folder.iterdir())
    np.testing.assert_array_equal(model(X), np.maximum(X, 0))


def test_keeping_warns_later_and_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kept = Store(tmp_path / "file")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.put("key", b"code")
        kept.put("other", b"code")
    with pytest.warns(StoreWarning, match="cannot be written") as caught:
        kept.warn()
        kept.warn()
    assert len(caught) == 1


def test_an_interrupt_leaves_no_part_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(stores.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Store(folder.parent).put("key", b"code")
    assert not list(folder.iterdir())


def test_clearing(folder: Path, compiled: list[str]) -> None:
    convc.compile(graph(), threads=1)
    kept = Store(folder.parent)
    count = len(kept.entries())
    (folder / "left.part").write_bytes(b"")
    (folder / "notes.txt").write_text("not ours")
    assert count and kept.clear() == count + 1
    assert kept.entries() == [] and [path.name for path in folder.iterdir()] == ["notes.txt"]
    compiled.clear()
    convc.compile(graph(), threads=1)
    assert len(compiled) == count


def test_two_processes_fill_one_store(folder: Path) -> None:
    code = (
        "import convc, numpy as np\n"
        "b = convc.Builder('n')\n"
        "m = convc.compile(b.finish(b.softsign(b.input('x', (5,)))), threads=1)\n"
        "print(m(np.arange(5, dtype=np.float32)).tobytes().hex())"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert answers[0] and len(set(answers)) == 1
    assert not list(folder.glob("*.part"))
    kept = Store(folder.parent)
    assert all(kept.get(key) is not None for key, _ in kept.entries())


def test_kernels_must_not_call_the_interpreter() -> None:
    source = "def bad(a, thread, threads):\n    for i in range(0, 8, thread):\n        store_i64(a, 0, i)\n"
    with pytest.raises(RuntimeError, match="kernel bad calls numba_exception"):
        jit.compile_object("bad", source, isa.choose())
    assert jit.compile_object(*POST, isa.choose())


def test_assembly_can_be_read() -> None:
    assert "convc_post" in jit.compile_assembly(*POST, isa.choose())
