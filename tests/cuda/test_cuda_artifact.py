"""The target without a GPU: what it says, artifacts for several architectures, the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import convc
from convc.backends.cuda import compile as compiling
from convc.cli.main import main
from convc.errors import InputError, TargetError
from convc.frontends.builder import Builder
from convc.ir.graph import Graph

needs_extra = pytest.mark.skipif(
    compiling.missing() != "", reason=f"the cuda extra is not installed: {compiling.missing()} is missing"
)


def tiny() -> Graph:
    b = Builder("tiny", seed=1)
    return b.finish(b.conv(b.input("x", ("N", 4, 5, 5)), 8, kernel=1))


def has_gpu() -> bool:
    from convc.backends.cuda.driver import this_device

    try:
        this_device()
    except TargetError:
        return False
    return True


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_a_machine_without_a_driver_is_told_what_is_missing() -> None:
    with pytest.raises(TargetError) as caught:
        convc.compile(tiny(), target="cuda")
    message = str(caught.value)
    assert "\n" not in message and "cuda" in message and ("driver" in message or "cuda-bindings" in message)


def test_unknown_architectures_are_refused() -> None:
    with pytest.raises(TargetError, match=r"sm_12.*use one of .*sm_90a"):
        convc.compile(tiny(), target="cuda:sm_12")


@needs_extra
def test_an_artifact_carries_machine_code_for_several_architectures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = convc.compile(tiny(), target="cuda:sm_80,sm_90a", precision="float16")
    assert model.program.target == "cuda:sm_80"
    assert "float16" in model.records[-1].rewrites[0].note
    path = tmp_path / "tiny.convc"
    model.save(path)

    def never(*args: Any, **more: Any) -> None:
        raise AssertionError("a kernel is compiled")

    monkeypatch.setattr(compiling, "compile_kernel", never)
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setattr("convc.backends.cuda.build.require", never)
    found = convc.load(path, trust_code=True)
    assert found.options.precision == "float16"
    assert set(found.sources) == set(model.sources)
    for name, array in model.program.packed.items():
        assert array.tobytes() == found.program.packed[name].tobytes()
    other = convc.load(path, trust_code=True)
    from convc.backends.cuda.target import CudaTarget

    built = CudaTarget("sm_90a", "float16").build(other.graph, other.options.limits, objects=other.runnable.objects)  # type: ignore[attr-defined]
    assert built.program.target == "cuda:sm_90a"
    with pytest.raises(AssertionError, match="a kernel is compiled"):
        convc.load(path)


@needs_extra
def test_kernels_are_shown_down_to_the_machine_code(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "tiny.txt"
    path.write_text(str(_relu()))
    words = [str(path), "--target", "cuda:sm_90a", "--precision", "float16"]
    assert main(["inspect", "kernels", *words, "--json"]) == 0
    (kernel, *_) = json.loads(capsys.readouterr().out)
    assert kernel["registers"] > 0 and kernel["spilled"] == 0 and "shared" in kernel
    assert main(["inspect", "kernels", *words, "--source", kernel["name"], "--ptx", kernel["name"]]) == 0
    shown = capsys.readouterr().out
    assert f"def {kernel['name']}" in shown and ".target sm_90a" in shown
    assert main(["inspect", "kernels", *words, "--llvm", kernel["name"]]) != 0


def _relu() -> Graph:
    b = Builder("tiny", seed=1)
    return b.finish(b.relu(b.max_pool2d(b.input("x", (1, 4, 5, 5)), kernel=(2, 2))))


def test_the_command_line_refuses_a_precision_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "zoo:digits", "--precision", "float16", "-o", "x.convc"]) != 0
    assert "--target cuda" in capsys.readouterr().err


def test_device_arrays_need_the_target() -> None:
    model = convc.compile(tiny(), target="reference")
    with pytest.raises(TargetError, match="runs on no GPU"):
        model.run_on_device([None])
    with pytest.raises(InputError):
        model("text")
