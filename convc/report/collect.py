"""Everything that the report shows, as plain JSON values. Texts from a model stay as they are: the page escapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convc.backends.memory import MemoryPlan, buffer_bytes, plan_memory
from convc.backends.program import Program, buffers_of, node_of
from convc.dims import concrete
from convc.files import finite
from convc.measure.history import History
from convc.ops import OPS
from convc.passes import PASSES
from convc.passes.stages import Outline, Stages
from convc.report.drawing import NODE_WIDTH, draw
from convc.report.figures import kernel_figures, model_figures, pass_figures, program_figures

if TYPE_CHECKING:
    from convc.measure.profile import Profile
    from convc.model import CompiledModel


def collect(model: CompiledModel, profile: Profile | None = None) -> dict[str, Any]:
    """The report's data. `model`, `passes`, `program` and `kernels` are what `convc inspect --json` prints."""
    program = model.program
    plan = plan_memory(program, program.nominal)
    stages = model.stages or Stages.of(model.graph, len(model.records))
    nodes, graphs = _graphs(stages)
    found = {
        "model": model_figures(model.graph),
        "passes": pass_figures(model.records),
        "program": program_figures(program, plan),
        "kernels": kernel_figures(program),
        "sources": dict(program.kernels),
        "profile": _profile_figures(profile),
        "docs": {record.name: PASSES[record.name].doc for record in model.records if record.name in PASSES},
        "slots": {op: list(OPS[op].slots) for op in sorted({node[1] for node in nodes}) if op in OPS},
        "step_nodes": [node_of(model.graph, step.node) for step in program.steps],
        "families": [step.family for step in program.steps],
        "memory": _memory(program, plan),
        "totals": _totals(model, plan),
        "node_width": NODE_WIDTH,
        "nodes": nodes,
        "graphs": graphs,
        "at": list(stages.at),
        "histories": _histories(model, graphs, list(stages.at), [node[0] for node in nodes]),
    }
    result: dict[str, Any] = finite(found)
    return result


def _graphs(stages: Stages) -> tuple[list[list[Any]], list[dict[str, Any]]]:
    """All nodes of all graphs, each once, outputs among them; and each graph with its drawing, constants left out."""
    outlines = list(stages.outlines)
    ids: dict[tuple[str, str], int] = {}
    graphs = []
    for stage in stages.graphs:
        shown = [index for index in stage.nodes if outlines[index].op != "constant"]
        types = {outlines[index].name: outlines[index] for index in stage.nodes}
        for output in stage.outputs:
            key = (output.name, output.node)
            if key not in ids:
                read = types[output.node]
                ids[key] = len(outlines)
                outlines.append(Outline(output.name, "output", (output.node,), {}, read.type, read.shape, (), 0))
            shown.append(ids[key])
        blocks = draw([outlines[index] for index in shown], shown)
        constants = [index for index in stage.nodes if outlines[index].op == "constant"]
        graphs.append({"nodes": shown, "constants": constants, "blocks": blocks})
    fields = [[o.name, o.op, o.inputs, dict(o.attrs), o.type, o.shape, o.source, o.macs] for o in outlines]
    return fields, graphs


def _histories(
    model: CompiledModel, graphs: list[dict[str, Any]], at: list[int], names: list[str]
) -> list[list[Any] | None]:
    """For each node: the rewrites that led to it, those that followed, and what stands for it in the end; or None.

    A rewrite is (position of its record, its own within it). A node that a rewrite changes is a new one, so the first
    graph that holds a node decides. A node that nothing ever touched, and one that is not shown, has None.
    """
    history = History(model.records)
    found: list[list[Any] | None] = [None] * len(names)
    seen: set[int] = set()
    for end, graph in enumerate(at):
        for index in graphs[graph]["nodes"]:
            if index in seen:
                continue
            seen.add(index)
            before, (after, heirs) = history.before(names[index], end), history.after(names[index], end)
            if before or after:
                found[index] = [before, after, heirs]
    return found


def _profile_figures(profile: Profile | None) -> dict[str, Any] | None:
    if profile is None:
        return None
    figures = profile.to_json()
    for step in figures["steps"]:
        del step["history"], step["source"]  # the records and the graph have them
    return figures


def _memory(program: Program, plan: MemoryPlan) -> dict[str, Any]:
    """Arena buffers with their place and life, in moments: steps that run together are one."""
    moments: list[int] = []
    moment = 0
    written: dict[int, int] = {}
    for index, step in enumerate(program.steps):
        moments.append(moment)
        moment += not step.joins
        for layout in step.writes:
            for number in buffers_of(layout):
                written.setdefault(number, index)
    buffers = []
    for index in sorted(plan.offsets, key=lambda i: (plan.lives[i], i)):
        buffer = program.buffers[index]
        halo = program.sides(index, program.nominal)
        buffers.append(
            {
                "name": buffer.name,
                "type": str(buffer.type),
                "offset": plan.offsets[index],
                "bytes": buffer_bytes(buffer, halo, program.nominal),
                "life": list(plan.lives[index]),
                "step": written.get(index),
            }
        )
    return {"total": plan.total, "moments": moments, "buffers": buffers}


def _totals(model: CompiledModel, plan: MemoryPlan) -> dict[str, int]:
    """Bytes: constants of the graph, packed constants, the arena, and its buffers as if none shared its place."""
    program = model.program
    sizes = dict(program.nominal)

    def ports(found: tuple[tuple[str, Any], ...]) -> int:
        return sum(concrete(type.elements, sizes) * type.dtype.bytes for _, type in found)

    return {
        "weights": sum(concrete(n.type.elements, {}) * n.type.dtype.bytes for n in model.graph.constants),
        "packed": sum(array.nbytes for array in program.packed.values()),
        "arena": plan.total,
        "buffers": sum(
            buffer_bytes(program.buffers[i], program.sides(i, sizes), sizes) for i in plan.offsets
        ),
        "inputs": ports(program.inputs),
        "outputs": ports(program.outputs),
    }
