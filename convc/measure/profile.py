"""The time of every step of a Program on one thread, beside its work and the machine's limit."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from convc.backends.program import Flattened, Layout, Plain, Program, Step, node_of
from convc.collector import collector_off
from convc.dims import concrete
from convc.errors import TargetError
from convc.interp import bind_sizes
from convc.measure.history import Change, History
from convc.types import Array

if TYPE_CHECKING:
    from convc.backends.cpu.isa import Isa
    from convc.backends.cpu.peak import Loop
    from convc.ir.graph import Graph
    from convc.model import CompiledModel

MOVING = frozenset({"clear_halo", "pack", "unpack", "phases", "relayout", "copy", "index_copy", "map_planes"})
"""Families whose steps only prepare or deliver what a node computes: its multiply-adds are those of its other steps."""

LIMIT_RUNS = 16
"""Of the loop in registers in each round, a millisecond, of which the fastest counts: processors change their clock
where wide multiply-adds begin.
"""


@dataclass(frozen=True)
class StepFigures:
    """One step: what it is, where it comes from, and its cost.

    `seconds` are those of its median run; `share` is of all steps, `limit_share` of the machine's multiply-add limit.
    `macs` are those of the definition: Winograd's algorithm does fewer, and may pass the limit in these terms. `bytes`
    are those that it reads and writes, weights included, each counted once.
    """

    index: int
    kernel: str
    family: str
    node: str
    source: tuple[str, ...]
    history: tuple[Change, ...]
    seconds: float
    share: float
    macs: int
    bytes: int
    gflops: float
    limit_share: float


@dataclass(frozen=True)
class KernelFigures:
    """All steps of one kernel together."""

    kernel: str
    calls: int
    seconds: float
    share: float
    macs: int
    bytes: int
    gflops: float
    limit_share: float


@dataclass(frozen=True)
class Profile:
    """Steps of one inference on one thread. Times in seconds; `limit` in multiply-adds a second.

    The limit is what a loop of multiply-adds in registers reaches, run in turns with the inferences, the median of the
    rounds: processors lower their clock where wide loads and multiply-adds meet, and keep it low for a while.
    `limit_alone` is the loop's best.

    Steps are timed in this thread's processor time, in which other processes do not count; so are the whole inferences
    that are run in turns with them, whose median is `seconds`. `total` is the steps' sum, `latency` the median of the
    whole inferences by the clock on the wall.
    """

    model: str
    target: str
    sizes: Mapping[str, int]
    rounds: int
    seconds: float
    total: float
    latency: float
    limit: float
    limit_alone: float
    steps: tuple[StepFigures, ...]

    @property
    def kernels(self) -> tuple[KernelFigures, ...]:
        """Figures by kernel, those that take most time first."""
        grouped: dict[str, list[StepFigures]] = {}
        for step in self.steps:
            grouped.setdefault(step.kernel, []).append(step)
        found = []
        for kernel, steps in grouped.items():
            seconds, macs = sum(s.seconds for s in steps), sum(s.macs for s in steps)
            rate = macs / seconds if seconds else 0.0
            found.append(
                KernelFigures(
                    kernel, len(steps), seconds, seconds / self.total if self.total else 0.0, macs,
                    sum(s.bytes for s in steps), 2e-9 * rate, rate / self.limit,
                )
            )  # fmt: skip
        return tuple(sorted(found, key=lambda one: -one.seconds))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "kernels": [asdict(kernel) for kernel in self.kernels]}


class _Stepper(Protocol):
    steps: int

    def run(self, first: int, count: int) -> None: ...


def profile(
    model: CompiledModel,
    inputs: Mapping[str, npt.ArrayLike] | None = None,
    *,
    seconds: float = 1.0,
    rounds: int = 10,
) -> Profile:
    """Time each step of `model`, on inputs by name (random ones of nominal sizes where None).

    Rounds go on until `seconds` and `rounds` are both met. Raises TargetError where the target has no steps to time.
    """
    from convc.backends.cpu.peak import multiply_adds_a_second, register_loop
    from convc.measure.inputs import random_inputs

    runnable: Any = model.runnable
    program = runnable.program
    if not hasattr(runnable, "stepper"):
        raise TargetError(f"target {program.target} runs no steps that could be timed", hint="use target='cpu'")
    given = random_inputs(model) if inputs is None else inputs
    arrays: list[Array] = [np.require(given[port.name], port.dtype, ["C", "A"]) for port in model.inputs]
    model.run(dict(zip([port.name for port in model.inputs], arrays, strict=True)))
    sizes = bind_sizes(model.graph.inputs, {p.name: a.shape for p, a in zip(model.inputs, arrays, strict=True)})
    stepper = runnable.stepper(arrays, sizes)
    isa = _isa_of(program)
    alone = multiply_adds_a_second(isa)
    samples = _measure(stepper, seconds, rounds, register_loop(isa))
    return _figures(model.graph, program, History(model.records), sizes, samples, alone)


def limit_of(program: Program) -> float:
    """Multiply-adds of float32 that one core makes in a second, at best, with the program's instruction set."""
    from convc.backends.cpu.peak import multiply_adds_a_second

    return multiply_adds_a_second(_isa_of(program))


