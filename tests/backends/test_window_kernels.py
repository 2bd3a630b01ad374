"""Pools, resizes, normalisations, reductions and products against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_support import TARGETS, check

import convc
from convc.errors import TargetError
from convc.frontends.builder import Builder
from convc.types import DType

POOLS: list[dict[str, Any]] = [
    {"kernel": (2, 2), "stride": (2, 2)}, {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)},
    {"kernel": (3, 3), "stride": (2, 2), "ceil_mode": True}, {"kernel": (1, 1), "stride": (3, 2)},
    {"kernel": (3, 2), "stride": (1, 3), "padding": (2, 1, 0, 1)}, {"kernel": (7, 5), "padding": (3, 2, 3, 2)},
    {"kernel": (2, 3), "dilation": (3, 2), "padding": (3, 4, 3, 0)}, {"kernel": (7, 5)},
    {"kernel": (2, 2), "stride": (3, 3), "padding": (1, 1, 1, 1), "ceil_mode": True},
    {"kernel": (3, 3), "stride": (2, 2), "dilation": (2, 1), "padding": (0, 2, 4, 0), "ceil_mode": True},
    {"kernel": (3, 3), "stride": (3, 3), "padding": (2, 2, 2, 2), "ceil_mode": True},
    {"kernel": (1, 3), "padding": (0, 1, 0, 1)}, {"kernel": (3, 1), "stride": (2, 1)}, {"kernel": (4, 4)},
    {"kernel": (5, 5), "stride": (1, 2), "padding": (2, 2, 2, 2)},
    {"kernel": (13, 5), "stride": (1, 2), "padding": (6, 2, 6, 2)},
    {"kernel": (3, 17), "padding": (1, 8, 1, 8)},
]  # fmt: skip
TARGET = [TARGETS[0], *(pytest.param(target, marks=pytest.mark.slow) for target in TARGETS[1:])]


@pytest.mark.parametrize("window", POOLS, ids=str)
@pytest.mark.parametrize("target", TARGET)
def test_pools(target: str, window: dict[str, Any]) -> None:
    b = Builder("pools", seed=1)
    x = b.input("x", ("N", 19, "H", "W"), nominal={"H": 13, "W": 7})
    y = b.conv(x, 19, kernel=3)
    ends = [b.max_pool2d(y, **window), b.max_pool2d(x, **window)]
    ends += [b.avg_pool2d(y, count_include_pad=padded, **window) for padded in (False, True)]
    graph = b.finish(ends)
    for images, height, width in ((3, 7, 5), (1, 8, 24), (2, 13, 7)):
        if all(_fits(window, axis, size) for axis, size in enumerate((height, width))):
            check(graph, target=target, N=images, H=height, W=width)


def _fits(window: dict[str, Any], axis: int, size: int) -> bool:
    """Whether one window at least lies within the padding."""
    reach = (window["kernel"][axis] - 1) * window.get("dilation", (1, 1))[axis] + 1
    padding = window.get("padding", (0, 0, 0, 0))
    return bool(size + padding[axis] + padding[axis + 2] >= reach)


@pytest.mark.parametrize("window", POOLS, ids=str)
def test_what_is_not_finite_reaches_every_window_that_it_lies_in_and_no_other(window: dict[str, Any]) -> None:
    b = Builder("pools", seed=1)
    x = b.input("x", ("N", 16, "H", "W"), nominal={"H": 13, "W": 14})
    means = (b.avg_pool2d(x, count_include_pad=padded, **window) for padded in (False, True))
    graph = b.finish([b.max_pool2d(x, **window), *means])
    rng = np.random.default_rng(2)
    for share in (0.02, 0.3):
        values = rng.standard_normal((4, 16, 13, 14)).astype(np.float32)
        for special in (np.nan, np.inf, -np.inf):
            values[rng.random(values.shape) < share] = special
        with np.errstate(invalid="ignore"):
            check(graph, {"x": values})


def test_pools_of_negative_numbers_do_not_see_the_padding() -> None:
    b = Builder("pools")
    x = b.input("x", (1, 3, 4, 4))
    ends = [b.max_pool2d(x, kernel=(3, 3), padding=(1, 1, 1, 1)), b.conv(x, 3, kernel=3), b.global_max_pool(x)]
    check(b.finish(ends), {"x": -1 - np.random.default_rng(1).random((1, 3, 4, 4), np.float32)})


@pytest.mark.parametrize("plane", [(1, 1), (1, 7), (9, 1), (5, 6)])
def test_whole_planes(plane: tuple[int, int]) -> None:
    b = Builder("planes", seed=1)
    x = b.input("x", (3, 5, *plane))
    y = b.conv(x, 33, kernel=1)
    ends = [op(v) for v in (x, y) for op in (b.global_avg_pool, b.global_max_pool)]
    ends += [b.op(op, [y], axes=axes, keepdims=keep) for op in ("reduce_mean", "reduce_max") for keep in (True, False)
             for axes in ((2, 3), (-1, -2))]  # fmt: skip
    check(b.finish(ends))


MODES = [
    *(("nearest", c, {"nearest": n}) for c in ("asymmetric", "half_pixel", "align_corners", "tf_half_pixel_for_nn")
      for n in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
    *(("linear", c, {})
      for c in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric")),
    ("linear", "half_pixel", {"antialias": True}), ("linear", "half_pixel", {"exclude_outside": True}),
    ("cubic", "half_pixel", {}), ("cubic", "align_corners", {"cubic_a": -0.5}),
    ("cubic", "asymmetric", {"exclude_outside": True}), ("cubic", "half_pixel", {"antialias": True}),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "coordinates", "attrs"), MODES)
def test_resizes(mode: str, coordinates: str, attrs: dict[str, Any]) -> None:
    """To larger, smaller and equal planes, from and to a single pixel."""
    b = Builder("resizes", seed=1)
    y = b.conv(b.input("x", (2, 3, 5, 7)), 17, kernel=1)
    one = b.global_avg_pool(y)
    ends = []
    for value, plane in ((y, (10, 14)), (y, (3, 4)), (y, (5, 21)), (y, (1, 1)), (one, (2, 3)), (y, (8, 5))):
        size = (2, 17, *plane)
        scales = tuple(new / float(str(old)) for new, old in zip(size, value.shape, strict=True))
        ends.append(b.resize(value, size=size, scales=scales, mode=mode, coordinates=coordinates, **attrs))
    check(b.finish(ends), tolerance=1e-5)


def test_nearest_over_any_axes() -> None:
    b = Builder("nearest")
    x, i = b.input("x", (2, 3, 4)), b.input("i", (1, 2, 3, 4), "i64")
    ends = [
        b.resize(x, size=(3, 6, 2), scales=(1.5, 2.0, 0.5)),
        b.resize(i, size=(2, 2, 6, 8), scales=(2.0, 1.0, 2.0, 2.0)),
    ]
    check(b.finish(ends))


def test_linear_over_other_axes_is_refused_by_name() -> None:
    b = Builder("volume")
    graph = b.finish(
        b.resize(b.input("x", (2, 3, 4)), size=(2, 3, 8), scales=(1.0, 1.0, 2.0), mode="linear", name="up")
    )
    with pytest.raises(TargetError, match="resize %up.*Hint: use mode nearest"):
        convc.compile(graph, passes="none")


AXES = {1: (5,), 2: (3, 19), 3: (2, 7, 5), 4: (2, 19, 3, 4), 5: (2, 3, 2, 3, 17)}


@pytest.mark.parametrize("rank", AXES)
def test_softmax_over_every_axis(rank: int) -> None:
    b = Builder("softmax", seed=1)
    x = b.input("x", AXES[rank])
    large = x * 40.0
    values = [large, b.conv(x, 19, kernel=1) * 10.0] if rank == 4 else [large]
    check(
        b.finish(
            [op(v, axis=axis) for v in values for op in (b.softmax, b.log_softmax) for axis in range(-1, rank - 1)]
        )
    )


@pytest.mark.parametrize("target", TARGET)
def test_softmax_of_what_is_not_finite(target: str) -> None:
    """A row is NaN where one element is, or where the largest is infinite; -inf has no share."""
    b = Builder("softmax")
    x = b.input("x", (5, 37))
    graph = b.finish([op(x, axis=axis) for op in (b.softmax, b.log_softmax) for axis in (0, 1)])
    values = 30 * np.random.default_rng(1).standard_normal((5, 37)).astype(np.float32)
    values[0, 36], values[1, 3], values[2] = np.nan, np.inf, -np.inf
    values[3, ::2] = -np.inf
    with np.errstate(invalid="ignore"):
        check(graph, {"x": values}, target=target)
    row = convc.compile(graph, target=target, threads=1)(values)[1][3]
    assert (row[::2] == 0).all() and (row[1::2] > 0).any()


REDUCTIONS = ["reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod", "reduce_l2"]


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions(op: str) -> None:
    """Over one axis, over runs of axes, over axes that are apart, over none and over all."""
    b = Builder("reductions", seed=1)
    x = b.input("x", (3, 5, 2, 19))
    y = b.conv(b.input("y", (3, 4, 2, 5)), 7, kernel=1)
    if op == "reduce_prod":  # a product of many numbers leaves the range of float32
        x, y = x * 0.1 + 1.0, y * 0.1 + 1.0
    picks = [(0,), (1,), (3,), (-1, 0), (1, 2), (2, 3), (0, 2), (1, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3), ()]
    ends = [b.op(op, [v], axes=axes, keepdims=keep) for v in (x, y) for axes in picks for keep in (True, False)]
    ends.append(b.op(op, [b.input("v", (40,))], axes=(0,), keepdims=False))
    check(b.finish(ends))


@pytest.mark.parametrize("kind", ["f32", "i64", "u8"])
@pytest.mark.parametrize("last", [False, True])
def test_argmax(kind: str, last: bool) -> None:
    b = Builder("argmax")
    x = b.input("x", (3, 6, 5), kind)
    values = np.random.default_rng(1).integers(0, 3, (3, 6, 5)).astype(DType(kind).numpy)  # ties
    if kind == "f32":
        values[0, 2, 1] = values[0, 4, 1] = values[1, 0, 0] = np.nan
    ends = [b.argmax(x, axis=axis, keepdims=keep, last=last) for axis in (0, 1, 2, -2) for keep in (True, False)]
    check(b.finish(ends), {"x": values})


@pytest.mark.parametrize("axis", [-1, 1, 2, 0])
def test_layer_norm(axis: int) -> None:
    b = Builder("norm", seed=1)
    shape = (3, 5, 19)
    x = b.input("x", shape) * 3.0 + 5.0
    random = np.random.default_rng(1)
    gamma, beta = (random.normal(size=shape[axis:]).astype(np.float32) for _ in range(2))
    ends = [b.layer_norm(x, gamma, beta, axis=axis), b.layer_norm(x, gamma, axis=axis), b.layer_norm(x, axis=axis)]
    ends += [b.op("layer_norm", [x, None, beta], axis=axis), b.layer_norm(x, np.float32([2.0]), axis=axis, epsilon=0.5)]
    ends += [b.layer_norm(x, random.normal(size=(5, 1)).astype(np.float32), axis=axis)]
    check(b.finish(ends))


@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 6, 3, 5), (1, 6, 2, 2, 3), (2, 6)], ids=str)
def test_norms_by_channel(shape: tuple[int, ...]) -> None:
    b = Builder("norm", seed=1)
    x = b.input("x", shape)
    gamma, beta = np.linspace(1, 2, 6, dtype=np.float32), np.linspace(-1, 1, 6, dtype=np.float32)
    ends = [b.group_norm(x, gamma, beta, groups=groups) for groups in ((1, 2, 3, 6) if len(shape) > 2 else (1, 2, 3))]
    ends += [b.instance_norm(x, gamma, beta)] if len(shape) > 2 else []
    ends += [b.group_norm(b.conv(x, 6, kernel=1), gamma, beta, groups=2)] if len(shape) == 4 else []
    check(b.finish(ends))


def test_norms_of_numbers_far_from_zero() -> None:
    b = Builder("norm")
    x = b.input("x", (2, 4, 50))
    given = (1000 + np.random.default_rng(1).normal(size=(2, 4, 50))).astype(np.float32)
    check(b.finish([b.layer_norm(x), b.instance_norm(x, np.ones(4, np.float32), np.zeros(4, np.float32))]),
          {"x": given}, tolerance=1e-4)  # fmt: skip


def test_lrn() -> None:
    b = Builder("lrn", seed=1)
    x = b.input("x", (2, 7, 3, 5)) * 20.0
    ends = [b.lrn(x, size=5), b.lrn(x, size=4, alpha=0.1, beta=0.75, bias=2.0), b.lrn(x, size=1, alpha=0.1, beta=0.5)]
    ends += [b.lrn(x, size=20, alpha=0.1, beta=1.3), b.lrn(b.input("v", (3, 6)), size=3, alpha=1.0)]
    check(b.finish(ends))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((3, 4), (4, 5)), ((1, 1), (1, 1)), ((5, 19), (19, 33)), ((9, 3), (3, 16)), ((2, 3, 4), (4, 5)), ((4,), (4,)),
        ((2, 5, 3, 4), (5, 4, 6)), ((2, 1, 3, 4), (5, 4, 6)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (3, 4, 5)),
        ((3, 2, 4), (4,)), ((0, 3, 4), (4, 5)), ((1, 2, 3), (0, 3, 2)),
    ],
)  # fmt: skip
def test_products(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    b = Builder("products", seed=1)
    x, y = b.input("x", left), b.input("y", right)
    check(b.finish([b.matmul(x, y), b.matmul(x, np.ones(right, np.float32))]))


def test_products_of_planes() -> None:
    b = Builder("products", seed=1)
    y = b.conv(b.input("x", (2, 3, 4, 4)), 5, kernel=3)
    check(b.finish([b.matmul(y, y), b.matmul(b.softmax(y), b.transpose(y, perm=(0, 1, 3, 2)))]))


@pytest.mark.parametrize("target", [TARGETS[0], *(pytest.param(t, marks=pytest.mark.slow) for t in TARGETS[1:])])
def test_nan_and_infinity_pass(target: str) -> None:
    """Through windows, sums, products and comparisons: where the interpreter has them, and nowhere else."""
    given = np.random.default_rng(1).normal(size=(2, 19, 6, 7)).astype(np.float32)
    given[0, 3, 2, 2], given[1, 18, 0, 0], given[1, 4, 5, 6] = np.nan, np.inf, -np.inf
    b = Builder("special", seed=1)
    x = b.input("x", given.shape)
    w = np.random.default_rng(2).normal(size=(5, 19, 3, 3)).astype(np.float32)
    # 3x2: Winograd's 3x3 carries them through a tile, see test_winograd.py
    ends = [b.conv2d(x, w[..., 1:]), b.conv2d(x, w, padding=(1, 1, 1, 1), stride=(2, 2))]
    ends += [b.conv(x, 19, kernel=3, groups=19)]
    w = w.copy()
    w[2, 1, 1, 1], w[3, 0, 0, 2] = np.inf, np.nan
    ends += [b.conv2d(x, w), b.max_pool2d(x, kernel=(2, 2), padding=(1, 0, 0, 1)), b.avg_pool2d(x, kernel=(3, 3))]
    ends += [b.global_avg_pool(x), b.global_max_pool(ends[0]), b.relu(ends[0]), b.clip(ends[0], min=-1.0, max=1.0)]
    ends += [b.softmax(x), b.softmax(x, axis=1), b.layer_norm(x), b.argmax(x, axis=1)]
    ends += [b.op(op, [x], axes=axes) for op in ("reduce_max", "reduce_min", "reduce_sum") for axes in ((1,), (2, 3))]
    ends += [
        b.linear(b.flatten(ends[4]), 3),
        b.conv_transpose(x, 3, kernel=2, stride=2),
        b.matmul(x, np.ones((7, 3), np.float32)),
    ]
    check(b.finish(ends), {"x": given}, target=target)
