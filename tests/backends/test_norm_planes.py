"""Instance and group normalisation where channels lie in lanes."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_support import TARGETS, check

import convc
from convc.frontends.builder import Builder
from convc.interp import run_graph
from convc.ir.graph import Graph


def normed(shape: tuple[int | str, ...], channels: int, groups: int | None) -> Graph:
    """A convolution, its normalisation, and a convolution that wants a halo."""
    b = Builder("norms", seed=4)
    y = b.conv(b.input("x", shape), channels, kernel=3)
    random = np.random.default_rng(1)
    gamma, beta = (random.normal(size=channels).astype(np.float32) for _ in range(2))
    z = b.op("instance_norm", [y, gamma, beta]) if groups is None else b.op(
        "group_norm", [y, gamma, beta], groups=groups
    )  # fmt: skip
    return b.finish({"norm": z, "next": b.conv(b.relu(z), 8, kernel=3)})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("plane", [(1, 1), (5, 3), (16, 17)])
@pytest.mark.parametrize(("channels", "groups"), [(19, None), (32, None), (64, 32), (32, 8), (48, 1), (96, 6), (24, 8)])
def test_norms(target: str, channels: int, groups: int | None, plane: tuple[int, int]) -> None:
    graph = normed(("N", 3, *plane), channels, groups)
    model = check(graph, target=target, passes="default", threads=3, N=2, tolerance=2e-5)
    lanes = max(buffer.lanes for buffer in model.program.buffers)
    size = 1 if groups is None else channels // groups
    families = {step.family for step in model.program.steps}
    assert ("norm_planes" in families) == (lanes % size == 0 or size % lanes == 0)
    assert ("norm" in families) != ("norm_planes" in families)


def test_means_far_from_zero_leave_the_variance_right() -> None:
    b = Builder("norms", seed=4)
    x = b.input("x", (1, 16, 64, 64))
    y = b.op("instance_norm", [b.relu(x), np.ones(16, np.float32), np.zeros(16, np.float32)])
    given = 1000 + np.random.default_rng(0).normal(size=(1, 16, 64, 64)).astype(np.float32)
    check(b.finish(b.conv(y, 16, kernel=1)), {"x": given}, tolerance=2e-4)


def test_bits_do_not_depend_on_threads_or_on_the_batch() -> None:
    graph = normed(("N", 3, 16, 17), 64, 16)
    x = np.random.default_rng(0).standard_normal((3, 3, 16, 17)).astype(np.float32)
    one, seven = (convc.compile(graph, threads=threads) for threads in (1, 7))
    found, alone = one.run({"x": x}), one.run({"x": x[2:]})
    for name, values in seven.run({"x": x}).items():
        np.testing.assert_array_equal(found[name], values)
        np.testing.assert_array_equal(found[name][2], alone[name][0])
    expected = run_graph(graph, {"x": x}, dtype="float64")["norm"]
    np.testing.assert_allclose(found["norm"], expected, atol=1e-4)
