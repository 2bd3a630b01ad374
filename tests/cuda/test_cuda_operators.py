"""The operators of the CPU's own tests, every case of them, executed for CUDA in lock step and held against float64."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_support import PRECISIONS, TOLERANCE, check_lockstep

from convc.errors import TargetError
from convc.frontends.builder import Builder
from convc.ops import OPS
from convc.ops.unary import ACTIVATIONS

SUITES = (
    "test_elementwise_kernels", "test_window_kernels", "test_layouts", "test_conv_kernels", "test_prologue",
    "test_computed",
)  # fmt: skip
ABOUT_THE_CPU = {
    "test_outputs", "test_residuals_in_place_spare_what_is_read_again", "test_special_values_pass",
    "test_indices_out_of_range_are_refused_by_name", "test_a_large_stride_does_not_read_beyond_the_arena",
}  # fmt: skip
"""Cases that look at the CPU's program, or compile for it by name."""
LONG = {"test_transposed_with_residuals", "test_joins_that_others_read", "test_transposed"}
"""Cases that lock step takes more than 2 s for."""


def _suite(name: str) -> dict[str, Callable[..., None]]:
    """The tests of a module of the CPU's, with `check` in lock step."""
    path = Path(__file__).parent.parent / "backends" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"cuda_{name}", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.check = _check
    return {
        f"{key}_{name.removeprefix('test_')}": pytest.mark.slow(value) if key in LONG else value
        for key, value in vars(module).items()
        if key.startswith("test_") and key not in ABOUT_THE_CPU and "check" in value.__code__.co_names
    }


def _check(graph: Any, inputs: Any = None, *, target: str = "cpu", threads: int = 1, **more: Any) -> None:
    check_lockstep(graph, inputs, **more)


for _name in SUITES:
    globals().update(_suite(_name))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_ragged_channels_in_every_storage(precision: str) -> None:
    """Channels that fill no 16 bytes through every kernel on planes, their last lanes zero for whoever reads them."""
    b = Builder("ragged", seed=3)
    x = b.input("x", (2, 5, 9, 7))
    gate = b.sigmoid(b.conv(b.global_avg_pool(x), 5, kernel=1))
    y = b.mul(b.exp(x), gate)
    y = b.concat([y, b.max_pool2d(x, kernel=(3, 3), padding=(1, 1, 1, 1)), b.batch_norm(x)])
    up = b.resize(y, size=(2, 15, 18, 14), scales=(1.0, 1.0, 2.0, 2.0), mode="linear")
    down = b.avg_pool2d(up, kernel=(2, 2), stride=(2, 2))
    z = b.conv(b.add(down, y), 11, kernel=3, padding=1)
    z = b.conv(b.channel_shuffle(b.conv(z, 12, kernel=1), groups=3), 9, kernel=1, groups=3)
    graph = b.finish([z, b.global_max_pool(b.conv_transpose(z, 6, kernel=3, stride=2, groups=3))])
    check_lockstep(graph, precision=precision, tolerance=2 * TOLERANCE[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [op.name for op in ACTIVATIONS])
def test_every_activation_on_planes(name: str, precision: str) -> None:
    b = Builder("activation", seed=1)
    x = b.input("x", (1, 3, 4, 5))
    graph = b.finish(b.op(name, [b.identity(b.max_pool2d(x, kernel=(1, 1)))]))
    values = np.concatenate([np.linspace(-6, 6, 58), [0.0, -0.0]]).astype(np.float32)
    if name in {"log", "sqrt"}:
        values = np.abs(values) + 0.01
    values = values[(values != 0) | (name not in {"reciprocal"})] if name == "reciprocal" else values
    given = np.resize(values, (1, 3, 4, 5)).astype(np.float32)
    loss = 2 * TOLERANCE[precision] if precision != "float32" else 2e-6
    if name in {"floor", "ceil", "round", "sign"} and precision != "float32":
        given = np.rint(given * 4) / np.float32(4)
    if name == "reciprocal":
        given = np.where(np.abs(given) < 0.25, np.float32(0.25), given)
    check_lockstep(graph, {"x": given}, precision=precision, tolerance=loss)


def test_every_operator_of_the_cpu_has_a_lowering() -> None:
    from convc.backends.cpu.lower import LOWER as ON_CPU
    from convc.backends.cuda.lower import LAUNCHES, LOWER

    assert set(ON_CPU) <= set(LOWER)
    assert set(LOWER) <= set(OPS)
    assert LAUNCHES


def test_what_has_no_kernel_is_refused_by_name() -> None:
    b = Builder("refused", seed=0)
    x = b.input("x", (2, 3), "f64")
    with pytest.raises(TargetError, match=r"%exp.*no kernel.*target='reference'"):
        check_lockstep(b.finish(b.exp(x)))
