"""Programs for CUDA run without a GPU: in lock step, and through the runtime on a device that runs in lock step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cpu_support import assert_close, expected_outputs
from support import random_inputs

from convc.backends.cuda.compile import CompiledKernel
from convc.backends.cuda.driver import Node
from convc.backends.cuda.executable import Executable
from convc.backends.cuda.lockstep import execute
from convc.backends.cuda.lower import lower
from convc.backends.cuda.simulate import POINTED, POISON, Lockstep
from convc.backends.cuda.writer import interface
from convc.backends.program import Program
from convc.compiler import optimise
from convc.interp import bind_sizes
from convc.ir.graph import Graph
from convc.limits import Limits
from convc.model import Options
from convc.types import Array

TOLERANCE = {"float32": 1e-5, "tf32": 4e-3, "float16": 4e-3, "bfloat16": 3e-2}
"""Of the largest output, for small networks: a few times the unit of the storage."""
PRECISIONS = tuple(TOLERANCE)


def lockstep_program(graph: Graph, precision: str = "float32", passes: str = "none") -> Program:
    """The Program that `convc.compile` makes for CUDA, without compiling its kernels."""
    optimised, _ = optimise(graph, Options("cuda:sm_90a", precision=precision), passes)
    return lower(optimised, precision)


def run_lockstep(
    program: Program, graph: Graph, given: Mapping[str, Array], *, races: bool = False
) -> dict[str, Array]:
    """Outputs by name, every kernel in lock step over a poisoned arena."""
    sizes = bind_sizes(graph.inputs, {name: array.shape for name, array in given.items()})
    found = Lockstep(program, races=races).run([given[node.name] for node in graph.inputs], sizes)
    return {output.name: array for output, array in zip(graph.outputs, found, strict=True)}


def check_lockstep(
    graph: Graph,
    inputs: Mapping[str, Array] | None = None,
    *,
    precision: str = "float32",
    passes: str = "none",
    seed: int = 0,
    tolerance: float | None = None,
    races: bool = False,
    **sizes: int,
) -> Program:
    """Run the graph in lock step; hold its outputs against the interpreter's in float64."""
    given = random_inputs(graph, seed, **sizes) if inputs is None else inputs
    program = lockstep_program(graph, precision, passes)
    found = run_lockstep(program, graph, given, races=races)
    assert_close(found, expected_outputs(graph, given), graph, TOLERANCE[precision] if tolerance is None else tolerance)
    return program


class LockstepGraph:
    """Kernel calls that a `LockstepDevice` runs one after the other."""

    def __init__(self, device: LockstepDevice, nodes: Sequence[Node]) -> None:
        self.device = device
        self.nodes = list(nodes)
        self.updates = 0

    def launch(self, stream: Any) -> None:
        for node in self.nodes:
            self.device.execute(node)

    def update(self, index: int, node: Node) -> None:
        self.nodes[index] = node
        self.updates += 1


class LockstepDevice:
    """A device whose memory is NumPy's and whose kernels run in lock step: what the runtime does is tested with it."""

    arch = "sm_90a"
    name = "Lock step"

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = sources
        self.blocks: dict[int, Array] = {}
        self.loaded: list[tuple[str, int]] = []
        self.waits: list[Any] = []
        self.clock = 0.0
        """What events read: kernels take no time of it."""
        self._next = 1 << 20

        self.kept: list[Any] = []
        """Modules, streams and events that were not given back."""

    def enter(self) -> None:
        return

    def allocate(self, count: int) -> int:
        pointer, self._next = self._next, self._next + (count + 511) // 256 * 256
        self.blocks[pointer] = np.full(max(count, 1), POISON, np.uint8)
        return pointer

    def release(self, pointer: int) -> None:
        del self.blocks[pointer]

    def allocate_on(self, count: int, stream: Any) -> int:
        return self.allocate(count)

    def release_on(self, pointer: int, stream: Any) -> None:
        self.release(pointer)

    def at(self, pointer: int) -> Array:
        """Memory from `pointer` to the end of its allocation."""
        for start, block in self.blocks.items():
            if start <= pointer <= start + len(block):
                return block[pointer - start :]
        raise AssertionError(f"{pointer:#x} is in no allocation")

    def fill(self, pointer: int, byte: int, count: int, stream: Any) -> None:
        self.at(pointer)[:count] = byte

    def upload(self, pointer: int, array: Array, stream: Any) -> None:
        self.at(pointer)[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def download(self, array: Array, pointer: int, stream: Any) -> None:
        array.reshape(-1).view(np.uint8)[:] = self.at(pointer)[: array.nbytes]

    def load(self, name: str, code: bytes, shared: int) -> Any:
        self.loaded.append((name, shared))
        return self._kept("module"), name

    def unload(self, module: Any) -> None:
        self.kept.remove(module)

    def stream(self) -> Any:
        return self._kept("stream")

    def end_stream(self, stream: Any) -> None:
        self.kept.remove(stream)

    def given_stream(self, pointer: int) -> Any:
        return pointer

    def synchronise(self, stream: Any) -> None:
        self.waits.append(stream)

    def event(self) -> list[float]:
        self.kept.append(event := [0.0])
        return event

    def end_event(self, event: list[float]) -> None:
        del self.kept[next(i for i, one in enumerate(self.kept) if one is event)]

    def _kept(self, kind: str) -> str:
        """A name of its own for what must be given back."""
        self._next += 256
        self.kept.append(name := f"{kind} {self._next}")
        return name

    def record(self, event: list[float], stream: Any) -> None:
        event[0] = self.clock

    def elapsed(self, first: list[float], second: list[float]) -> float:
        return second[0] - first[0]

    def graph(self, nodes: Sequence[Node]) -> LockstepGraph:
        return LockstepGraph(self, nodes)

    def execute(self, node: Node) -> None:
        source = self.sources[node.function]
        arguments: list[Any] = []
        for kind, word in zip(interface(source).kinds, node.words, strict=True):
            if kind.endswith("*"):
                dtype = np.dtype(POINTED[kind.rstrip("*")])
                part = self.at(int(word))
                arguments.append(part[: len(part) // dtype.itemsize * dtype.itemsize].view(dtype))
            else:
                arguments.append(np.array([word]).view(np.float32 if kind == "f32" else np.int32)[0])
        execute(source, node.grid, node.shared, arguments, races=False)


def executable_in_lockstep(graph: Graph, precision: str = "float32") -> tuple[Executable, LockstepDevice]:
    """The runtime's executable over a device that runs in lock step."""
    program = lockstep_program(graph, precision)
    device = LockstepDevice(program.kernels)
    kernels = {name: CompiledKernel(b"\x7fELF", 32, 0, 0, 0) for name in program.kernels}
    return Executable(program, kernels, {}, Limits(), lambda: device), device
