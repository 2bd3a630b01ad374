"""Every example runs, on small sizes, and prints what it is there to show."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "build_a_network": ([], ("conv2d", "multiply-adds for one 32x32 image", "logits: float32[8, 10]")),
    "custom_pass": ([], ("not clipped_relu at %second", "clipped to 6.000")),
    "compile_onnx": ([], ("scores: float32[1, 10], off by", "it gives the same outputs")),
    "read_report": (
        ["--output", "report.html", "--channels", "8", "--size", "16"],
        ("fuse_batchnorm_after at %norm1: %stem also feeds %sum", "of the limit", "report.html shows all of it"),
    ),
    "compare_fused": (["--seconds", "0", "--ablate"], ("fused", "times as long", "rewrites")),
    "seed_ideas": (["relu6", "--size", "8", "--channels", "16", "--seconds", "0"], ("fused by fuse_epilogue",)),
}
ELSEWHERE = {"train_digits"}
"""Run by test_digits.py."""


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SMALL) | ELSEWHERE


@pytest.mark.parametrize("name", SMALL)
def test_an_example_shows_what_it_promises(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, parts = SMALL[name]
    run(name, arguments, monkeypatch)
    out = capsys.readouterr().out
    for part in parts:
        assert part in out, out
    written = {word for word in arguments if word.endswith(".html")}
    assert {path.name for path in tmp_path.iterdir()} == written


def test_an_onnx_file_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import convc
    from convc.frontends.onnx import save_onnx

    b = convc.Builder("own", seed=1)
    save_onnx(b.finish({"y": b.relu(b.conv(b.input("x", (1, 3, 8, 8)), 4, kernel=3))}), tmp_path / "own.onnx")
    run("compile_onnx", [str(tmp_path / "own.onnx"), "--output", str(tmp_path / "own.convc")], monkeypatch)
    assert "y: float32[1, 4, 8, 8]" in capsys.readouterr().out
    assert len(convc.load(tmp_path / "own.convc").inputs) == 1


def test_the_seed_ideas_save_what_they_promise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the interpreter, which compiles no kernels. Where only the border's share is unknown, bounds are given."""
    small = ["--target", "reference", "--size", "12", "--channels", "16", "--seconds", "0", "--json"]
    run("seed_ideas", small, monkeypatch)
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 12

    def saved(idea: str, key: str = "macs") -> float:
        first, second = list(found[idea].values())[:2]
        return float(second[key] / first[key])

    assert saved("grouped") == pytest.approx(1 / 4)
    assert saved("shuffled") == pytest.approx(1 / 4)
    assert saved("depthwise_separable") == pytest.approx(1 / 16 + 1 / 9)
    assert saved("bottleneck") == pytest.approx((16 * 4 + 9 * 4 * 4 + 4 * 16) / (9 * 16 * 16))
    assert saved("separable") == pytest.approx(2 / 5)
    assert saved("stacked") == pytest.approx(18 / 25)
    assert saved("dilated") == pytest.approx(9 / 25)
    assert saved("transposed") == pytest.approx(4 / 9)
    assert saved("batchnorm") == saved("relu6") == saved("residual") == 1
    assert 1 < saved("squeeze_excite") < 1.01
    names = {
        "depthwise_separable": "separate_depthwise", "bottleneck": "bottleneck", "separable": "separate_kernels",
        "stacked": "stack_conv5x5",
    }  # fmt: skip
    for idea, name in names.items():
        planted = list(found[idea].values())[2]
        assert name in planted["passes"], idea
        assert planted["macs_after"] < 0.5 * planted["macs"] and planted["difference"] < 1e-5, idea
    for idea, name in {"batchnorm": "fuse_batchnorm", "residual": "fuse_epilogue"}.items():
        last = list(found[idea].values())[-1]
        assert name in last["passes"] and last["operators_after"] < last["operators"], idea
