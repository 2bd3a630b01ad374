"""Graphs compiled for the CPU and compared with the interpreter in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from support import random_inputs

import convc
from convc.backends.binding import SLACK
from convc.backends.cpu import isa, winograd_call, winograd_plan
from convc.backends.cpu.executable import STEP_BYTES, _Context
from convc.interp import bind_sizes, run_graph
from convc.ir.graph import Graph
from convc.model import CompiledModel
from convc.types import Array

TARGETS = [f"cpu:{name}" for name in isa.available()]
"""Every instruction set that this machine runs, best first."""


def expected_outputs(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What the interpreter makes of the inputs, floats carried in float64."""
    wide = {k: v.astype(np.float64) if np.issubdtype(v.dtype, np.floating) else v for k, v in inputs.items()}
    return run_graph(graph, wide, dtype="float64")


def assert_close(found: Mapping[str, Array], expected: Mapping[str, Array], graph: Graph, tolerance: float) -> None:
    """Floats differ by at most `tolerance` of the output's largest magnitude; NaN, infinity and the rest are equal."""
    assert list(found) == list(expected)
    types = {output.name: graph[output.node].type for output in graph.outputs}
    for name, want in expected.items():
        got = found[name]
        assert got.dtype == types[name].dtype.numpy and got.shape == want.shape, name
        if not types[name].dtype.is_float:
            np.testing.assert_array_equal(got, want, err_msg=name)
            continue
        scale = float(np.max(np.abs(want[np.isfinite(want)]), initial=1e-30))
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale, equal_nan=True, err_msg=name)


def check(
    graph: Graph,
    inputs: Mapping[str, Array] | None = None,
    *,
    target: str = "cpu",
    passes: str = "none",
    threads: int = 1,
    seed: int = 0,
    tolerance: float = 1e-5,
    **sizes: int,
) -> CompiledModel:
    """Compile and run the graph, on random inputs where none are given; hold its outputs against the interpreter's."""
    given = random_inputs(graph, seed, **sizes) if inputs is None else inputs
    model = convc.compile(graph, target=target, passes=passes, threads=threads)
    assert_close(model.run(given), expected_outputs(graph, given), graph, tolerance)
    return model


def halos(bound: Any, index: int) -> Iterator[tuple[int, int]]:
    """First and last byte in the arena of each run of the halo that a step clears."""
    planes = bound.program.steps[index].writes[0]
    g = bound.geometry(planes)
    top, left, bottom, right = bound.program.sides(planes.planes[0][0], bound.sizes)
    for start in (SLACK + g.planes).tolist():
        for image in range(g.images):
            for row in range(-top, g.height + bottom):
                at = start + image * g.image + row * g.row
                yield at - left * g.pixel, at
                yield at + g.width * g.pixel, at + (g.width + right) * g.pixel
                if not 0 <= row < g.height:
                    yield at, at + g.width * g.pixel


def clear_halos(bound: Any, arena: Any, steps: Iterable[int]) -> None:
    """Zero what those steps would clear."""
    for index in steps:
        for begin, end in halos(bound, index):
            arena[begin:end] = 0


def run_in_order(model: CompiledModel, given: Mapping[str, Array], order: Iterable[int]) -> dict[str, Array]:
    """The model's threads one after the other, in that order, between each wait of all for all.

    Between waits no thread may depend on what another does, so orders must not differ: one that does is a race.
    """
    executable: Any = model.runnable
    inputs = [given[node.name] for node in model.graph.inputs]
    plan = executable.plan(bind_sizes(model.graph.inputs, {name: array.shape for name, array in given.items()}))
    outputs = [np.empty(shape, dtype) for shape, dtype in plan.outputs]
    context = _Context(plan)
    context.point_at(inputs, outputs)
    context._steps[:, 2] = 0  # nobody waits: each goes alone
    first = 0
    for last in [*np.flatnonzero(plan.waits).tolist(), len(plan.waits) - 1]:
        for thread in order:
            address = context.steps_address + STEP_BYTES * first
            executable._driver.walk(address, last + 1 - first, 0, thread, executable.threads)
        first = last + 1
    return {output.name: array for output, array in zip(model.graph.outputs, outputs, strict=True)}


def replan(monkeypatch: pytest.MonkeyPatch, **constants: Any) -> None:
    """Other constants of Winograd's plans, which are kept otherwise."""
    for name, value in constants.items():
        monkeypatch.setattr(winograd_plan, name, value)
    for name in ("plan_best", "plan_blocks"):
        cached = getattr(winograd_plan, name)
        for module in (winograd_plan, winograd_call):
            monkeypatch.setattr(module, name, getattr(cached, "__wrapped__", cached))
