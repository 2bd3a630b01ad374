"""A Program with its cubins, run on a GPU: plans by size, a graph and an allocation each, weights uploaded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from convc.backends.binding import ARENA, FIRST_PACKED, SCRATCH, TABLES
from convc.backends.cuda.arrays import DeviceArray, device_array
from convc.backends.cuda.compile import CompiledKernel
from convc.backends.cuda.driver import Device, Graph, Node
from convc.backends.cuda.lower import LAUNCHES
from convc.backends.cuda.plan import ALIGNMENT, Launch, LaunchPlan, Pointer
from convc.backends.cuda.writer import interface
from convc.backends.locks import ForkLock
from convc.backends.program import Program
from convc.errors import InputError
from convc.limits import Limits
from convc.types import Array

PLANS = 4
"""Plans that are kept: the most recently used sizes."""
POISON = 0xFF
"""In every byte of a floating number: NaN."""
DEFAULT_STREAM = 1
"""The legacy default stream, as interchange protocols name it."""


class Executable:
    """Runs a Program on the device that `open_device` gives, on first use. Many threads may call it at once."""

    def __init__(
        self,
        program: Program,
        kernels: Mapping[str, CompiledKernel],
        objects: Mapping[str, bytes],
        limits: Limits,
        open_device: Callable[[], Device],
    ) -> None:
        self.program = program
        self.kernels = kernels
        """Machine code and the assembler's figures, by name."""
        self.objects = objects
        """What an artifact keeps, by the store's key."""
        self.poison = False
        """Fill memory with NaN before every run from NumPy: a kernel that reads what nobody wrote shows."""
        self._limits = limits
        self._open = open_device
        self._loaded: _Loaded | None = None
        self._lock = ForkLock()
        self._plans: OrderedDict[tuple[tuple[str, int], ...], _Plan] = OrderedDict()

    def plan(self, sizes: Mapping[str, int]) -> LaunchPlan:
        """Launches and memory for these sizes, without a device."""
        return LaunchPlan(self.program, sizes, LAUNCHES, self._limits)

    def shared_memory(self) -> dict[str, int]:
        """The most dynamic shared memory that each kernel is launched with, at nominal sizes."""
        most: dict[str, int] = {}
        for launch in self.plan(self.program.nominal).launches:
            most[launch.kernel] = max(most.get(launch.kernel, 0), launch.shared)
        return most

    def run(self, inputs: Sequence[Array], sizes: Mapping[str, int]) -> list[Array]:
        """New output arrays, from contiguous inputs in the Program's order."""
        plan = self._plan(sizes)
        device = plan.loaded.device
        device.enter()
        context = plan.take()
        outputs = [np.empty(shape, dtype) for shape, dtype in plan.outputs]
        context.point_at(context.slots)
        if self.poison:
            context.poison()
        for slot, array in enumerate(inputs):
            device.upload(context.slots[slot], array, context.stream)
        context.graph.launch(context.stream)
        for slot, array in enumerate(outputs, len(inputs)):
            device.download(array, context.slots[slot], context.stream)
        device.synchronise(context.stream)
        plan.give_back(context)
        return outputs

    @staticmethod
    def take(value: Any, name: str, stream: int = 0) -> DeviceArray:
        """A caller's array on the GPU as an input of `run_on_device`. Raises InputError."""
        return device_array(value, name, stream or DEFAULT_STREAM)

    def run_on_device(
        self,
        inputs: Sequence[DeviceArray],
        sizes: Mapping[str, int],
        stream: int = 0,
        outputs: Sequence[DeviceArray] | None = None,
    ) -> list[DeviceArray]:
        """Outputs on the device, from inputs there, without copies, on the caller's stream. Returns at once.

        `outputs` are written where they are given, else new. Raises InputError where they do not fit.
        """
        plan = self._plan(sizes)
        device = plan.loaded.device
        device.enter()
        context = plan.take(stream)
        given = device.given_stream(stream)
        results = list(outputs) if outputs is not None else []
        if outputs is None:
            for shape, dtype in plan.outputs:
                pointer = device.allocate_on(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, given)
                release = partial(device.release_on, stream=given)
                results.append(DeviceArray(pointer, tuple(shape), dtype, None, stream, release))
        self._expect_outputs(results, plan.outputs)
        context.point_at([a.pointer for a in (*inputs, *results)])
        context.graph.launch(given)
        context.busy_on(stream)
        plan.give_back(context)
        return results

    def _expect_outputs(self, found: Sequence[DeviceArray], wanted: Sequence[tuple[Any, Any]]) -> None:
        for array, (shape, dtype), (name, _) in zip(found, wanted, self.program.outputs, strict=True):
            if array.shape != tuple(shape) or array.dtype != dtype:
                raise InputError(
                    f"output {name} is {array.dtype}{list(array.shape)}, expected {dtype}{list(shape)}",
                    hint="give an array of that type and shape, or none",
                )

    def replay(self, sizes: Mapping[str, int]) -> Replay:
        """One plan of its own, for measuring: its graph, stream and buffers."""
        plan = self._plan(sizes)
        plan.loaded.device.enter()
        return Replay(plan, _Context(plan))

    def _plan(self, sizes: Mapping[str, int]) -> _Plan:
        key = tuple(sorted(sizes.items()))
        with self._lock:
            if self._loaded is None:
                device = self._open()
                device.enter()
                self._loaded = _Loaded(device, self.program, self.kernels)
            found = self._plans.get(key)
            if found is None:
                self._loaded.device.enter()
                found = self._plans[key] = _Plan(self._loaded, self.plan(sizes))
                if len(self._plans) > PLANS:
                    self._plans.popitem(last=False)
            self._plans.move_to_end(key)
            return found


