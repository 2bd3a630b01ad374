"""Prologues that the kernel of a 1x1 convolution applies to a panel of its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_support import TARGETS, check
from support import random_inputs

import convc
from convc.backends.cpu import conv_ahead
from convc.backends.cpu.cost import CpuCost
from convc.backends.cpu.isa import ISAS
from convc.frontends.builder import Builder
from convc.ir.graph import Graph, Node
from convc.types import Activation

RELU = Activation("relu")


def vector(b: Builder, count: int, seed: int) -> Node:
    return b.constant(np.random.default_rng(seed).standard_normal(count).astype(np.float32))


def mapped(b: Builder, x: Node, out: int, prologue: Activation | None = RELU, kernel: int = 1, **attrs: Any) -> Any:
    """A convolution with scale, shift and an activation ahead."""
    channels = int(str(x.type.shape[1]))
    each = channels // attrs.get("groups", 1)
    w = np.random.default_rng(out).standard_normal((out, each, kernel, kernel)) / np.sqrt(each * kernel * kernel)
    inputs = [x, b.constant(w.astype(np.float32)), vector(b, out, 1), attrs.pop("residual", None)]
    return b.op("conv2d", [*inputs, vector(b, channels, 2), vector(b, channels, 3)], prologue=prologue, **attrs)


def kernels(model: convc.CompiledModel) -> list[str]:
    return [step.kernel for step in model.program.steps if "after" in step.kernel]


def dense(height: int, width: int, first: int = 24, prologue: Activation | None = RELU) -> Graph:
    """Two of DenseNet's layers: a 1x1 over all channels so far, a 3x3, and the concatenation."""
    b = Builder("dense", seed=1)
    x = b.relu(b.conv(b.input("x", ("N", 3, height, width)), first, kernel=3, padding=1))
    for grown in (20, 12):
        y = b.relu(mapped(b, x, 40, prologue))
        x = b.concat([x, b.conv(y, grown, kernel=3, padding=1)])
    return b.finish(mapped(b, x, 36, prologue))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [(14, 14), (7, 5), (1, 1), (9, 30)])
def test_all_channels_so_far(target: str, size: tuple[int, int]) -> None:
    graph = dense(*size)
    for images in (1, 3):
        for threads in (1, 2):
            model = check(graph, target=target, threads=threads, N=images)
            assert len(kernels(model)) == 3 and not [s for s in model.program.steps if "scale_shift" in s.kernel]


@pytest.mark.parametrize("name", ["tanh", "silu", "sigmoid", ""])
def test_other_activations(name: str) -> None:
    graph = dense(10, 11, prologue=Activation(name) if name else None)
    assert any(f"after_{name or 'scale'}" in kernel for kernel in kernels(check(graph, N=2)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("panel", [16 << 10, 1 << 20])
def test_several_panels_of_many_channels(target: str, panel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels that are staged anew for each panel, weights in chunks, a residual, and the same bits from any threads."""
    monkeypatch.setattr(conv_ahead, "PANEL_BYTES", panel)
    b = Builder("panels", seed=1)
    x = b.conv(b.input("x", ("N", 8, 17, 13)), 1200, kernel=1)
    r = b.conv(x, 90, kernel=1)
    graph = b.finish(mapped(b, x, 90, residual=r, activation=RELU))
    models = [check(graph, target=target, threads=threads, tolerance=2e-5, N=2) for threads in (1, 2, 3, 7)]
    assert len(kernels(models[0])) == 1
    given = random_inputs(graph, 5, N=2)
    first, *others = (model.run(given) for model in models)
    for found in others:
        for name, array in found.items():
            np.testing.assert_array_equal(array, first[name])


def test_pixels_with_gaps_between_rows() -> None:
    """The map has a halo, for another reads it with zeros around."""
    b = Builder("gaps", seed=1)
    x = b.relu(b.conv(b.input("x", ("N", 8, 11, 9)), 40, kernel=1))
    graph = b.finish({"y": mapped(b, x, 33), "z": b.conv(x, 8, kernel=3, padding=1)})
    for threads in (1, 2, 3):
        assert len(kernels(check(graph, threads=threads, N=2))) == 1


def test_channels_of_other_values_are_left_alone() -> None:
    """Lanes without a channel, and those of values that are not finite, add nothing."""
    b = Builder("alone", seed=1)
    x = b.input("x", ("N", 8, 6, 6))
    y = b.conv(x, 21, kernel=1)
    broken = b.op("log", [b.op("neg", [b.op("exp", [b.conv(x, 19, kernel=1)])])])
    both = b.concat([y, broken])
    taken = b.op("slice", [both], axis=1, start=0, stop=21)
    graph = b.finish({"y": mapped(b, taken, 40), "z": broken})
    assert kernels(check(graph, N=1))


@pytest.mark.parametrize(
    ("out", "prologue", "kernel", "attrs"),
    [
        (40, RELU, 1, {"stride": (2, 2)}),
        (40, RELU, 1, {"padding": (1, 1, 1, 1)}),
        (40, RELU, 3, {}),
        (40, RELU, 1, {"groups": 2}),
        (40, Activation("clip", (0.0, 0.5)), 1, {}),
        (4, RELU, 1, {}),
    ],
)
def test_others_take_a_step(out: int, prologue: Activation, kernel: int, attrs: dict[str, Any]) -> None:
    b = Builder("step", seed=1)
    x = b.conv(b.input("x", ("N", 8, 9, 9)), 32, kernel=1)
    model = check(b.finish(mapped(b, x, out, prologue, kernel, **attrs)), N=2)
    assert not kernels(model) and any("scale_shift" in step.kernel for step in model.program.steps)


def test_prediction_tells_them_apart() -> None:
    """A prologue within the kernel costs less than one that takes a step."""
    costs = []
    for padding in (0, 1):
        b = Builder("cost", seed=1)
        x = b.relu(b.conv(b.input("x", (1, 8, 30, 30)), 256, kernel=1))
        with_one, without = mapped(b, x, 64, padding=(padding,) * 4), b.conv(x, 64, kernel=1, padding=padding)
        graph = b.finish({"with": with_one, "without": without})
        seconds = [predicted(graph, graph[output.node]) for output in graph.outputs]
        costs.append(seconds[0] - seconds[1])
    assert 0 < costs[0] < 0.6 * costs[1]


def predicted(graph: Graph, node: Node) -> float:
    types = [None if name is None else graph[name].type for name in node.inputs]
    return float(CpuCost(ISAS["avx2"]).seconds(node, types))