def _isa_of(program: Program) -> Isa:
    from convc.backends.cpu.isa import ISAS

    return ISAS[program.target.partition(":")[2]]


def thread_clock() -> Callable[[], float]:
    """Processor time of this thread where the system counts it finely, else the clock on the wall."""
    fine = time.get_clock_info("thread_time").resolution <= 1e-6
    return time.thread_time if fine else time.perf_counter


@dataclass(frozen=True)
class _Samples:
    """Seconds of every step [rounds, steps] and of whole inferences [rounds], without what calling costs; multiply-adds
    a second of the loop in registers [rounds].
    """

    steps: Array
    whole: Array
    wall: Array
    limits: Array


def _measure(stepper: _Stepper, seconds: float, rounds: int, loop: Loop) -> _Samples:
    clock, wall_clock, run, steps = thread_clock(), time.perf_counter, stepper.run, range(stepper.steps)
    rows: list[list[float]] = []
    whole: list[float] = []
    wall: list[float] = []
    calls: list[float] = []
    limits: list[float] = []
    gc.collect()
    with collector_off():
        run(0, stepper.steps)
        end = wall_clock() + seconds
        while len(rows) < rounds or wall_clock() < end:
            row = []
            for index in steps:
                start = clock()
                run(index, 1)
                row.append(clock() - start)
            rows.append(row)
            start = clock()
            run(0, 0)
            calls.append(clock() - start)
            wall_start, start = wall_clock(), clock()
            run(0, stepper.steps)
            whole.append(clock() - start)
            wall.append(wall_clock() - wall_start)
            limits.append(max(loop.run() for _ in range(LIMIT_RUNS)))
    call = float(np.median(calls))
    timed = [np.maximum(np.array(one) - call, 0.0) for one in (rows, whole)]
    return _Samples(timed[0], timed[1], np.array(wall), np.array(limits))


def _figures(
    graph: Graph, program: Program, history: History, sizes: Mapping[str, int], found: _Samples, alone: float
) -> Profile:
    limit = float(np.median(found.limits))
    medians = np.median(found.steps, axis=0) if program.steps else np.zeros(0)
    total = float(medians.sum())
    macs = step_macs(graph, program, sizes)
    steps = []
    for index, step in enumerate(program.steps):
        node = node_of(graph, step.node)
        seconds = float(medians[index])
        rate = macs[index] / seconds if seconds else 0.0
        steps.append(
            StepFigures(
                index, step.kernel, step.family, node, graph[node].source if node else (), history.of(node), seconds,
                seconds / total if total else 0.0, macs[index], step_bytes(program, step, sizes), 2e-9 * rate,
                rate / limit,
            )
        )  # fmt: skip
    return Profile(
        graph.name, program.target, dict(sizes), len(found.whole), float(np.median(found.whole)), total,
        float(np.median(found.wall)), limit, alone, tuple(steps),
    )  # fmt: skip


def step_macs(graph: Graph, program: Program, sizes: Mapping[str, int]) -> list[int]:
    """Multiply-adds of every step. The phases of a transposed convolution share those of their node alike."""
    working: dict[str, list[int]] = {}
    for index, step in enumerate(program.steps):
        if step.family not in MOVING:
            working.setdefault(node_of(graph, step.node), []).append(index)
    found = [0] * len(program.steps)
    for name, indices in working.items():
        total = concrete(graph.node_macs(graph[name]), sizes) if name else 0
        for place, index in enumerate(indices):
            found[index] = total * (place + 1) // len(indices) - total * place // len(indices)
    return found


def step_bytes(program: Program, step: Step, sizes: Mapping[str, int]) -> int:
    """Bytes that a step reads and writes: channels of its values, and its packed constants."""
    values = sum(_layout_bytes(layout, sizes) for layout in (*step.reads, *step.writes))
    return values + sum(program.packed[name].nbytes for name in packed_names(program, step))


def packed_names(program: Program, step: Step) -> list[str]:
    """Names of the packed constants that a step's parameters mention."""
    found: dict[str, None] = {}
    waiting: list[object] = list(step.params.values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and value in program.packed:
            found[value] = None
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, (tuple, list)):
            waiting.extend(value)
        elif is_dataclass(value):
            waiting.extend(getattr(value, one.name) for one in fields(value))
    return list(found)


def _layout_bytes(layout: Layout, sizes: Mapping[str, int]) -> int:
    if isinstance(layout, Plain):
        return concrete(layout.type.elements, sizes) * layout.type.dtype.bytes
    if isinstance(layout, Flattened):
        return _layout_bytes(layout.planes, sizes)
    pixels = concrete(layout.batch, sizes) * concrete(layout.height, sizes) * concrete(layout.width, sizes)
    return 4 * pixels * layout.channels


__all__ = ["KernelFigures", "Profile", "StepFigures", "limit_of", "profile"]
