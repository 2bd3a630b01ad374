"""What the documents show is run as it stands there, in an empty folder: Python blocks and commands, in their order."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.cli.main import main
from convc.data import load_digits_train
from convc.ir.graph import Graph

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
HERE = "    convc "
"""A command, as code by indentation."""


def parts(name: str) -> Iterator[tuple[str, str]]:
    """Python blocks ("python", code) and commands ("convc", line) of a document, in order."""
    text = (ROOT / name).read_text("utf-8")
    for found in re.finditer(r"^```(\S*)[^\n]*\n(.*?)^```$|^    convc [^\n]*$", text, re.DOTALL | re.MULTILINE):
        if found.group(0).startswith(HERE):
            yield "convc", found.group(0).strip().partition("#")[0].strip()
        elif found.group(1) == "python":
            yield "python", found.group(2)


def stand_in(*, batch: Any = "N", size: Any = None, seed: int = 0, **options: Any) -> Graph:
    """A network in the place of one that takes seconds to compile."""
    b = convc.Builder("stand-in", seed=seed)
    x = b.input("x", (batch, 3, size or "H", size or "W"), nominal=None if size else {"H": 16, "W": 16})
    for name in ("layer1.0.bn1", "features.1.conv.0.1"):
        x = b.relu(b.batch_norm(b.conv(x, 4, kernel=3, bias=False), name=name))
    return b.finish({"y": b.linear(b.flatten(b.global_avg_pool(x)), 10)})


def run_document(name: str, folder: Path) -> dict[str, Any]:
    """Run all of it in `folder`; the names that its Python leaves."""
    from convc.frontends.onnx import save_onnx

    save_onnx(stand_in(), folder / "resnet50.onnx")
    pytest.importorskip("PIL.Image").new("RGB", (300, 250), (90, 60, 30)).save(folder / "cat.jpg")
    if name not in ("README.md", "docs/quickstart.md"):
        save_onnx(stand_in(), folder / "net.onnx")
    images = load_digits_train()[:16]
    np.save(folder / "images.npy", images)
    names: dict[str, Any] = {"x": np.ones((1, 3, 8, 8), np.float32), "images": images}
    for kind, text in parts(name):
        if kind == "python":
            exec(compile(text, name, "exec"), names)
        else:
            assert main(shlex.split(text)[1:]) == 0, text
    return names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of the zoo are small, and not started in new processes, which would build the real ones."""
    from convc.cli import bench
    from convc.measure import startup
    from convc.measure.timing import Budget
    from convc.zoo import ZOO

    for name in ("mobilenet_v2", "resnet18"):
        monkeypatch.setitem(ZOO, name, stand_in)
    monkeypatch.setattr(bench, "budget_of", lambda args: Budget(1, 0.01, 3))
    monkeypatch.setattr("convc.cli.demo.SECONDS", 0.02)
    real = startup.starts

    def starts(source: str, *args: Any, **more: Any) -> list[startup.Start]:
        if source.startswith("zoo:"):
            return [startup.Start(kind, 0.1, 0.1, 0.1, 0.1, 0, None) for kind in startup.KINDS]
        return real(source, *args, **more)

    monkeypatch.setattr(startup, "starts", starts)


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.usefixtures("quick")
def test_what_a_document_shows_runs(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_document(name, folder)
    if name == "README.md":
        model = names["model"]
        for batch, size in ((1, 16), (3, 33)):
            assert model(np.ones((batch, 3, size, size), np.float32)).shape == (batch, 10)
    if name == "docs/quickstart.md":
        assert "%stem also feeds %sum" in capsys.readouterr().out
        assert {"net.convc", "report.html"} <= {path.name for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DOCUMENTS if any("zoo:" in text for _, text in parts(name))])
def test_what_a_document_shows_runs_on_the_networks_that_it_names(name: str, folder: Path) -> None:
    run_document(name, folder)


def test_the_documents_show_something() -> None:
    counts = {name: [kind for kind, _ in parts(name)] for name in DOCUMENTS}
    assert counts["README.md"].count("python") == 3 and counts["README.md"].count("convc") >= 11
    assert counts["docs/quickstart.md"].count("python") >= 4 and counts["docs/quickstart.md"].count("convc") >= 8
    for name in ("docs/how-it-works.md", "docs/writing-a-pass.md", "docs/writing-a-kernel.md"):
        assert "python" in counts[name], name
    for name in DOCUMENTS:
        text = (ROOT / name).read_text("utf-8")
        assert not re.search(r"^\s*\$ |^```(sh|bash|console|shell)", text, re.MULTILINE), f"{name}: write it as code"


def test_the_first_pass_of_the_contributing_page() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], names)
    b = convc.Builder("two")
    x = b.input("x", (1, 4))
    graph = b.finish({"y": b.leaky_relu(x, alpha=0.0, name="flat"), "z": b.leaky_relu(x, alpha=0.5, name="steep")})
    model = convc.compile(graph, passes=[names["SIMPLIFY_LEAKY_RELU"], "fuse_epilogue"], target="reference")
    assert [model.graph[name].op for name in ("flat", "steep")] == ["relu", "leaky_relu"]
    assert [str(refusal) for refusal in model.records[0].refusals] == ["flat at %steep: alpha is 0.5"]
    assert model(np.float32([[-2, -1, 0, 3]]))[0].tolist() == [[0, 0, 0, 3]]


def test_files_and_targets_that_the_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for name in ("CONTRIBUTING.md", *DOCUMENTS):
        text = (ROOT / name).read_text("utf-8")
        for target in re.findall(r"\bmake ([a-z-]+)`? +#|`make ([a-z-]+)`", text):
            assert f"\n{''.join(target)}:" in makefile, target
        for path in re.findall(r"`((?:tests|passes|convc|backends|examples|docs|\.ci)/[\w./]*)`", text):
            if path != "docs/generated/":  # made while the site is built
                assert (ROOT / path).exists(), f"{name} names {path}"
