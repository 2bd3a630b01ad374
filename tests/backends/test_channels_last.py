"""Networks that turn maps to have channels last, normalise and multiply them, and turn them back."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_support import TARGETS, check

from convc.frontends.builder import Builder, Value
from convc.model import CompiledModel

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def families(model: CompiledModel) -> list[str]:
    return [step.family for step in model.program.steps]


def normed(b: Builder, x: Value, channels: int, axis: int = -1) -> Value:
    random = np.random.default_rng(channels)
    return b.op("layer_norm", [x, *(random.normal(size=channels).astype(np.float32) for _ in range(2))], axis=axis)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("channels", [5, 16, 40])
@pytest.mark.parametrize("plane", [(7, 7), (4, 19)])
def test_a_block_moves_nothing(target: str, channels: int, plane: tuple[int, int]) -> None:
    """ConvNeXt's: depthwise 7x7, norm, two linears, residual."""
    b = Builder("block", seed=channels)
    x = b.conv(b.input("x", ("N", 3, *plane)), channels, kernel=3)
    y = b.transpose(b.conv(x, channels, kernel=7, groups=channels), perm=LAST)
    y = b.linear(b.gelu(b.linear(normed(b, y, channels), 4 * channels)), channels)
    model = check(b.finish(x + b.transpose(y, perm=FIRST)), target=target, passes="default", threads=3, N=2)
    found = families(model)
    assert found.count("pack") == found.count("unpack") == found.count("norm_last") == 1
    assert "index_copy" not in found and "linear" not in found
    linears = [node.name for node in model.graph.nodes if node.op == "linear"]
    assert linears and all("_conv_" in str(model.explain(name)) for name in linears)


@pytest.mark.parametrize("channels", [5, 40])
def test_turned_values_are_there_for_everyone(channels: int) -> None:
    """As outputs, for elementwise operators, for norms over more axes, added to one another, and turned back."""
    b = Builder("block", seed=channels)
    x = b.conv(b.input("x", (2, 3, 6, 5)), channels, kernel=3)
    y = b.transpose(x, perm=LAST)
    whole = b.op("layer_norm", [y], axis=1)
    z = b.linear(normed(b, y, channels), channels)
    rows = b.linear(b.reshape(y, (60, channels)), channels)
    both = b.relu(z + b.reshape(rows, (2, 6, 5, channels)))
    ends = {"y": y, "whole": whole, "z": z, "both": both, "back": b.conv(b.transpose(z, perm=FIRST), 8, kernel=3)}
    ends["plain"] = b.transpose(b.sigmoid(y), perm=FIRST)
    for passes in ("none", "default"):
        check(b.finish(ends), passes=passes, threads=3)


def test_few_pixels_are_rows() -> None:
    """Too few for a convolution: what was turned is multiplied as a matrix."""
    b = Builder("few", seed=1)
    x = b.transpose(b.conv(b.input("x", (1, 3, 2, 2)), 24, kernel=1), perm=LAST)
    model = check(b.finish(b.linear(normed(b, b.linear(x, 24), 24), 10)), passes="default")
    assert families(model).count("linear") == 2


@pytest.mark.parametrize("channels", [3, 20])
def test_images_that_come_with_channels_last(channels: int) -> None:
    b = Builder("images", seed=1)
    x = b.transpose(b.input("x", (2, 9, 8, channels)), perm=FIRST)
    model = check(b.finish(b.transpose(b.conv(x, 24, kernel=3), perm=LAST)))
    assert ("index_copy" in families(model)) == (channels == 3)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("widths", [(24, 8), (5, 16, 3), (16, 16)])
def test_joined_maps(target: str, widths: tuple[int, ...]) -> None:
    """Maps that are joined leave lanes free amid their planes, which count nowhere."""
    b = Builder("joined", seed=sum(widths))
    x = b.input("x", (2, 3, 9, 8))
    joined = b.concat([b.conv(x, width, kernel=3) for width in widths])
    last = b.transpose(joined, perm=LAST)
    affine = [np.linspace(start, 2, sum(widths), dtype=np.float32) for start in (0.5, -1.0)]
    ends = {
        "norm": b.transpose(normed(b, last, sum(widths)), perm=FIRST), "softmax": b.softmax(joined, axis=1),
        "softmax_last": b.softmax(last, axis=3), "mean": b.op("reduce_mean", [joined], axes=(1,)),
        "length": b.op("reduce_l2", [last], axes=(3,), keepdims=False), "first": b.op("argmax", [joined], axis=1),
        "group": b.op("group_norm", [joined, *affine], groups=1), "instance": b.op("instance_norm", [joined, *affine]),
        "planes": b.op("layer_norm", [joined], axis=1), "linear": b.linear(last, 7),
        "pooled": b.linear(b.flatten(b.global_avg_pool(joined)), 5),
    }  # fmt: skip
    for passes in ("none", "default"):
        check(b.finish(ends), target=target, passes=passes, threads=3)
