"""A linked Program that runs: plans by size, arenas by concurrent call, a team of threads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from convc.backends.aligned import aligned_bytes
from convc.backends.binding import ARENA, SCRATCH, TABLES, Binding
from convc.backends.cpu import team as teams
from convc.backends.cpu.driver import DRIVERS
from convc.backends.cpu.lower import ARGUMENTS
from convc.backends.locks import ForkLock
from convc.backends.program import Ints, Program
from convc.limits import Limits
from convc.types import Array

PLANS = 8
"""Plans that are kept: the most recently used sizes."""
STEP_BYTES = 24
"""From one step's entry to the next in what the driver walks."""


class Executable:
    """Runs a Program whose kernels have addresses in this process. Any number of threads may call it at once."""

    def __init__(
        self,
        program: Program,
        addresses: Mapping[str, int],
        objects: Mapping[str, bytes],
        threads: int,
        limits: Limits,
    ) -> None:
        self.program = program
        self.objects = objects
        """Object code of the kernels, by the store's key."""
        self.threads = threads
        self._limits = limits
        self._addresses = addresses
        walk, serve, post = (addresses[name] for name in DRIVERS)
        self._driver = teams.Driver(walk, serve, post)
        self._plans: OrderedDict[tuple[tuple[str, int], ...], _Plan] = OrderedDict()
        self._lock = ForkLock()

    def plan(self, sizes: Mapping[str, int]) -> _Plan:
        """The plan for these sizes, made where it is not kept. Raises LimitError."""
        key = tuple(sorted(sizes.items()))
        with self._lock:
            found = self._plans.get(key)
            if found is None:
                found = _Plan(Binding(self.program, sizes, ARGUMENTS, self._limits, self.threads), self._addresses)
                self._plans[key] = found
                if len(self._plans) > PLANS:
                    self._plans.popitem(last=False)
            else:
                self._plans.move_to_end(key)
            return found

    def run(self, inputs: Sequence[Array], sizes: Mapping[str, int]) -> list[Array]:
        """New output arrays, from contiguous inputs in the Program's order."""
        plan = self.plan(sizes)
        context = plan.take()
        outputs = [np.empty(shape, dtype) for shape, dtype in plan.outputs]
        context.point_at(inputs, outputs)
        team = teams.team(self.threads, self._driver)
        team.run(context.steps_address, len(self.program.steps))
        plan.give_back(context)
        return outputs

    def stepper(self, inputs: Sequence[Array], sizes: Mapping[str, int]) -> Stepper:
        """One inference on one thread, taken apart into its steps."""
        return Stepper(self.plan(sizes), inputs, len(self.program.steps), self._driver)


class Stepper:
    """Calls the steps of one inference one by one, on this thread. In order, they compute the outputs."""

    def __init__(self, plan: _Plan, inputs: Sequence[Array], steps: int, driver: teams.Driver) -> None:
        self.steps = steps
        self.outputs = [np.empty(shape, dtype) for shape, dtype in plan.outputs]
        self._inputs = list(inputs)
        self._context = _Context(plan)
        self._context.point_at(self._inputs, self.outputs)
        self._walk = driver.walk

    def run(self, first: int, count: int) -> None:
        """Run `count` steps from the one of index `first`."""
        self._walk(self._context.steps_address + STEP_BYTES * first, count, 0, 0, 1)


class _Plan:
    """A Program at one set of sizes, and the contexts in which no call runs at the moment."""

    def __init__(self, bound: Binding, addresses: Mapping[str, int]) -> None:
        self.bound = bound
        program = bound.program
        self.outputs = [(type.concrete(bound.sizes), type.dtype.numpy) for _, type in program.outputs]
        self.tables = aligned_bytes(max(bound.tables.nbytes, 1))
        self.tables[: bound.tables.nbytes] = bound.tables
        self.functions = np.array([addresses[step.kernel] for step in program.steps], np.int64)
        self.waits = np.array(
            [not step.joins and index not in bound.clean for index, step in enumerate(program.steps)], np.int64
        )
        self.caller = np.flatnonzero(bound.kinds >= bound.input_segment(0))
        self._free: list[_Context] = []

    def take(self) -> _Context:
        try:
            return self._free.pop()
        except IndexError:
            return _Context(self)

    def give_back(self, context: _Context) -> None:
        self._free.append(context)


class _Context:
    """An arena, and argument words that point into it."""

    def __init__(self, plan: _Plan) -> None:
        bound = plan.bound
        # kernels multiply beyond what they store: leftovers, read as floats below the normal range, made that slow
        self.arena = aligned_bytes(bound.arena_bytes, zero=True)
        self._bases: Ints = np.zeros(bound.segments, np.int64)
        self._bases[ARENA] = self.arena.ctypes.data
        self._bases[TABLES] = plan.tables.ctypes.data
        self.scratch = aligned_bytes(bound.scratch_bytes, zero=True)
        self._bases[SCRATCH] = self.scratch.ctypes.data
        for segment, name in bound.packed_segments():
            self._bases[segment] = bound.program.packed[name].ctypes.data
        self._words = bound.words + self._bases[bound.kinds]
        self._caller = plan.caller
        self._caller_words = bound.words[plan.caller]
        self._caller_kinds = bound.kinds[plan.caller]
        self._first = bound.input_segment(0)
        self._steps = np.stack([plan.functions, self._words.ctypes.data + 8 * bound.starts, plan.waits], axis=1)
        self._steps = np.ascontiguousarray(self._steps)
        self.steps_address = self._steps.ctypes.data

    def point_at(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Let the arguments name the caller's arrays."""
        self._bases[self._first :] = [a.ctypes.data for a in (*inputs, *outputs)]
        self._words[self._caller] = self._caller_words + self._bases[self._caller_kinds]
