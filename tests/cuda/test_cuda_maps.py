"""Elementwise steps that become one kernel for CUDA: in lock step, against steps apart, and what must stay apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_support import PRECISIONS, check_lockstep, lockstep_program, run_lockstep
from kernel_support import needs_compiler
from support import random_inputs

from convc.backends.cuda import lower
from convc.backends.program import Program
from convc.frontends.builder import Builder
from convc.ir.graph import Graph, Node
from convc.types import Activation


def constant(b: Builder, *shape: int) -> Node:
    return b.constant(np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32))


def gate(b: Builder, x: Node) -> Any:
    """A value twice, functions with parameters, one float for all channels, constants a channel and a pixel."""
    y = b.conv(x, 22, kernel=1)
    one = b.op("sigmoid", [b.conv(x, 1, kernel=1)])
    z = b.op("clip", [b.op("leaky_relu", [y * one], alpha=0.3)], min=-0.5, max=0.75)
    z = z * constant(b, 1, 22, 1, 1) + constant(b, 1, 1, 7, 5)
    return z * z + b.op("elu", [z], alpha=0.7)


def prologue(b: Builder, x: Node) -> Any:
    """What lies ahead of a convolution's prologue is computed with it."""
    y = b.op("tanh", [b.conv(x, 20, kernel=1)])
    s, t = constant(b, 20), b.constant(np.linspace(-1, 1, 20, dtype=np.float32))
    inputs = [y * 0.5, constant(b, 4, 20, 3, 3), None, None, s, t]
    return b.op("conv2d", inputs, padding=(1, 1, 1, 1), prologue=Activation("relu"))


def plain(b: Builder, x: Node) -> Any:
    y = b.op("transpose", [x], perm=(0, 2, 3, 1))
    y = b.op("exp", [y * constant(b, 6)]) + constant(b, 5, 6)
    return b.op("tanh", [y * 0.5 + y])


def maps(program: Program) -> list[str]:
    return [step.kernel for step in program.steps if step.family in {"map_planes", "map_plain"}]


def apart(graph: Graph, precision: str, monkeypatch: pytest.MonkeyPatch) -> Program:
    with monkeypatch.context() as patch:
        patch.setattr(lower, "fuse_maps", lambda asm, emit: None)
        return lockstep_program(graph, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("make", [gate, prologue, plain], ids=lambda made: made.__name__)
def test_what_follows_becomes_one_kernel(
    make: Callable[[Builder, Node], Any], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = Builder("maps", seed=1)
    graph = b.finish(make(b, b.input("x", ("N", 6, 7, 5))))
    program = check_lockstep(graph, precision=precision, N=2)
    several = apart(graph, precision, monkeypatch)
    assert len(maps(program)) < len(maps(several)) and any("r0" in kernel for kernel in maps(program))
    assert set(program.kernels) == {step.kernel for step in program.steps}
    if precision == "float32":
        given = random_inputs(graph, 0, N=3)
        found, other = (run_lockstep(one, graph, given) for one in (program, several))
        for name, array in found.items():
            np.testing.assert_array_equal(array, other[name])


def test_what_another_reads_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is an output, or that something else reads, too, or in part, stays a kernel of its own."""
    b = Builder("apart", seed=1)
    y = b.conv(b.input("x", ("N", 6, 7, 5)), 16, kernel=1)
    shown = b.op("tanh", [y])
    pooled = b.op("sigmoid", [y])
    small = b.op("exp", [b.global_avg_pool(pooled)])
    z = b.op("silu", [y])
    first = z * b.op("slice", [z], axis=1, start=0, stop=1)
    halves = b.op("erf", [b.op("slice", [b.op("sin", [y])], axis=1, start=8, stop=16)])
    graph = b.finish({"shown": shown, "z": (shown + pooled) * small, "first": first, "halves": halves})
    kernels = maps(check_lockstep(graph, N=2))
    for name in ("tanh", "sigmoid", "exp", "silu", "sin", "erf"):
        assert sum(name in kernel for kernel in kernels) == 1, name
    assert any("add_mul" in kernel or "addv0v1_mul" in kernel for kernel in kernels)
    assert not any("sin" in kernel and "erf" in kernel for kernel in kernels)


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fused_kernels_compile(precision: str) -> None:
    from convc.backends.cuda.compile import compile_kernel

    b = Builder("maps", seed=1)
    program = lockstep_program(b.finish(gate(b, b.input("x", ("N", 6, 7, 5)))), precision)
    for name in maps(program):
        compiled = compile_kernel(program.kernels[name], "sm_90a")
        assert compiled.spills == 0 and ".f64" not in compiled.ptx
