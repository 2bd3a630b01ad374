"""CompiledModel: a network that can be called, and the account of how it was made."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from convc.dims import Dim
from convc.errors import InputError, LimitError, ModelError, TargetError
from convc.interp import bind_sizes
from convc.ir.graph import Graph
from convc.limits import Limits
from convc.types import Array, TensorType

if TYPE_CHECKING:
    from convc.backends.program import Program
    from convc.measure.profile import Profile
    from convc.passes.base import PassRecord
    from convc.passes.stages import Stages
    from convc.passes.story import Story


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its name, NumPy dtype, and shape of ints and symbols (as text)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]

    @staticmethod
    def of(name: str, type: TensorType) -> Port:
        return Port(name, type.dtype.numpy, tuple(d if isinstance(d, int) else str(d) for d in type.shape))

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


class Runnable(Protocol):
    """What a target makes of a graph."""

    @property
    def program(self) -> Program: ...

    def run(self, inputs: Sequence[Array], sizes: Mapping[str, int]) -> list[Array]:
        """Output arrays in order, from contiguous inputs in order."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """How a model is run: target with instruction set, threads (None: what the process may use), limits, precision."""

    target: str = "cpu"
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)
    precision: str = "float32"


class CompiledModel:
    """A compiled network. Call it with arrays; ask it what the passes did and what will run.

    It may be called from many threads at once, pickled, sent to another process, and called after fork or spawn.
    Arrays may be read-only; outputs are new arrays. Results do not depend on threads, batch position or run.
    """

    def __init__(
        self,
        graph: Graph,
        records: Sequence[PassRecord],
        options: Options,
        runnable: Runnable,
        stages: Stages | None = None,
    ) -> None:
        self.graph = graph
        self.records = tuple(records)
        self.stages = stages
        """The graph before and after each pass, without weights; None where it was not kept."""
        self.options = options
        self.inputs = tuple(Port.of(n.name, n.type) for n in graph.inputs)
        self.outputs = tuple(Port.of(o.name, graph[o.node].type) for o in graph.outputs)
        self._runnable: Runnable | None = runnable
        self._lock = threading.Lock()
        self._sizes: dict[tuple[tuple[int, ...], ...], dict[str, int]] = {}

    # ---- running -----------------------------------------------------------------------------------------------

    def __call__(self, *arrays: npt.ArrayLike) -> Any:
        """Outputs for the inputs in order: one array, or a tuple where there are several outputs.

        Raises InputError that names the input, what was found and what was expected.
        """
        if len(arrays) != len(self.inputs):
            expected = ", ".join(map(str, self.inputs)) or "none"
            raise InputError(
                f"{self.graph.name} got {len(arrays)} arrays, expected {len(self.inputs)}",
                hint=f"its inputs are {expected}",
            )
        outputs = self._run(arrays)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def run(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
        """Outputs by name, from inputs by name. Raises InputError."""
        known = [port.name for port in self.inputs]
        if not isinstance(inputs, Mapping):
            raise InputError(
                f"run takes arrays by name, not {type(inputs).__name__}", hint="call the model with arrays: model(x)"
            )
        for name in inputs:
            if name not in known:
                raise InputError(f"{self.graph.name} has no input {name}", hint=f"its inputs are {', '.join(known)}")
        for port in self.inputs:
            if port.name not in inputs:
                raise InputError(f"input {port} is missing", hint=f"the inputs are {', '.join(known)}")
        outputs = self._run([inputs[name] for name in known])
        return {port.name: array for port, array in zip(self.outputs, outputs, strict=True)}

    def _run(self, given: Sequence[Any]) -> list[Any]:
        if self.options.target.startswith("cuda") and any(hasattr(v, "__cuda_array_interface__") for v in given):
            return self.run_on_device(given)
        arrays: list[Array] = []
        for port, value in zip(self.inputs, given, strict=True):
            try:
                array = np.asarray(value)
            except ValueError as error:
                raise InputError(f"input {port.name} is no array: {error}", hint=f"give an array {port}") from error
            if array.dtype.newbyteorder("=") != port.dtype:
                raise InputError(
                    f"input {port.name} has dtype {array.dtype}, expected {port.dtype}",
                    hint=f"convert it with .astype({str(port.dtype)!r})",
                )
            if array.nbytes > self.options.limits.tensor_bytes:
                bound = self.options.limits.tensor_bytes
                raise LimitError(
                    f"input {port.name} takes {array.nbytes} bytes, more than limits.tensor_bytes={bound}",
                    hint="use smaller sizes, or raise convc.Limits(tensor_bytes=...)",
                )
            if not array.flags.c_contiguous or not array.flags.aligned or not array.dtype.isnative:
                array = np.require(array, port.dtype, ["C", "A"])
            arrays.append(array)
        key = tuple(array.shape for array in arrays)
        sizes = self._sizes.get(key)
        if sizes is None:
            sizes = self._check_shapes(key)
        return self.runnable.run(arrays, sizes)

    def run_on_device(
        self, given: Sequence[Any], outputs: Sequence[Any] | None = None, *, stream: int = 0
    ) -> list[Any]:
        """Outputs in order as arrays on the GPU, from inputs there: nothing is copied, and the call returns at once.

        Inputs and outputs have `__cuda_array_interface__` (inputs may have DLPack instead), as arrays of PyTorch, CuPy
        and Numba do. Given `outputs` are written, else they are new. `stream` is the caller's, by its address; work is
        put there, 0 is the default stream.
        Raises InputError; TargetError where the target is not CUDA.
        """
        runnable: Any = self.runnable
        if not hasattr(runnable, "run_on_device"):
            raise TargetError(f"target {self.options.target!r} runs on no GPU", hint="compile with target='cuda'")
        arrays = [runnable.take(value, port.name, stream) for port, value in zip(self.inputs, given, strict=True)]
        for port, array in zip(self.inputs, arrays, strict=True):
            if array.dtype != port.dtype:
                raise InputError(f"input {port.name} has dtype {array.dtype}, expected {port.dtype}", hint="convert it")
        key = tuple(array.shape for array in arrays)
        sizes = self._sizes.get(key)
        if sizes is None:
            sizes = self._check_shapes(key)
        kept = None
        if outputs is not None:
            kept = [runnable.take(value, port.name, stream) for port, value in zip(self.outputs, outputs, strict=True)]
        found: list[Any] = runnable.run_on_device(arrays, sizes, stream, kept)
        return found

    def _check_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> dict[str, int]:
        named = {port.name: shape for port, shape in zip(self.inputs, shapes, strict=True)}
        sizes = bind_sizes(self.graph.inputs, named)
        text = ", ".join(f"{name}={size}" for name, size in sizes.items())
        free = {s for n in self.graph.nodes for d in n.type.shape if isinstance(d, Dim) for s in d.symbols} - set(sizes)
        if free:
            raise InputError(
                f"the inputs do not determine the sizes {', '.join(sorted(free))}", hint="compile with input_shapes="
            )
        try:
            bound = self.graph.bind(**sizes) if sizes else self.graph
        except ModelError as error:
            raise InputError(f"{self.graph.name} does not take {text}: {error.message}", hint=error.hint) from error
        for node in bound.inputs:
            if node.type.shape != named[node.name]:
                raise InputError(
                    f"input {node.name} has shape {list(named[node.name])}, expected {node.type}",
                    hint="resize the input, or compile with input_shapes=",
                )
        for node in bound.nodes:
            self.options.limits.check_tensor(f"%{node.name}", node.type, {})
        if len(self._sizes) > 1000:
            self._sizes.clear()
        self._sizes[shapes] = sizes
        return sizes

    # ---- the account -------------------------------------------------------------------------------------------

    @property
    def runnable(self) -> Runnable:
        """What runs the network; made on first use after unpickling."""
        if self._runnable is None:
            with self._lock:
                if self._runnable is None:
                    from convc.compiler import build_runnable

                    self._runnable = build_runnable(self.graph, self.options)
        return self._runnable

    @property
    def program(self) -> Program:
        """Steps over one arena: what runs."""
        return self.runnable.program

    @property
    def sources(self) -> Mapping[str, str]:
        """Emitted source of every kernel, by name."""
        return self.program.kernels

    def explain(self, node: str) -> Story:
        """The story of a node, of the description or of any stage: rewrites, refusals, what it became, its kernels.

        Raises InputError that lists similar names where there is no such node.
        """
        from convc.backends.program import node_of
        from convc.passes.stages import Stages
        from convc.passes.story import tell_story

        stages = self.stages or Stages.of(self.graph, len(self.records))
        steps = [
            (s.kernel, node_of(self.graph, s.node), s.outputs) for s in self.program.steps if s.family != "clear_halo"
        ]
        return tell_story(node, stages, self.records, steps)

    def save(self, path: str | Path) -> None:
        """Write a `.convc` file, whole or not at all: graph, records, weights, packed weights, object code.

        Raises InputError where the file cannot be written.
        """
        from convc.artifact import save

        save(self, path)

    def report(self, path: str | Path, *, profile: Profile | None = None) -> None:
        """Write one self-contained HTML page: passes, graphs, rewrites and refusals, program, memory, kernels.

        `profile` adds measured times (`convc.measure.profile`). Raises InputError where the file cannot be written.
        """
        from convc.report.page import write_report

        write_report(self, path, profile=profile)

    def __repr__(self) -> str:
        ports = ", ".join(map(str, self.inputs))
        return f"CompiledModel({self.graph.name!r}, {self.options.target!r}, inputs: {ports})"

    def __getstate__(self) -> dict[str, Any]:
        return {"graph": self.graph, "records": self.records, "options": self.options, "stages": self.stages}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["graph"], state["records"], state["options"], None, state["stages"])  # type: ignore[misc]
