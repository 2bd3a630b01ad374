"""`convc inspect`: one pass as a difference, places in the arena, a kernel down to its assembly, the graph as ONNX."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from measure_support import small_graph, write_small

import convc
from convc.cli.inspect_passes import difference, wrapped
from convc.cli.main import main
from convc.frontends.onnx import save_onnx
from convc.interp import run_graph


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_small(tmp_path_factory.mktemp("inspect"))


@pytest.fixture(scope="module")
def compiled(small: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("inspect") / "small.convc")
    assert main(["compile", small, "-o", path, "--threads", "1"]) == 0
    return path


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["inspect", *words]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    return text


def test_layers_with_what_they_see(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "model", small).splitlines()
    stem = next(line for line in lines if line.startswith("stem"))
    assert stem.split() == ["stem", "conv2d", "1x8x16x16", "224", "55296", "3"]
    assert next(line for line in lines if line.startswith("head")).split()[-1] == "whole"
    after = shown(capsys, "model", small, "--optimised")
    assert "batch_norm" not in after and "relu" not in after
    assert main(["inspect", "model", small, "--json"]) == 0
    layer = json.loads(capsys.readouterr().out)["layers"][0]
    assert layer["field"] == [3, 3] and layer["macs"] == 55296


def test_the_optimised_graph_as_onnx_computes_the_same(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "o.onnx"
    assert main(["inspect", "model", small, "--save-onnx", str(path)]) == 0
    assert f"wrote {path}" in capsys.readouterr().err
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16), np.float32)
    expected = run_graph(small_graph(), {"x": x})["scores"]
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=1e-5 * np.abs(expected).max())
    assert "BatchNormalization" not in path.read_bytes().decode("latin-1")


def test_one_pass_as_a_difference(small: str, compiled: str, capsys: pytest.CaptureFixture[str]) -> None:
    for model in (small, compiled):
        text = shown(capsys, "passes", model, "--pass", "fuse_batchnorm", "--diff")
        assert "-  %norm = batch_norm(%stem," in text and "+  %stem = conv2d(%x," in text
        assert "%head =" not in text and "fuse_epilogue" not in text
    text = shown(capsys, "passes", small, "--pass", "fuse_batchnorm")
    assert "fuse_batchnorm_after at %norm: BatchNormalization into conv2d %stem" in text
    assert main(["inspect", "passes", small, "--pass", "fuse_batchnorm", "--diff", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)[0]
    number = str(record["index"])
    assert record["name"] == "fuse_batchnorm" and any(line.startswith("-  %norm = ") for line in record["diff"])
    assert shown(capsys, "passes", small, "--pass", number).splitlines()[1].split()[:2] == [number, "fuse_batchnorm"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--diff", "--diff does not say of which pass\nHint: add --pass NAME or --pass NUMBER"),
        ("--pass nothing", "no pass nothing has run\nHint: these have: "),
    ],
)
def test_passes_that_are_not_there(small: str, words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "passes", small, *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_differences_put_lines_of_one_name_side_by_side() -> None:
    before = ["graph {", "  %a = 1", "  %b = f(%a)", "  %c = g(%b)", "  %d = h(%c)", "  return %d", "}"]
    after = ["graph {", "  %a = 1", "  %b = fg(%a)", "  %d = h(%b)", "  return %d", "}"]
    assert difference(before, after) == [
        "@@ line 2 @@", "   %a = 1", "-  %b = f(%a)", "+  %b = fg(%a)", "-  %c = g(%b)", "-  %d = h(%c)",
        "+  %d = h(%b)", "   return %d",
    ]  # fmt: skip
    assert difference(before, before) == []
    pieces = list(wrapped("-  %long = conv2d(" + ", ".join(["%operand"] * 20) + ")"))
    assert len(pieces) > 1 and all(piece.startswith("-  ") and len(piece) <= 100 for piece in pieces)


def test_the_program_shows_kernels_nodes_and_offsets(compiled: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "program", compiled).splitlines()
    assert "steps, arena of" in lines[0]
    assert any(line.split()[2:] == ["x", "input", offset] for line in lines for offset in line.split()[-1:])
    assert any(" stem " in line and "0x" in line for line in lines)


def test_a_kernel_down_to_its_assembly(compiled: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "kernels", compiled, "--json"]) == 0
    name = min((k["lines"], k["name"]) for k in json.loads(capsys.readouterr().out))[1]
    assert main(["inspect", "kernels", compiled, "--source", name, "--llvm", name, "--asm", name, "--json"]) == 0
    source, llvm, asm = json.loads(capsys.readouterr().out)
    assert [one["form"] for one in (source, llvm, asm)] == ["source", "llvm", "asm"]
    assert f"def {name}(" in source["text"] and f"@{name}(" in llvm["text"] and f"{name}:" in asm["text"]
    assert main(["inspect", "kernels", compiled, "--asm", name]) == 0
    assert "ret" in capsys.readouterr().out
    assert main(["inspect", "kernels", compiled, "--llvm", "nothing"]) == 2
    assert "the model has no kernel nothing\nHint: it has f32_" in capsys.readouterr().err


def test_a_story_of_long_names_stays_within_100_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scope = "features/denseblock12/denselayer34/with_a_rather_long_name"
    b = convc.Builder("long", seed=0)
    x = b.conv(b.input("x", (1, 3, 8, 8)), 8, kernel=3, name=f"{scope}/convolution")
    y = b.relu(b.batch_norm(x, name=f"{scope}/BatchNormalization"), name=f"{scope}/Relu")
    save_onnx(b.finish({"y": y, "also": x}), tmp_path / "long.onnx")
    words = ("passes", str(tmp_path / "long.onnx"), "--target", "reference", "--explain")
    text = shown(capsys, *words, f"{scope}/BatchNormalization")
    assert "is an output of the graph" in " ".join(text.split())
