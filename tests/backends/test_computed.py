"""Operators whose weights the network computes: compiled, against the interpreter in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_support import TARGETS, check
from support import random_inputs

from convc.backends.computed import computed_weights
from convc.frontends.builder import Builder, Value
from convc.interp import run_graph
from convc.types import Activation


def computed(b: Builder, *shape: int, name: str) -> Value:
    """What depends on an input of this shape."""
    return b.tanh(b.input(name, shape))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("attrs", "kernel", "groups"),
    [
        ({}, (1, 1), 1),
        ({"padding": (1, 1, 1, 1)}, (3, 3), 1),
        ({"padding": (2, 0, 1, 3), "stride": (2, 3), "dilation": (1, 2)}, (3, 2), 2),
        ({"stride": (2, 2)}, (1, 1), 3),
        ({"padding": (1, 1, 1, 1)}, (3, 3), 6),
    ],
)
def test_conv2d(target: str, attrs: dict[str, Any], kernel: tuple[int, int], groups: int) -> None:
    b = Builder("computed", seed=1)
    x = b.conv(b.input("x", (2, 3, 9, 8)), 6, kernel=3)
    w = computed(b, 12, 6 // groups, *kernel, name="w")
    relu = Activation("relu")
    y = b.op("conv2d", [x, w, computed(b, 12, name="b")], groups=groups, activation=relu, **attrs)
    check(b.finish(b.op("conv2d", [x, w], groups=groups, **attrs) + y), target=target, threads=3)


def test_what_is_ahead_of_a_convolution_and_behind_it() -> None:
    b = Builder("computed", seed=1)
    x = b.input("x", (2, 5, 7, 6))
    scale, shift = (computed(b, 5, name=name) for name in ("scale", "shift"))
    attrs = {"padding": (1, 1, 1, 1), "prologue": Activation("relu"), "activation": Activation("leaky_relu", (0.1,))}
    w, residual = computed(b, 4, 5, 3, 3, name="w"), computed(b, 2, 4, 7, 6, name="r")
    known = np.random.default_rng(0).normal(size=(4, 5, 3, 3)).astype(np.float32)
    ends = {
        "all": b.op("conv2d", [x, w, computed(b, 4, name="b"), residual, scale, shift], **attrs),
        "ahead": b.op("conv2d", [x, known, None, None, scale, shift], **attrs),
    }
    check(b.finish(ends))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("known", [False, True])
def test_conv_transpose2d(target: str, groups: int, known: bool) -> None:
    b = Builder("computed", seed=1)
    x = b.conv(b.input("x", (2, 3, 5, 6)), 6, kernel=3)
    random = np.random.default_rng(0).normal(size=(6, 4 // groups, 3, 4)).astype(np.float32)
    w = random if known else computed(b, 6, 4 // groups, 3, 4, name="w")
    y = b.op(
        "conv_transpose2d", [x, w, computed(b, 4, name="b")], stride=(2, 3), padding=(1, 0, 0, 2), dilation=(2, 1),
        output_padding=(1, 2), groups=groups, activation=Activation("sigmoid"),
    )  # fmt: skip
    check(b.finish(y), target=target, threads=3)


def test_any_size() -> None:
    """Windows are cut out of maps whose sizes are known later."""
    b = Builder("computed", seed=1)
    x = b.input("x", ("N", 3, "H", "W"), nominal={"H": 9, "W": 8})
    y = b.op("conv2d", [x, computed(b, 4, 3, 3, 3, name="w")], padding=(1, 1, 1, 1), stride=(2, 2))
    for sizes in ({"N": 1, "H": 9, "W": 8}, {"N": 2, "H": 6, "W": 11}):
        check(b.finish(y), **sizes)


def test_linear_and_batch_norm() -> None:
    b = Builder("computed", seed=1)
    x = b.input("x", (3, 5))
    y = b.op("linear", [x, computed(b, 4, 5, name="w"), computed(b, 4, name="b")], activation=Activation("relu"))
    z = b.op("linear", [b.input("z", (2, 3, 5)), np.ones((4, 5), np.float32), computed(b, 4, name="zb")])
    image = b.input("image", (2, 4, 6, 5))
    statistics = [computed(b, 4, name=name) for name in ("gamma", "beta", "mean")]
    spread = b.sigmoid(b.input("var", (4,)))
    ends = {"y": y, "z": z, "image": b.op("batch_norm", [image, *statistics, spread], epsilon=1e-2)}
    ends["rows"] = b.op("batch_norm", [b.input("rows", (3, 4)), *statistics, spread], epsilon=1e-2)
    check(b.finish(ends), threads=3)


def test_what_is_made_has_the_network_s_element_type() -> None:
    b = Builder("half", seed=1)
    x, w, v = (b.input(name, shape, "f16") for name, shape in (("x", (1, 6, 5, 6)), ("w", (6, 4, 3, 3)), ("v", (6,))))
    spread = b.sigmoid(v)
    ends = [b.op("conv_transpose2d", [x, w], stride=(2, 2)), b.op("batch_norm", [x, spread, spread, spread, spread])]
    graph = b.finish(ends)
    apart = computed_weights(graph)
    assert not any(node.op == "batch_norm" for node in apart.nodes)
    inputs = random_inputs(graph, 0)
    for found, want in zip(run_graph(apart, inputs).values(), run_graph(graph, inputs).values(), strict=True):
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, want, rtol=0, atol=4e-3 * float(np.abs(want).max()))
