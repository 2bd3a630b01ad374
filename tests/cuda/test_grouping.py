"""Small groups computed together: block-diagonal weights, the same answer, no copies of narrow groups."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_support import PRECISIONS, check_lockstep

from convc import Builder
from convc.backends.cuda.grouping import merged
from convc.ir.graph import Graph


def network(groups: int, channels: int, outputs: int) -> Graph:
    b = Builder("groups", seed=1)
    x = b.relu(b.conv(b.input("x", ("N", 3, 6, 5)), channels, kernel=1))
    return b.finish({"y": b.conv(b.relu(b.conv(x, outputs, kernel=3, padding=1, groups=groups)), 5, kernel=1)})


@pytest.mark.parametrize(
    ("groups", "outputs", "channels", "left"), [(32, 4, 4, 4), (6, 8, 4, 2), (3, 40, 8, 3), (7, 2, 2, 1)]
)
def test_as_many_groups_as_a_tile_has_room_for(groups: int, outputs: int, channels: int, left: int) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((groups * outputs, channels, 1, 1))
    whole, now = merged(w, groups)
    assert now == left and whole.shape == (groups * outputs, channels * groups // left, 1, 1)
    x = rng.standard_normal(groups * channels)
    want = np.einsum("goc,gc->go", w.reshape(groups, outputs, channels), x.reshape(groups, channels)).reshape(-1)
    got = np.einsum("goc,gc->go", whole.reshape(now, -1, whole.shape[1]), x.reshape(now, -1)).reshape(-1)
    np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_narrow_groups_need_no_copy(precision: str) -> None:
    program = check_lockstep(network(8, 32, 32), precision=precision, passes="default", N=2)
    assert {step.family for step in program.steps} == {"pack", "conv", "unpack"}


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_groups_of_odd_sizes(precision: str) -> None:
    check_lockstep(network(5, 15, 35), precision=precision, passes="default", N=1)
