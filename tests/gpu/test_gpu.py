"""On a GPU: every network of the zoo in every precision, poisoned memory, arrays on the device, the sanitizer.

Skipped where there is none, with the reason; nothing here passes without a GPU.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest

import convc
from convc.errors import TargetError
from convc.interp import run_graph
from convc.model import CompiledModel
from convc.types import Array
from convc.zoo import ZOO

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
STRICT = 1e-4
"""Of the largest output, in float32."""
TIMES = 4.0
"""By how much the error of a lower precision may exceed the estimate in the model's record, made on another input."""
UNKNOWN = 0.2
"""Of the largest output, where a network is too large for an estimate."""
SANITIZED = ("digits", "mobilenet_v2", "shufflenet_v1", "dcgan")


def _gpu() -> str:
    """Why there is no GPU to test on; nothing where there is one."""
    try:
        from convc.backends.cuda.driver import this_device

        this_device()
    except TargetError as error:
        return str(error)
    return ""


LACKING = _gpu()
pytestmark = pytest.mark.skipif(LACKING != "", reason=f"no GPU: {LACKING}")


@cache
def reference(network: str) -> tuple[Array, Array]:
    """An input of batch 2 at the nominal size, and the first output in float64."""
    graph = convc.zoo.build(network, batch=2)
    (port,) = graph.inputs
    x = np.random.default_rng(0).normal(size=port.type.concrete(graph.nominal)).astype(np.float32)
    (y, *_) = run_graph(graph, {port.name: x.astype(np.float64)}, dtype="float64").values()
    return x, y


@pytest.mark.parametrize("network", ZOO)
def test_networks_in_every_precision(network: str) -> None:
    x, want = reference(network)
    scale = np.abs(want).max()
    wrong = []
    for precision in PRECISIONS:
        model = convc.compile(f"zoo:{network}", target="cuda", precision=precision)
        tolerance = STRICT if precision == "float32" else allowed(model)
        model.runnable.poison = True  # type: ignore[attr-defined]
        found, again = (np.asarray(_first(model(x))) for _ in range(2))
        error = float(np.abs(found - want).max() / scale)
        print(f"{network} {precision}: error {error:.2e} of the largest output")
        if not error <= tolerance:
            wrong.append(f"{precision}: {error:.2e}")
        if found.tobytes() != again.tobytes():
            wrong.append(f"{precision}: two runs differ")
    assert not wrong, wrong


def allowed(model: CompiledModel) -> float:
    """What the record of the precision allows."""
    stated = [r.certificate["output_error"] for r in model.records[-1].rewrites]
    return TIMES * stated[0] if stated else UNKNOWN


def _first(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple) else outputs


def test_other_sizes_take_no_compilation() -> None:
    model = convc.compile("zoo:mobilenet_v2", target="cuda")
    x, want = reference("mobilenet_v2")
    whole = _first(model(x))
    for index in range(2):
        one = _first(model(x[index : index + 1]))
        assert np.abs(one - want[index : index + 1]).max() <= 1e-4 * np.abs(want).max()
    assert np.abs(whole - want).max() <= 1e-4 * np.abs(want).max()


def test_tensors_of_pytorch_without_copies() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    model = convc.compile("zoo:resnet18", target="cuda")
    x, want = reference("resnet18")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        given = torch.from_numpy(x).cuda()
        (found,) = model.run_on_device([given], stream=stream.cuda_stream)
        y = torch.as_tensor(found, device="cuda")
    stream.synchronize()
    assert np.abs(y.cpu().numpy() - want).max() <= 1e-4 * np.abs(want).max()


def test_no_compiler_is_imported_where_cubins_are_kept() -> None:
    code = (
        "import sys, numpy as np, convc; convc.compile('zoo:digits', target='cuda')(np.zeros((1, 1, 28, 28), 'f'));"
        "print([m for m in ('numba', 'llvmlite') if m in sys.modules])"
    )
    port = convc.zoo.build("digits").inputs[0]
    code = code.replace("(1, 1, 28, 28)", str(port.type.concrete(convc.zoo.build("digits").nominal)))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_the_sanitizer_finds_nothing(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    code = (
        "import numpy as np, convc\n"
        f"for network in {SANITIZED!r}:\n"
        "    for precision in ('float32', 'float16'):\n"
        "        model = convc.compile('zoo:' + network, target='cuda', precision=precision)\n"
        "        g = model.graph; t = g.inputs[0].type\n"
        "        model(np.ones(t.concrete(g.nominal), 'f'))\n"
    )
    done = subprocess.run(
        [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