class Replay:
    """A plan's graph that can be launched again and again, with its static input and output slots."""

    def __init__(self, plan: _Plan, context: _Context) -> None:
        self.device = plan.loaded.device
        self.context = context
        self.inputs = len(plan.bound.program.inputs)
        context.point_at(context.slots)

    def launch(self, stream: Any = None) -> None:
        """One inference, on the plan's stream or another."""
        self.context.graph.launch(self.context.stream if stream is None else stream)

    def part(self, step: int) -> Graph:
        """The launches of one step of the Program, as a graph of their own."""
        return self.context.part(step)


class _Loaded:
    """A device with the Program's functions, and its weights in one allocation."""

    def __init__(self, device: Device, program: Program, kernels: Mapping[str, CompiledKernel]) -> None:
        self.device = device
        self._kernels = kernels
        self._functions: dict[str, tuple[Any, int]] = {}
        self._modules: list[Any] = []
        offsets, total = _places([array.nbytes for array in program.packed.values()])
        self._weights = device.allocate(total)
        self.packed = [self._weights + offset for offset in offsets]
        stream = device.stream()
        for pointer, array in zip(self.packed, program.packed.values(), strict=True):
            device.upload(pointer, array, stream)
        device.synchronise(stream)
        device.end_stream(stream)

    def function(self, name: str, shared: int) -> Any:
        """The kernel, allowed that much shared memory."""
        found = self._functions.get(name)
        if found is None or found[1] < shared:
            module, function = self.device.load(name, self._kernels[name].cubin, shared)
            self._modules.append(module)
            found = self._functions[name] = (function, shared)
        return found[0]

    def __del__(self) -> None:
        for module in getattr(self, "_modules", ()):
            _give_back(self.device.unload, module)
        _give_back(self.device.release, getattr(self, "_weights", None))


class _Plan:
    """A Program at one set of sizes, and the contexts in which no call runs at the moment."""

    def __init__(self, loaded: _Loaded, bound: LaunchPlan) -> None:
        self.loaded = loaded
        self.bound = bound
        program = bound.program
        self.outputs = [(type.concrete(bound.sizes), type.dtype.numpy) for _, type in program.outputs]
        self.kinds = [interface(program.kernels[launch.kernel]).kinds for launch in bound.launches]
        ports = [(type.concrete(bound.sizes), type.dtype.bytes) for _, type in (*program.inputs, *program.outputs)]
        sizes = [int(np.prod(shape, dtype=np.int64)) * element for shape, element in ports]
        # a kernel of several plans or steps is loaded once, with the most shared memory that any asks for
        most: dict[str, int] = {}
        for launch in bound.launches:
            most[launch.kernel] = max(most.get(launch.kernel, 0), launch.shared)
        self.functions = {name: loaded.function(name, shared) for name, shared in most.items()}
        self.offsets, self.total = _places([bound.arena_bytes, bound.tables.nbytes, bound.scratch_bytes, *sizes])
        self._free: list[_Context] = []

    def take(self, stream: int | None = None) -> _Context:
        """A context for a call on a caller's stream, or (None) on the context's own."""
        try:
            context = self._free.pop()
        except IndexError:
            return _Context(self)
        context.wait(stream)
        return context

    def give_back(self, context: _Context) -> None:
        self._free.append(context)


