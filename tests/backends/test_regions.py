"""Convolutions whose taps reach beyond the image, cut into regions that read the same taps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cpu_support import TARGETS, check

import convc
from convc.backends.binding import SCRATCH, Binding
from convc.backends.cpu.lower import ARGUMENTS
from convc.backends.cpu.regions import Run, runs_of
from convc.frontends.builder import Builder
from convc.ir.graph import Graph
from convc.limits import Limits
from convc.types import Array


def test_runs_read_the_same_taps() -> None:
    assert runs_of(5, 5, 3, 1, 1, 1) == [Run(0, 1, (1, 2)), Run(1, 3, (0, 1, 2)), Run(4, 1, (0, 1))]
    assert runs_of(4, 4, 3, 1, 6, 6) == [Run(0, 4, (1,))]
    assert runs_of(4, 8, 1, 1, 1, 2) == [Run(0, 2, ()), Run(2, 4, (0,)), Run(6, 2, ())]
    for size, count, taps, stride, dilation, before in [(16, 16, 3, 1, 12, 12), (9, 5, 5, 2, 3, 6), (3, 7, 7, 1, 1, 5)]:
        runs = runs_of(size, count, taps, stride, dilation, before)
        assert [run.start for run in runs] == np.cumsum([0, *(run.count for run in runs[:-1])]).tolist()
        for run in runs:
            for at in range(run.start, run.start + run.count):
                inside = [t for t in range(taps) if 0 <= at * stride - before + t * dilation < size]
                assert tuple(inside) == run.taps


def weights_of(channels: int, out: int, kernel: int) -> Array:
    random = np.random.default_rng(0)
    return (random.standard_normal((channels, out, kernel, kernel)) / kernel / np.sqrt(channels)).astype(np.float32)


def dilated(shape: tuple[Any, ...], channels: int, out: int, **attrs: Any) -> Graph:
    b = Builder("dilated", seed=2)
    y = b.relu(b.conv(b.input("x", shape), channels, kernel=1))
    z = b.conv(y, out, **attrs)
    return b.finish(b.relu(z + b.conv(y, out, kernel=1)) if z.shape == (*y.shape[:1], out, *y.shape[2:]) else z)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("plane", "channels", "out", "attrs", "most"),
    [
        ((16, 16), 64, 40, {"kernel": 3, "dilation": 12, "padding": 12}, 9),
        ((16, 13), 64, 40, {"kernel": 3, "dilation": 24, "padding": 24}, 1),
        ((12, 40), 64, 40, {"kernel": 3, "dilation": (10, 1), "padding": (10, 1, 10, 1)}, 9),
        ((2, 2), 128, 64, {"kernel": 5, "padding": 2}, 4),
        ((16, 16), 48, 48, {"kernel": 3, "dilation": 12, "padding": 12, "groups": 48}, 9),
        ((17, 17), 64, 32, {"kernel": 3, "dilation": 14, "padding": 14, "stride": 2}, 9),
        ((8, 8), 256, 96, {"kernel": 1, "padding": 6}, 9),
    ],
)  # fmt: skip
def test_regions(
    target: str, plane: tuple[int, int], channels: int, out: int, attrs: dict[str, Any], most: int
) -> None:
    graph = dilated(("N", 3, *plane), channels, out, **attrs)
    model = check(graph, target=target, passes="default", threads=2, N=2)
    named = [node.name for node in model.graph.nodes if node.op == "conv2d" and any(node.attrs["padding"])]
    steps = [step for step in model.program.steps if step.node in named and step.family == "conv"]
    assert 1 <= len(steps) <= most
    assert not [step for step in model.program.steps if step.family == "clear_halo"]


def test_sizes_that_are_not_known_are_computed_whole() -> None:
    graph = dilated((1, 3, "H", "W"), 32, 24, kernel=3, dilation=12, padding=12)
    model = check(graph, passes="default", H=16, W=16)
    assert [step for step in model.program.steps if step.family == "clear_halo"]


def test_infinite_inputs_reach_what_reads_them_alone() -> None:
    graph = dilated((1, 3, 16, 16), 64, 40, kernel=3, dilation=12, padding=12)
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    model = convc.compile(graph)
    clean = model(x)
    x[0, :, 15, 15] = np.nan
    touched = np.isnan(model(x)).any((0, 1))
    assert touched[15, 15] and touched[3, 3] and touched.sum() == 4
    np.testing.assert_array_equal(model(x)[..., ~touched], clean[..., ~touched])


@pytest.mark.parametrize("transposed", [False, True], ids=["regions", "phases"])
def test_steps_that_run_together_have_scratch_memory_of_their_own(transposed: bool) -> None:
    """One thread may be a region ahead of another: sums of one and of the other must not lie in one place."""
    b = Builder("together", seed=0)
    x = b.input("x", (1, 640, 14, 14))
    if transposed:
        y = b.conv_transpose2d(b.relu(x), weights_of(640, 96, 3), stride=2, padding=1)
    else:
        y = b.conv(b.relu(x), 96, kernel=3, dilation=12, padding=12)
    model = convc.compile(b.finish(y), target="cpu:portable", threads=3)
    program = model.program
    bound = Binding(program, {}, ARGUMENTS, Limits(), 3)
    ends = [*bound.starts[1:], len(bound.words)]
    together: list[tuple[int, int]] = []
    most = 0
    for step, start, end in zip(program.steps, bound.starts, ends, strict=True):
        (at,) = np.flatnonzero(bound.kinds[start:end] == SCRATCH) if step.family in {"conv", "winograd"} else (None,)
        if at is not None:
            first, every = bound.words[start + at : start + at + 2]
            assert first + 3 * every <= bound.scratch_bytes
            together.append((int(first), int(first + 3 * every)))
        most = max(most, len(together))
        assert all(a[1] <= b[0] for a, b in pairwise(sorted(together)))
        together = together if step.joins else []
    assert most >= 4
    x0 = np.random.default_rng(0).standard_normal((1, 640, 14, 14)).astype(np.float32)
    alone = convc.compile(model.graph, target="cpu:portable", threads=1, passes="none")
    np.testing.assert_array_equal(model(x0), alone(x0))
