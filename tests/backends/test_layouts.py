"""Operators that move elements, and programs in which values share, join and overwrite planes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_support import check

import convc
from convc.errors import TargetError
from convc.frontends.builder import Builder, Value
from convc.types import DType

RANKS = {1: (5,), 2: (3, 17), 3: (2, 3, 5), 4: (2, 5, 3, 4), 5: (2, 3, 1, 2, 3), 6: (2, 1, 3, 2, 3, 2)}


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("kind", ["f32", "i64", "bool"])
def test_copies_of_every_rank(rank: int, kind: str) -> None:
    """Transpose, slice, concat, expand, gather and pad along every axis."""
    b = Builder("copies", seed=1)
    shape = RANKS[rank]
    x = b.input("x", shape, kind)
    ends = [b.transpose(x, perm=perm) for perm in (tuple(reversed(range(rank))), (*range(1, rank), 0))]
    for axis, size in enumerate(shape):
        ends += [b.concat([x, x], axis=axis), b.slice(x, axis=axis, start=size - 1, stop=-1, step=-1)]
        ends += [b.slice(x, axis=axis, start=size // 2, stop=size), b.slice(x, axis=axis, start=0, stop=size, step=2)]
        ends += [b.gather(x, np.array([0, -1, size - 1, 0]), axis=axis), b.gather(x, np.array(size // 2), axis=axis)]
        edges = [0] * rank
        edges[axis] = 2
        ends.append(b.pad(x, before=edges, after=[0] * rank, value=1.0))
    ends.append(b.expand(x, shape=(4, *shape)))
    check(b.finish([b.identity(v) for v in ends]))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pads(mode: str) -> None:
    b = Builder("pads", seed=1)
    x = b.input("x", (2, 3, 5, 4))
    y = b.conv(x, 7, kernel=1)
    edges: list[Any] = [((0, 0, 1, 2), (0, 0, 3, 1)), ((1, 2, 0, 0), (0, 1, 0, 0)), ((0, 0, -1, 1), (0, 0, 2, -2))]
    ends = [b.pad(v, before=before, after=after, mode=mode) for v in (x, y) for before, after in edges]
    border = (0, 0, 1, 0)
    ends += [b.pad(x, before=border, after=border, value=value) for value in (-1.5, float("inf"), float("nan"))]
    check(b.finish(ends))


def test_gathers_at_computed_places() -> None:
    b = Builder("gathers", seed=1)
    x, i, j = b.input("x", (4, 3, 5)), b.input("i", (2, 3), "i64"), b.input("j", (), "i32")
    ends = [b.gather(x, i, axis=axis) for axis in (0, 1, 2)] + [b.gather(x, j, axis=axis) for axis in (0, 1, 2)]
    ends += [b.gather(x, np.array([[0, 1], [2, -1]]), axis=0), b.gather(b.argmax(x, axis=2), i, axis=0)]
    given = {"x": np.random.default_rng(1).normal(size=(4, 3, 5)).astype(np.float32)}
    check(b.finish(ends), {**given, "i": np.array([[0, -1, 2], [1, 1, -3]]), "j": np.array(-2, np.int32)})


def test_indices_out_of_range_are_refused_by_name() -> None:
    b = Builder("gathers")
    graph = b.finish(b.gather(b.input("x", (4, 3)), np.array([0, 4]), name="pick"))
    with pytest.raises(TargetError, match="gather %pick: indices reach beyond axis 0"):
        convc.compile(graph, passes="none")


@pytest.mark.parametrize("block", [1, 2, 3])
def test_depth_and_space(block: int) -> None:
    b = Builder("depth", seed=1)
    x = b.input("x", (2, 36, 6, 12))
    y = b.conv(x, 36, kernel=1)
    ends = [b.depth_to_space(v, block=block, mode=mode) for v in (x, y) for mode in ("DCR", "CRD")]
    check(b.finish([*ends, b.space_to_depth(x, block=block), b.space_to_depth(y, block=block)]))


def test_reshapes() -> None:
    b = Builder("reshapes", seed=1)
    x = b.input("x", (2, 6, 4, 3))
    y = b.conv(x, 6, kernel=1)
    pooled = b.global_avg_pool(y)
    flat = b.reshape(pooled, (2, 6))
    shapes: list[tuple[int, ...]] = [(2, 72), (2, 6, 12), (144,), (2, 6, 3, 4), (1, 2, 6, 4, 3)]
    ends = [b.reshape(v, shape) for v in (x, y) for shape in shapes]
    ends += [b.reshape(pooled, shape) for shape in ((2, 6), (12,), (2, 6, 1), (2, 1, 6, 1), (2, 6, 1, 1))]
    ends += [b.reshape(flat, (2, 6, 1, 1)) * y, b.linear(flat, 3), b.relu(flat)]
    ends.append(b.reshape(b.reshape(flat, (1, 12)), (2, 6)))
    check(b.finish(ends))


def test_whatever_reads_an_input_that_a_convolution_packs_narrowly() -> None:
    b = Builder("narrow", seed=1)
    x = b.input("x", (2, 3, 7, 6))
    y = b.conv(x, 3, kernel=3)
    ends = [y + x, x * y, b.max_pool2d(x, kernel=(2, 2)), b.concat([x, y]), b.conv(x, 3, kernel=3, groups=3), b.relu(x)]
    ends += [
        b.global_avg_pool(x),
        b.batch_norm(x),
        b.conv(x, 5, kernel=1),
        b.flatten(x),
        b.channel_shuffle(x, groups=3),
    ]
    ends += [b.conv_transpose(x, 2, kernel=2, stride=2), b.conv2d(y, np.ones((3, 3, 1, 1), np.float32), None, x)]
    ends += [b.slice(x, axis=1, start=1, stop=3), b.resize(x, size=(2, 3, 14, 12), scales=(1.0, 1.0, 2.0, 2.0))]
    check(b.finish(ends))


CHANNELS = [1, 3, 16, 17, 31, 5]


@pytest.mark.parametrize("first", CHANNELS)
@pytest.mark.parametrize("second", [2, 16, 29])
def test_joins_that_others_read(first: int, second: int) -> None:
    """Convolutions, pools, products, sums and outputs over planes of several buffers."""
    b = Builder("joins", seed=1)
    x = b.input("x", (2, 4, 5, 6))
    total = first + second
    one, other = b.conv(x, first, kernel=1), b.conv(x, second, kernel=3)
    joined = b.concat([one, other])
    ends = [b.conv(joined, 7, kernel=3), b.conv(joined, total, kernel=3, groups=total)]
    ends += [
        b.max_pool2d(joined, kernel=(2, 2)),
        b.batch_norm(joined),
        joined * b.conv(x, total, kernel=1),
        b.conv(x, total, kernel=1) - joined,
    ]
    ends += [b.softmax(joined, axis=1), joined, b.linear(b.flatten(joined), 3), b.concat([other, joined, one])]
    gate = b.sigmoid(b.conv(b.global_avg_pool(joined), total, kernel=1))
    ends += [joined * gate, joined * np.linspace(0, 1, total, dtype=np.float32).reshape(-1, 1, 1)]
    check(b.finish(ends))


@pytest.mark.parametrize("kind", ["twice", "around", "part twice"])
def test_a_value_joined_with_itself_and_with_its_parts(kind: str) -> None:
    b = Builder("joined", seed=1)
    x = b.input("x", (2, 3, 5, 5))
    y = b.conv(x, 18, kernel=1)
    part = b.slice(y, axis=1, start=3, stop=12)
    joined = b.concat({"twice": [y, y], "around": [part, y, part], "part twice": [part, part]}[kind])
    count = 18 if kind == "part twice" else 36
    ends = [b.batch_norm(joined), b.conv(joined, count, kernel=3, groups=count), b.conv(joined, 4, kernel=1), joined]
    ends += [b.channel_shuffle(joined, groups=3), joined * np.arange(count, dtype=np.float32)[:, None, None]]
    ends += [b.conv(b.gather(joined, np.array([0, 0, count - 1]), axis=1), 3, kernel=1, groups=3)]
    ends += [b.conv2d(x, np.ones((count, 3, 1, 1), np.float32), None, joined)]
    check(b.finish(ends))


def shuffled_block(b: Builder, x: Value, channels: int) -> Value:
    """Split, a branch with a depthwise convolution on one half, join, shuffle."""
    half = channels // 2
    left, right = b.slice(x, axis=1, start=0, stop=half), b.slice(x, axis=1, start=half, stop=channels)
    right = b.relu(b.conv(right, half, kernel=1))
    right = b.conv(b.conv(right, half, kernel=3, groups=half), half, kernel=1)
    return b.channel_shuffle(b.concat([left, right]), groups=2)


@pytest.mark.parametrize("channels", [6, 20, 32, 58])
@pytest.mark.parametrize("passes", ["none", "default"])
def test_shuffled_blocks(channels: int, passes: str) -> None:
    b = Builder("shuffled", seed=1)
    y = b.conv(b.input("x", (2, 3, 6, 6)), channels, kernel=1)
    first = shuffled_block(b, y, channels)
    second = shuffled_block(b, first, channels)
    third = shuffled_block(b, second, channels)
    depthwise = b.conv(third, channels, kernel=3, groups=channels)
    ends = [second + y, first * third + second, depthwise + first, b.conv(third, 5, kernel=3), third]
    backwards = b.slice(third, axis=1, start=channels - 1, stop=-1, step=-1)
    ends.append(b.conv(backwards, channels, kernel=1, groups=2))
    check(b.finish(ends), passes=passes)


@pytest.mark.parametrize("passes", ["none", "default"])
def test_residuals(passes: str) -> None:
    """Read again later, an input, an output, broadcast, of another layout, chained, of itself."""
    b = Builder("residuals", seed=1)
    x = b.input("x", (2, 18, 5, 6))
    y = b.relu(b.conv(x, 18, kernel=1))
    again = b.conv(y, 18, kernel=3) + y
    given = b.relu(b.conv(y, 18, kernel=1) + x)
    chain = again
    for _ in range(3):
        chain = b.relu(b.conv(chain, 18, kernel=3) + chain)
    itself = b.conv(chain, 18, kernel=1)
    doubled = itself + itself
    pooled = b.global_avg_pool(chain)
    wide = b.conv(chain, 18, kernel=1) + pooled
    moved = b.conv(chain, 18, kernel=1) + b.channel_shuffle(chain, groups=3)
    both = b.conv(doubled, 18, kernel=1) + b.conv(wide, 18, kernel=1)
    thrice = b.conv(both, 18, kernel=1) + both + y
    check(b.finish([given, again, chain, doubled, wide, moved, thrice, y]), passes=passes, tolerance=2e-5)


def test_residuals_in_place_spare_what_is_read_again() -> None:
    """Sums over one residual: each but the last must leave it as it is."""
    b = Builder("in_place", seed=1)
    x = b.input("x", (1, 18, 4, 4))
    y = b.relu(b.conv(x, 18, kernel=1))
    w = [np.random.default_rng(i).normal(size=(18, 18, 1, 1)).astype(np.float32) / 4 for i in range(4)]
    one = b.conv2d(x, w[0], None, y)
    two = b.conv2d(y, w[1], None, one)
    three = b.conv2d(one, w[2], None, two)
    four = b.conv2d(three, w[3], None, three)
    shared = b.concat([four, y])
    model = check(b.finish([b.conv(shared, 4, kernel=3), b.relu(one)]))
    assert any(step.params.get("in_place") for step in model.program.steps)


def test_outputs() -> None:
    """Also intermediate, twice the same, an input, a constant, and views of each of these."""
    b = Builder("outputs", seed=1)
    x = b.input("x", (2, 3, 4, 4))
    y = b.conv(x, 5, kernel=3)
    z = b.relu(y)
    fixed = b.constant(np.arange(6, dtype=np.int64).reshape(2, 3), "fixed")
    flat = b.flatten(z)
    ends = {"y": y, "z": z, "again": y, "x": x, "x_again": x, "fixed": fixed, "fixed_again": fixed, "flat": flat}
    ends |= {"view": b.reshape(x, (2, 48)), "row": b.reshape(fixed, (6,)), "same": b.identity(z), "kept": b.dropout(x)}
    ends |= {"part": b.slice(y, axis=1, start=1, stop=4), "joined": b.concat([y, z]), "scores": b.linear(flat, 3)}
    graph = b.finish(ends)
    model = check(graph)
    given = np.ones((2, 3, 4, 4), np.float32)
    outputs = dict(zip(ends, model(given), strict=True))
    for name, array in outputs.items():
        assert array.flags.writeable and array.flags.c_contiguous
        others = [given, *(other for key, other in outputs.items() if key != name)]
        assert not any(np.shares_memory(array, other) for other in others), name


def test_a_network_without_operators() -> None:
    b = Builder("nothing")
    x = b.input("x", (3,))
    check(b.finish({"x": x}))
    b = Builder("constant")
    check(b.finish({"c": b.constant(np.float32(2.5))}), {})


@pytest.mark.parametrize("batch", [0, 1, 4])
def test_any_batch(batch: int) -> None:
    b = Builder("batch", seed=1)
    x = b.input("x", ("N", 3, 8, 8))
    y = b.max_pool2d(b.relu(b.conv(x, 18, kernel=3)), kernel=(2, 2), stride=(2, 2))
    y = b.conv(y, 18, kernel=3, groups=18) + y
    flat = b.linear(b.flatten(y), 7)
    ends = [flat, b.softmax(flat), b.concat([y, y]), b.argmax(flat, axis=1), b.global_avg_pool(y)]
    check(b.finish([*ends, b.sigmoid(y)]), N=batch)


def test_sizes_are_chosen_at_each_call() -> None:
    b = Builder("sizes", seed=1)
    x = b.input("x", ("N", 3, "H", "W"), nominal={"N": 1, "H": 9, "W": 7})
    y = b.relu(b.conv(x, 18, kernel=3, stride=2))
    y = b.concat([y, b.max_pool2d(y, kernel=(3, 3), padding=(1, 1, 1, 1))])
    y = b.conv_transpose(b.conv(y, 18, kernel=1), 5, kernel=2, stride=2)
    z = b.softmax(b.avg_pool2d(y, kernel=(3, 3), stride=(2, 2), ceil_mode=True), axis=1)
    scores = b.linear(b.reshape(b.global_avg_pool(z), ("N", 5)), 2)
    graph = b.finish([z, scores, b.reduce_mean(z, axes=(0, 2)), b.transpose(z, perm=(0, 2, 3, 1))])
    for sizes in ((1, 9, 7), (3, 8, 8), (2, 5, 31), (1, 3, 3)):
        check(graph, **dict(zip("NHW", sizes, strict=True)))


def test_integers_flow_through() -> None:
    b = Builder("integers", seed=1)
    x = b.input("x", (2, 4, 5), "u8")
    y = b.cast(x, to=DType.F32) * (1 / 255)
    ends = [y, b.concat([x, x], axis=2), b.cast(b.round(y * 255.0), to=DType.U8), b.argmax(x, axis=1)]
    given = np.random.default_rng(1).integers(0, 256, (2, 4, 5)).astype(np.uint8)
    check(b.finish(ends), {"x": given})