class _Context:
    """Memory, a stream and an instantiated graph."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        device, bound = plan.loaded.device, plan.bound
        self._device = device
        self._memory = device.allocate(plan.total)
        arena, tables, scratch, *self.slots = (self._memory + offset for offset in plan.offsets)
        self.stream = device.stream()
        self._pending: int | None = None
        device.upload(tables, bound.tables, self.stream)
        device.synchronise(self.stream)
        self._bases = [0] * bound.segments
        self._bases[ARENA], self._bases[TABLES], self._bases[SCRATCH] = arena, tables, scratch
        self._bases[FIRST_PACKED : FIRST_PACKED + len(plan.loaded.packed)] = plan.loaded.packed
        self._first = bound.input_segment(0)
        self._bases[self._first :] = self.slots
        self._at = list(self.slots)
        self.graph: Graph = device.graph(self._nodes())
        self._touched = [
            index
            for index, launch in enumerate(bound.launches)
            if any(isinstance(a, Pointer) and a.segment >= self._first for a in launch.arguments)
        ]

    def part(self, step: int) -> Graph:
        """The launches of one step, on this memory."""
        return self._device.graph(self._nodes(step))

    def _nodes(self, step: int | None = None) -> list[Node]:
        launches = zip(self._plan.bound.launches, self._plan.kinds, strict=True)
        return [self._node(launch, kinds) for launch, kinds in launches if step is None or launch.step == step]

    def _node(self, launch: Launch, kinds: Sequence[str]) -> Node:
        words = np.zeros(len(kinds), np.uint64)
        for index, (argument, kind) in enumerate(zip(launch.arguments, kinds, strict=True)):
            if isinstance(argument, Pointer):
                words[index] = self._bases[argument.segment] + argument.offset
            elif kind == "f32":
                words[index : index + 1].view(np.float32)[0] = argument
            else:
                words[index : index + 1].view(np.int32)[0] = argument
        return Node(self._plan.functions[launch.kernel], launch.grid, launch.threads, launch.shared, words)

    def poison(self) -> None:
        """NaN everywhere but in the tables."""
        plan = self._plan
        tables = plan.offsets[1]
        self._device.fill(self._memory, POISON, tables, self.stream)
        after = plan.offsets[2]
        self._device.fill(self._memory + after, POISON, plan.total - after, self.stream)

    def point_at(self, pointers: Sequence[int]) -> None:
        """Let the graph read and write the caller's arrays: the few nodes that touch them get other arguments."""
        if list(pointers) == self._at:
            return
        self._at = list(pointers)
        self._bases[self._first :] = pointers
        for index in self._touched:
            self.graph.update(index, self._node(self._plan.bound.launches[index], self._plan.kinds[index]))

    def busy_on(self, stream: int) -> None:
        """Work on a caller's stream is not over when the call returns."""
        self._pending = stream

    def wait(self, stream: int | None) -> None:
        """Let another call use this memory: what another stream still does must end first; the same one keeps order."""
        if self._pending is not None and self._pending != stream:
            self._device.synchronise(self._device.given_stream(self._pending))
        self._pending = None

    def __del__(self) -> None:
        _give_back(self._device.release, getattr(self, "_memory", None))
        _give_back(self._device.end_stream, getattr(self, "stream", None))


def _places(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Aligned offsets of blocks one after the other, and the total."""
    offsets, total = [], 0
    for size in sizes:
        offsets.append(total)
        total += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets, total


def _give_back(release: Callable[[Any], None], what: Any) -> None:
    try:
        if what is not None:
            release(what)
    except Exception:  # at the end of a process the driver may be gone first
        return
