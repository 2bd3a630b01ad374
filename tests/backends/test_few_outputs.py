"""Convolutions to few channels, whose kernel multiplies whole pixels and adds up across lanes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_support import TARGETS, check

import convc
from convc.frontends.builder import Builder
from convc.model import CompiledModel


def kernels(model: CompiledModel) -> list[str]:
    return [step.kernel for step in model.program.steps if step.family in {"conv", "winograd"}]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("out", [1, 2, 3])
@pytest.mark.parametrize(
    ("plane", "attrs"),
    [
        ((9, 23), {"kernel": 9}), ((12, 20), {"kernel": 1}), ((11, 17), {"kernel": 3, "stride": 2}),
        ((8, 40), {"kernel": 3, "dilation": 2}), ((6, 33), {"kernel": (1, 7)}),
    ],
)  # fmt: skip
def test_few_outputs(target: str, out: int, plane: tuple[int, int], attrs: dict[str, Any]) -> None:
    b = Builder("few", seed=out)
    y = b.relu(b.conv(b.input("x", (2, 3, *plane)), 32, kernel=3))
    z = b.conv(y, out, **attrs)
    model = check(b.finish([z, b.relu(z)]), target=target, passes="default", threads=3)
    lanes = max(buffer.lanes for buffer in model.program.buffers)
    assert any("_dot_" in name for name in kernels(model)) == (2 * out <= lanes)


def test_few_outputs_of_a_transposed_convolution_with_a_residual() -> None:
    b = Builder("few", seed=1)
    x = b.conv(b.input("x", (1, 3, 9, 13)), 64, kernel=1)
    y = b.conv_transpose(x, 3, kernel=4, stride=2, padding=1)
    r = b.input("r", (1, 3, 18, 26))
    model = check(b.finish(b.tanh(y + r)), passes="default")
    assert sum("_dot_" in name for name in kernels(model)) == 4


def test_lanes_without_a_channel_are_not_multiplied() -> None:
    """24 channels leave 8 lanes of 16 to whatever was there: infinity, after an exponential."""
    b = Builder("few", seed=1)
    x = b.input("x", (1, 3, 8, 20))
    y = b.exp(b.conv(x, 24, kernel=3))
    model = check(b.finish(b.conv(y, 2, kernel=5)), passes="default")
    lanes = max(buffer.lanes for buffer in model.program.buffers)
    assert any("_dot_" in name for name in kernels(model)) == (24 % lanes == 0)


def test_channels_that_are_read_twice() -> None:
    """Sixteen channels, of which eight lie where the others do, are not a vector."""
    b = Builder("few", seed=1)
    y = b.relu(b.conv(b.input("x", (1, 3, 9, 20)), 16, kernel=3))
    twice = b.gather(y, np.repeat(np.arange(8), 2), axis=1)
    check(b.finish([b.conv(twice, 2, kernel=5), b.conv(b.concat([twice, y], axis=1), 1, kernel=3)]), passes="default")


def test_bits_do_not_depend_on_threads_or_on_the_batch() -> None:
    b = Builder("few", seed=1)
    graph = b.finish(b.conv(b.relu(b.conv(b.input("x", ("N", 3, 21, 19)), 32, kernel=3)), 3, kernel=7))
    x = np.random.default_rng(0).standard_normal((3, 3, 21, 19)).astype(np.float32)
    one, seven = (convc.compile(graph, threads=threads) for threads in (1, 7))
    np.testing.assert_array_equal(one(x), seven(x))
    np.testing.assert_array_equal(one(x)[2], one(x[2:])[0])
