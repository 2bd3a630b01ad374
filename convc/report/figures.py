"""Figures of a model as plain JSON values: what `convc inspect --json` prints and what the report shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convc.backends.memory import MemoryPlan, plan_memory
from convc.backends.program import Layout, Program, buffers_of
from convc.ir.graph import Graph
from convc.measure.layers import layers
from convc.passes.base import PassRecord


def model_figures(graph: Graph) -> dict[str, Any]:
    """Ports, sizes, totals, and each layer in order."""
    return {
        "name": graph.name,
        "inputs": {node.name: str(node.type) for node in graph.inputs},
        "outputs": {output.name: str(graph[output.node].type) for output in graph.outputs},
        "sizes": graph.nominal,
        "parameters": graph.parameters(),
        "macs": graph.macs(),
        "layers": [layer.to_json() for layer in layers(graph)],
    }


def pass_figures(records: Sequence[PassRecord]) -> list[dict[str, Any]]:
    """The record of each pass, in order."""
    return [record.to_json() for record in records]


def program_figures(program: Program, plan: MemoryPlan | None = None) -> dict[str, Any]:
    """Steps with the places of their arrays: arena offsets at nominal sizes, or inputs and outputs."""
    plan = plan or plan_memory(program, program.nominal)

    def places(layouts: Sequence[Layout]) -> list[dict[str, Any]]:
        return [
            {"value": layout.name, "place": program.buffers[b].place, "offset": plan.offsets.get(b, 0)}
            for layout in layouts
            for b in buffers_of(layout)
        ]

    return {
        "target": program.target,
        "sizes": dict(program.nominal),
        "arena_bytes": plan.total,
        "steps": [
            {"kernel": s.kernel, "node": s.node, "inputs": places(s.reads), "outputs": places(s.writes)}
            for s in program.steps
        ],
    }


def kernel_figures(program: Program) -> list[dict[str, Any]]:
    """Kernels by name, how often each is called, and the length of its source."""
    calls = [step.kernel for step in program.steps]
    return [
        {"name": name, "calls": calls.count(name), "lines": len(source.splitlines())}
        for name, source in sorted(program.kernels.items())
    ]
