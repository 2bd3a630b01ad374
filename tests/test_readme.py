"""What README shows is run as it stands there, in an empty folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.cli.main import main

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_quick_start(folder: Path) -> None:
    from convc.frontends.onnx import save_onnx

    b = convc.Builder("stand-in", seed=0)
    x = b.input("x", ("N", 3, 8, 8))
    save_onnx(b.finish({"y": b.relu(b.batch_norm(b.conv(x, 4, kernel=3)))}), folder / "resnet50.onnx")
    names: dict[str, Any] = {"x": np.ones((1, 3, 8, 8), np.float32)}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    model = names["model"]
    assert isinstance(model, convc.CompiledModel)
    for batch, size in ((1, 16), (3, 33)):
        assert model(np.ones((batch, 3, size, size), np.float32)).shape == (batch, 10)


def test_the_first_pass_of_the_contributing_page() -> None:
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], names)
    b = convc.Builder("two")
    x = b.input("x", (1, 4))
    graph = b.finish({"y": b.leaky_relu(x, alpha=0.0, name="flat"), "z": b.leaky_relu(x, alpha=0.5, name="steep")})
    model = convc.compile(graph, passes=[names["SIMPLIFY_LEAKY_RELU"], "fuse_epilogue"], target="reference")
    assert [model.graph[name].op for name in ("flat", "steep")] == ["relu", "leaky_relu"]
    assert [str(refusal) for refusal in model.records[0].refusals] == ["flat at %steep: alpha is 0.5"]
    assert model(np.float32([[-2, -1, 0, 3]]))[0].tolist() == [[0, 0, 0, 3]]


@pytest.mark.slow
def test_the_commands_of_the_quick_start(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("PIL.Image").new("RGB", (300, 250), (90, 60, 30)).save(folder / "cat.jpg")
    commands = [line.strip().partition("#")[0] for line in README.splitlines() if line.startswith("    convc ")]
    assert len(commands) >= 6
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command
        assert capsys.readouterr().out, command


def test_files_and_targets_that_the_documents_name_exist() -> None:
    root = Path(__file__).parent.parent
    makefile = (root / "Makefile").read_text("utf-8")
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (root / name).read_text("utf-8")
        for target in re.findall(r"\bmake ([a-z-]+)`? +#|`make ([a-z-]+)`", text):
            assert f"\n{''.join(target)}:" in makefile, target
        for path in re.findall(r"`((?:tests|passes|convc|backends|examples|\.ci)/[\w./]*)`", text):
            assert (root / path).exists(), f"{name} names {path}"
