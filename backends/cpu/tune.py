"""Measured choices: each convolution's candidates timed alone, with cold weights; winners are kept on disk.

A file for each instruction set, processor and version of the code generator holds winners by layer: shapes at nominal
sizes, attributes, residual. Times are of one thread, the least of some runs, each after the caches have been filled
with something else: in a network, a layer's weights come from memory.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convc.backends.aligned import aligned_bytes
from convc.backends.choice_file import choice_file, read_choice_file, write_choice_file
from convc.backends.cpu.build import build_objects, generator_digest, link_objects
from convc.backends.cpu.choice import Choice, read_choices
from convc.backends.cpu.driver import DRIVERS
from convc.backends.cpu.executable import Executable
from convc.backends.cpu.isa import Isa, host_processor
from convc.backends.cpu.lower import MANY_ROWS, lower_with
from convc.backends.prepare import prepare
from convc.backends.program import Planes, Program, Step
from convc.backends.store import Store
from convc.backends.workers import Progress
from convc.dims import concrete
from convc.ir.graph import Graph, Node, constant, graph_input, make_node
from convc.limits import Limits

MEASURED = frozenset({"conv", "winograd"})
"""Families of the steps that leave a choice."""
RUNS = 9
COLD_BYTES = 24 << 20
"""Read between two runs: several times what the caches of one core hold."""
SECONDS_A_RUN = 0.006
"""Of one run and what is read ahead of it, to say beforehand how long measuring will take."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution alone, the nodes of the network that are like it, and what can run it."""

    key: str
    graph: Graph
    node: str
    like: tuple[str, ...]
    candidates: Sequence[Choice]


def tuned(graph: Graph, isa: Isa, store: Store, limits: Limits, progress: Progress | None = None) -> dict[str, Choice]:
    """The fastest choice for each convolution by name, from disk or measured now."""
    layers = layers_of(graph, isa)
    file = choice_file(store, isa.name, host_processor(), generator_digest()[:16])
    kept = read_choices(read_choice_file(file), isa)
    missing = [layer for layer in layers if layer.key not in kept and len(layer.candidates) > 1]
    if missing:
        kept.update(_measure(missing, isa, store, limits, progress))
        write_choice_file(file, {key: choice.to_json() for key, choice in kept.items()})
    chosen = {layer: kept.get(layer.key, layer.candidates[0]) for layer in layers if layer.candidates}
    return {name: choice for layer, choice in chosen.items() for name in layer.like}


def layers_of(graph: Graph, isa: Isa) -> list[Layer]:
    """The convolutions of a graph that leave a choice, each kind once."""
    graph = prepare(graph, MANY_ROWS)
    program, candidates = lower_with(graph, isa)
    gaps = {step.node: _reads_gaps(program, step) for step in program.steps if step.family in MEASURED}
    found: dict[str, list[str]] = {}
    for name in candidates:
        if candidates[name]:
            found.setdefault(_key(graph, graph[name], gaps[name]), []).append(name)
    layers = []
    for key, names in found.items():
        alone = _alone(graph, graph[names[0]], gaps[names[0]])
        layers.append(Layer(key, alone, names[0], tuple(names), candidates[names[0]]))
    return layers


def _reads_gaps(program: Program, step: Step) -> bool:
    """Whether there is a halo beside the rows that a step reads."""
    x = step.reads[0]
    assert isinstance(x, Planes)
    return program.halos[program.buffers[x.planes[0][0]].group].beside


def _key(graph: Graph, node: Node, gaps: bool) -> str:
    types = [graph[name].type.concrete(graph.nominal) if name is not None else None for name in node.inputs[:4]]
    attrs = {name: repr(value) for name, value in sorted(node.attrs.items())}
    first = graph[str(node.inputs[0])].op == "input"
    return json.dumps([node.op, types, node.type.concrete(graph.nominal), attrs, first, gaps])


def _alone(graph: Graph, node: Node, gaps: bool) -> Graph:
    """The node by itself at nominal sizes, on planes if it reads planes, its weights as they are.

    Beside it, where there are `gaps`, stands a convolution whose padding makes them.
    """

    def fixed(name: str) -> Node:
        return graph_input(name, graph[name].type.dtype, graph[name].type.concrete(graph.nominal))

    made: dict[str, Node] = {}
    operands: list[Node | None] = []
    for slot, name in enumerate(node.inputs[:4]):
        if name is None:
            operands.append(None)
            continue
        source = graph[name]
        if source.op != "constant":
            made.setdefault(name, fixed(name))
            if source.op != "input" or slot:
                made[f"{name}.planes"] = make_node("relu", f"{name}.planes", [made[name]], {})
                operands.append(made[f"{name}.planes"])
                continue
        made.setdefault(name, source)
        operands.append(made[name])
    attrs = {**node.attrs, "prologue": None}
    made[node.name] = make_node(node.op, node.name, operands, attrs)
    outputs = [node.name]
    if gaps and operands[0] is not None:
        x = operands[0]
        weights = constant("beside.w", np.zeros((1, concrete(x.type.shape[1], {}), 1, 3), np.float32))
        padded = make_node("conv2d", "beside", [x, weights], {"padding": (0, 1, 0, 1)})
        made |= {one.name: one for one in (weights, padded)}
        outputs.append("beside")
    return Graph.build("alone", made.values(), outputs)


def _measure(
    layers: Sequence[Layer], isa: Isa, store: Store, limits: Limits, progress: Progress | None
) -> dict[str, Choice]:
    programs = {
        (layer.key, choice): lower_with(layer.graph, isa, choices={layer.node: choice})[0]
        for layer in layers
        for choice in layer.candidates
    }
    sources = dict(DRIVERS)
    for program in programs.values():
        sources.update(program.kernels)
    code, _ = build_objects(sources, isa, store, progress)
    addresses = link_objects(code)
    cold = aligned_bytes(COLD_BYTES).view(np.float32)
    cold[:] = 1.0
    best: dict[str, Choice] = {}
    seconds = len(programs) * RUNS * SECONDS_A_RUN
    for index, layer in enumerate(layers):
        if progress is not None:
            progress(f"measuring {layer.node}; {seconds:.0f} s for all", index, len(layers))
        steppers = {}
        for choice in layer.candidates:
            executable = Executable(programs[layer.key, choice], addresses, {}, 1, limits)
            steppers[choice] = _Timed(executable, layer.graph, layer.node)
        times: dict[Choice, list[float]] = {choice: [] for choice in steppers}
        for _ in range(RUNS):
            for choice, stepper in steppers.items():
                cold.max()
                times[choice].append(stepper.run())
        best[layer.key] = min(times, key=lambda choice: min(times[choice]))
    if progress is not None:
        progress("", len(layers), len(layers))
    return best


class _Timed:
    """Runs one step of a Program again and again, on seeded inputs."""

    def __init__(self, executable: Executable, graph: Graph, node: str) -> None:
        random = np.random.default_rng(0)
        shapes = [[concrete(size, {}) for size in one.type.shape] for one in graph.inputs]
        inputs = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
        self._executable = executable  # its memory is what the steps point at
        self._stepper = executable.stepper(inputs, {})
        self._stepper.run(0, self._stepper.steps)
        steps = executable.program.steps
        self._step = next(i for i, step in enumerate(steps) if step.node == node and step.family in MEASURED)

    def run(self) -> float:
        start = time.perf_counter()
        self._stepper.run(self._step, 1)
        return time.perf_counter() - start
