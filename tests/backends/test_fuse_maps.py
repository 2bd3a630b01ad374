"""Elementwise steps that become one: the same bits as apart, and what must stay apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cpu_support import TARGETS, assert_close, expected_outputs
from support import random_inputs

import convc
from convc.backends.cpu import lower
from convc.frontends.builder import Builder
from convc.ir.graph import Graph, Node


def both(graph: Graph, target: str, monkeypatch: pytest.MonkeyPatch, **sizes: int) -> list[str]:
    """Kernels of the elementwise steps, once outputs are right and the same as of steps apart, to the bit."""
    model, team = (convc.compile(graph, target=target, threads=threads, passes="none") for threads in (1, 3))
    with monkeypatch.context() as patch:
        patch.setattr(lower, "fuse_maps", lambda asm, isa: None)
        apart = convc.compile(graph, target=target, threads=1, passes="none")
    given = random_inputs(graph, 0, **sizes)
    found = model.run(given)
    assert_close(found, expected_outputs(graph, given), graph, 1e-5)
    for other in (apart.run(given), team.run(given)):
        for name, array in found.items():
            np.testing.assert_array_equal(array, other[name])
    return [step.kernel for step in model.program.steps if step.family in {"map_planes", "map_plain"}]


def constant(b: Builder, *shape: int) -> Node:
    return b.constant(np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32))


def response_norm(b: Builder, x: Node) -> Any:
    """As ConvNeXt V2 writes it: x * (n / mean n) * gamma + beta + x, n being the length of each map."""
    y = b.conv(x, 20, kernel=1)
    n = b.op("reduce_l2", [y], axes=(2, 3))
    n = n / (b.op("reduce_mean", [n], axes=(1,)) + 1e-6)
    return y * n * constant(b, 1, 20, 1, 1) + constant(b, 1, 20, 1, 1) + y


def gate(b: Builder, x: Node) -> Any:
    """Twice the same value, functions with parameters, one float for all channels."""
    y = b.conv(x, 24, kernel=1)
    one = b.op("sigmoid", [b.conv(x, 1, kernel=1)])
    z = b.op("clip", [b.op("leaky_relu", [y * one], alpha=0.3)], min=-0.5, max=0.75)
    return z * z + b.op("elu", [z], alpha=0.7)


def plain(b: Builder, x: Node) -> Any:
    y = b.op("transpose", [x], perm=(0, 2, 3, 1))
    y = b.op("exp", [y * constant(b, 6)]) + constant(b, 5, 6)
    return b.op("tanh", [y * 0.5 + y])


def ends_of_size_one(b: Builder, x: Node) -> Any:
    """What is long lies before axes of size 1."""
    n = b.op("reduce_max", [b.op("reshape", [x], shape=(x.type.shape[0], 42, 5, 1))], axes=(2,))
    return (n / b.op("reduce_sum", [n], axes=(1,)) + constant(b, 42, 1, 1)) * n


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("make", [response_norm, gate, plain, ends_of_size_one], ids=lambda made: made.__name__)
def test_what_follows_becomes_one_step(
    make: Callable[[Builder, Node], Any], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = Builder("maps", seed=1)
    graph = b.finish(make(b, b.input("x", ("N", 6, 7, 5))))
    operators = [node for node in graph.operators if node.op not in {"conv2d", "reshape", "transpose"}]
    operators = [node for node in operators if not node.op.startswith("reduce")]
    for images in (1, 3):
        kernels = both(graph, target, monkeypatch, N=images)
        assert len(kernels) < len(operators)
        assert any("r0" in kernel for kernel in kernels)


def test_what_another_reads_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is an output, or that something else reads, too, or in another size, stays a step of its own."""
    b = Builder("apart", seed=1)
    y = b.conv(b.input("x", ("N", 6, 7, 5)), 16, kernel=1)
    shown = b.op("tanh", [y])
    pooled = b.op("sigmoid", [y])
    small = b.op("exp", [b.global_avg_pool(pooled)])
    graph = b.finish({"shown": shown, "z": (shown + pooled) * small})
    kernels = both(graph, "cpu", monkeypatch, N=2)
    assert len([kernel for kernel in kernels if any(name in kernel for name in ("tanh", "sigmoid", "exp"))]) == 3
    assert any("addv0v1_mul" in kernel for kernel in kernels)


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_read_in_another_order_too_is_written(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels of the same value, permuted by whole planes, and one of them for all."""
    b = Builder("orders", seed=1)
    x = b.input("x", ("N", 6, 7, 5))
    y = b.op("silu", [b.conv(x, 32, kernel=1)])
    z = b.op("tanh", [b.conv(x, 32, kernel=1)])
    halves = b.concat(
        [b.op("slice", [y], axis=1, start=16, stop=32), b.op("slice", [y], axis=1, start=0, stop=16)], axis=1
    )
    graph = b.finish({"turned": y * halves, "first": z * b.op("slice", [z], axis=1, start=0, stop=1)})
    for images in (1, 2):
        both(graph, target, monkeypatch, N=images)


def test_kernels_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder("long", seed=1)
    y = b.conv(b.input("x", ("N", 6, 7, 5)), 16, kernel=1)
    z = y
    for index in range(30):
        z = b.op("sigmoid" if index % 3 else "tanh", [z]) * 0.5 + constant(b, 1, 16, 1, 1)
    kernels = both(b.finish(z), "cpu", monkeypatch, N=1)
    assert 90 // 8 <= len(kernels) <= 20
