"""conv2d, conv_transpose2d and linear against float64: shapes that fit no vector, groups, borders, epilogues."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_support import check

from convc.frontends.builder import Builder, Value
from convc.ir.graph import Graph
from convc.types import Activation


def conv(shape: tuple[int, ...], channels: int, **attrs: Any) -> Graph:
    """One convolution of an input."""
    b = Builder("conv", seed=3)
    return b.finish(b.conv(b.input("x", shape), channels, **attrs))


def transposed(shape: tuple[int, ...], channels: int, **attrs: Any) -> Graph:
    """One transposed convolution of an input."""
    b = Builder("transposed", seed=3)
    return b.finish(b.conv_transpose(b.input("x", shape), channels, **attrs))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 3, 5, 17, 31, 58])
@pytest.mark.parametrize("out", [1, 17, 58])
def test_ragged_channels(batch: int, channels: int, out: int) -> None:
    check(conv((batch, channels, 7, 5), out, kernel=3))
    check(conv((batch, channels, 7, 5), out, kernel=1))


@pytest.mark.parametrize(
    ("plane", "attrs"),
    [
        ((1, 1), {"kernel": 1}),
        ((1, 1), {"kernel": 3}),
        ((1, 9), {"kernel": (1, 3)}),
        ((9, 1), {"kernel": (3, 1)}),
        ((13, 14), {"kernel": 3, "stride": 2}),
        ((13, 14), {"kernel": 3, "stride": 3, "padding": 0}),
        ((13, 14), {"kernel": 2, "stride": (2, 1), "padding": (0, 1, 1, 0)}),
        ((13, 14), {"kernel": 1, "stride": 2}),
        ((13, 14), {"kernel": 1, "stride": 3, "padding": (1, 2, 0, 1)}),
        ((13, 14), {"kernel": 1, "padding": (1, 0, 2, 3)}),
        ((13, 14), {"kernel": 3, "dilation": 2}),
        ((13, 14), {"kernel": 3, "dilation": (1, 3), "padding": (0, 3, 2, 3)}),
        ((13, 14), {"kernel": 3, "dilation": (3, 2), "stride": 2, "padding": (3, 0, 1, 5)}),
        ((9, 9), {"kernel": (1, 7)}),
        ((9, 9), {"kernel": (7, 1)}),
        ((9, 9), {"kernel": (2, 3), "padding": (1, 0, 0, 2)}),
        ((9, 9), {"kernel": 5, "padding": (4, 1, 2, 3)}),
        ((9, 9), {"kernel": 3, "padding": (0, 0, 5, 7)}),
        ((3, 2), {"kernel": 7, "padding": 3}),
        ((3, 2), {"kernel": 5, "padding": (4, 4, 4, 4), "stride": 2}),
        ((2, 3), {"kernel": 3, "dilation": 4, "padding": 5}),
        ((4, 4), {"kernel": 4, "padding": 0}),
        ((40, 40), {"kernel": 16, "stride": 16, "padding": 0}),
        ((1, 33), {"kernel": 1, "stride": (5, 4)}),
    ],
)
def test_windows(plane: tuple[int, int], attrs: dict[str, Any]) -> None:
    """On a narrow input, which is packed channel by channel, and on one in planes; both plain and grouped."""
    b = Builder("windows", seed=4)
    x = b.input("x", (2, 3, *plane))
    y = b.relu(b.conv(x, 20, kernel=1))
    b.conv(y, 20, groups=20, name="depthwise", **attrs)
    ends = [b.conv(x, 20, name="narrow", **attrs), b.conv(y, 20, name="wide", **attrs)]
    depthwise = b.conv(y, 20, groups=20, **attrs)
    check(b.finish([*ends, depthwise, b.conv(y, 20, groups=5, **attrs)]))


@pytest.mark.parametrize(
    ("channels", "out", "groups"),
    [
        (2, 2, 2), (6, 4, 2), (6, 9, 3), (3, 3, 3), (5, 5, 5), (17, 17, 17), (58, 58, 58), (5, 10, 5), (17, 51, 17),
        (16, 32, 16), (6, 3, 3), (128, 128, 32), (64, 128, 32), (128, 64, 32), (40, 20, 10), (34, 34, 2), (62, 93, 31),
        (48, 96, 3), (16, 8, 8), (21, 28, 7), (32, 32, 8), (33, 66, 11),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ahead", ["input", "conv", "shuffled", "sliced"])
def test_groups(channels: int, out: int, groups: int, ahead: str) -> None:
    b = Builder("groups", seed=5)
    if ahead == "input":
        x = b.input("x", (2, channels, 6, 5))
    else:
        x = b.input("x", (2, 9, 6, 5))
        wide = b.conv(x, channels + 3 * (ahead == "sliced"), kernel=1)
        x = wide if ahead == "conv" else b.channel_shuffle(wide, groups=groups) if ahead == "shuffled" else wide
        if ahead == "sliced":
            x = b.slice(wide, axis=1, start=2, stop=channels + 2)
    check(b.finish(b.conv(x, out, kernel=3, groups=groups)))


@pytest.mark.parametrize(
    ("plane", "attrs"),
    [
        ((4, 5), {"kernel": 2, "stride": 2}),
        ((4, 5), {"kernel": 3, "stride": 2, "padding": 1, "output_padding": 1}),
        ((4, 5), {"kernel": 4, "stride": 2, "padding": 1}),
        ((4, 5), {"kernel": 3, "stride": 1, "padding": 1}),
        ((4, 5), {"kernel": 3, "stride": 1}),
        ((4, 5), {"kernel": 2, "stride": 3}),
        ((4, 5), {"kernel": 1, "stride": 4}),
        ((4, 5), {"kernel": 1, "stride": 2, "output_padding": 1}),
        ((4, 5), {"kernel": (5, 3), "stride": (4, 1), "padding": (2, 0, 1, 2), "output_padding": (3, 0)}),
        ((4, 5), {"kernel": 3, "stride": 2, "dilation": 2, "output_padding": (1, 0)}),
        ((4, 5), {"kernel": (2, 3), "stride": (1, 3), "dilation": (3, 1), "padding": (2, 1, 0, 3)}),
        ((4, 5), {"kernel": 3, "stride": 2, "padding": (0, 2, 2, 0)}),
        ((1, 1), {"kernel": 4, "stride": 1}),
        ((1, 1), {"kernel": 3, "stride": 3, "padding": (1, 0, 1, 2)}),
        ((2, 1), {"kernel": 2, "stride": 2, "output_padding": (1, 0), "padding": (3, 0, 0, 0)}),
        ((5, 4), {"kernel": 6, "stride": 2, "padding": 5}),
    ],
)
@pytest.mark.parametrize(("channels", "out", "groups"), [(5, 3, 1), (17, 34, 1), (6, 4, 2), (5, 5, 5), (34, 17, 17)])
def test_transposed(plane: tuple[int, int], attrs: dict[str, Any], channels: int, out: int, groups: int) -> None:
    check(transposed((2, channels, *plane), out, groups=groups, **attrs))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 18])
def test_transposed_with_residuals(stride: int, groups: int) -> None:
    b = Builder("transposed", seed=2)
    x = b.conv(b.input("x", (2, 18, 4, 5)), 18, kernel=1)
    w = np.random.default_rng(1).normal(size=(18, 18 // groups, 3, 3)).astype(np.float32)
    plane = (3 * stride + 3, 4 * stride + 3)
    residual = b.input("r", (2, 18, *plane))
    attrs = {"stride": (stride, stride), "groups": groups, "activation": Activation("relu")}
    y = b.op("conv_transpose2d", [x, w, None, residual], **attrs)
    check(b.finish([y, b.op("conv_transpose2d", [x, w, np.ones(18, np.float32), y], **attrs)]))


@pytest.mark.parametrize("start", [1, 9, 15, 16, 17])
@pytest.mark.parametrize("count", [1, 3, 17])
def test_depthwise_on_a_slice_that_starts_within_a_vector(start: int, count: int) -> None:
    b = Builder("slice", seed=2)
    y = b.conv(b.input("x", (1, 3, 5, 4)), 34, kernel=1)
    part = b.slice(y, axis=1, start=start, stop=start + count)
    ends = [b.conv(part, count * times, kernel=3, groups=count) for times in (1, 2)]
    check(b.finish([*ends, b.conv(part, 5, kernel=3)]))


def test_transposed_at_other_sizes() -> None:
    b = Builder("transposed", seed=1)
    x = b.input("x", ("N", 5, "H", "W"), nominal={"N": 1, "H": 3, "W": 4})
    y = b.conv_transpose(x, 18, kernel=3, stride=2, padding=1, output_padding=1)
    graph = b.finish(b.conv_transpose(b.conv(y, 5, kernel=3, stride=2), 3, kernel=(4, 3), stride=(2, 3), dilation=2))
    for sizes in ((1, 3, 4), (2, 1, 1), (1, 8, 7), (3, 2, 9)):
        check(graph, **dict(zip("NHW", sizes, strict=True)))


ACTIVATIONS = [Activation("relu"), Activation("clip", (-0.5, 0.75)), Activation("silu"), Activation("gelu", (1.0,))]
OTHERS = [
    Activation("leaky_relu", (0.2,)), Activation("hard_swish"), Activation("gelu"), Activation("sigmoid"),
    Activation("hard_sigmoid", (0.3, 0.4)), Activation("elu", (1.5,)), Activation("tanh"), Activation("mish"),
    Activation("selu", (1.6, 1.05)), Activation("abs"), Activation("neg"), Activation("celu", (0.5,)),
    Activation("softplus"), Activation("softsign"), Activation("erf"), Activation("exp"), Activation("sin"),
    Activation("floor"), Activation("sign"),
]  # fmt: skip


@pytest.mark.parametrize(
    "activation", [*ACTIVATIONS, *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)], ids=str
)
def test_epilogues(activation: Activation) -> None:
    """Bias, residual and activation, on dense and on depthwise convolutions and on linears."""
    b = Builder("epilogues", seed=6)
    x = b.input("x", (2, 19, 4, 6))
    w = b.constant(np.random.default_rng(1).normal(size=(19, 19, 1, 1)).astype(np.float32) / 4)
    bias = b.constant(np.linspace(-1, 1, 19, dtype=np.float32))
    y = b.conv2d(x, w, bias, None, activation=activation)

    def behind(value: Value) -> Value:  # exp of exp would leave the range of float32
        return b.tanh(value) if activation.name == "exp" else value

    z = b.conv2d(behind(y), w, None, x, activation=activation)
    taps = b.constant(np.random.default_rng(2).normal(size=(19, 1, 3, 3)).astype(np.float32))
    d = b.conv2d(behind(z), taps, bias, behind(y), activation=activation, groups=19, padding=(1, 1, 1, 1))
    flat = b.flatten(b.global_avg_pool(behind(d)))
    square = b.constant(np.random.default_rng(1).normal(size=(19, 19)).astype(np.float32))
    linear = b.op("linear", [flat, square, bias, flat], activation=activation)
    back = b.op("conv_transpose2d", [behind(d), w, bias, behind(d)], activation=activation)
    check(b.finish([z, d, linear, back]), tolerance=2e-5)


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_linears(batch: int) -> None:
    """On inputs, on pooled planes, on flattened planes, one after the other, and with one output."""
    b = Builder("linears", seed=7)
    x = b.input("x", (batch, 21, 3, 5))
    y = b.conv(x, 21, kernel=3)
    flat = b.linear(b.flatten(y), 33)
    pooled = b.linear(b.reshape(b.global_avg_pool(y), (batch, 21)), 33)
    given = b.linear(b.input("v", (batch, 7)), 33)
    total = flat + pooled + given
    check(b.finish([total, b.linear(b.linear(total, 18), 1), b.linear(b.flatten(x), 10)]))


@pytest.mark.parametrize("shape", [(6,), (1, 6), (3, 5, 6), (2, 3, 5, 6), (2, 0, 6)])
def test_linears_of_any_rank(shape: tuple[int, ...]) -> None:
    b = Builder("linears", seed=8)
    x = b.input("x", shape)
    w = np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)
    y = b.op("linear", [x, w, None, x], activation=Activation("relu"), name="y")
    check(b.finish([y, b.linear(y, 7), x * b.linear(y, 6, name="y.rows")]))


def test_flattened_planes_that_others_read_too() -> None:
    b = Builder("flattened", seed=9)
    y = b.conv(b.input("x", (2, 3, 4, 4)), 18, kernel=3)
    flat = b.flatten(y)
    both = [b.linear(flat, 5), b.linear(flat, 6)]
    other = b.flatten(b.relu(y))
    check(b.finish([*both, flat, b.linear(other, 5), b.softmax(other)]))


def test_a_large_stride_does_not_read_beyond_the_arena() -> None:
    check(conv((1, 20, 1, 2000), 4, kernel=1, stride=(1, 400)))
    check(conv((1, 20, 4, 900), 4, kernel=(4, 300), stride=(4, 300), padding=0))


def test_a_residual_with_a_halo_where_images_lie_side_by_side() -> None:
    """On 1x1 maps a tile's pixels are images: the outputs' follow each other, the residual's, with its halo, do not."""
    b = Builder("side", seed=1)
    x = b.input("x", (29, 32, 1, 1))
    r = b.relu(b.conv(x, 32, kernel=1))
    y = b.add(b.conv(x, 32, kernel=1, bias=False), r)
    check(b.finish([b.conv(y, 8, kernel=1), b.conv_transpose(r, 8, kernel=3, stride=2)]), passes="default")
