"""Fused against unfused, and against other engines: contestants of one configuration, run in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from convc.errors import Error
from convc.interp import bind_sizes
from convc.measure.accuracy import difference, reference
from convc.measure.rivals import open_rival, same_shapes
from convc.measure.timing import PERCENTILES, Budget, Figures, race
from convc.types import Array

if TYPE_CHECKING:
    from convc.ir.graph import Graph
    from convc.model import CompiledModel

FUSED, UNFUSED = "fused", "unfused"
Tell = Callable[[str, int, int], None]
Compile = Callable[["Graph", Any, int | None], "CompiledModel"]
"""A graph, passes and a number of threads to a compiled model."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a compiled model holds: activations of one inference, packed constants, object code."""

    arena: int
    constants: int
    code: int

    @staticmethod
    def of(model: CompiledModel, sizes: Mapping[str, int]) -> Memory:
        """The memory of a model at given sizes."""
        from convc.backends.memory import plan_memory

        program = model.program
        code = getattr(model.runnable, "objects", {})
        return Memory(
            plan_memory(program, sizes).total,
            sum(array.nbytes for array in program.packed.values()),
            sum(len(one) for one in code.values()),
        )


@dataclass(frozen=True)
class Result:
    """One contestant: its figures, and the largest error of its outputs against the interpreter in float64.

    `prepare_seconds` is what it took to compile here, or to open the engine; memory is told for convc's own.
    """

    name: str
    figures: Figures
    error: float | None
    prepare_seconds: float
    memory: Memory | None = None
    steps: int | None = None
    kernels: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """The contestants of one configuration, and what could not take part, with the reason."""

    threads: int
    shapes: Mapping[str, tuple[int, ...]]
    items: int
    results: tuple[Result, ...]
    absent: Mapping[str, str] = field(default_factory=dict)
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)

    def of(self, name: str) -> Result | None:
        """The contestant of that name."""
        return next((one for one in self.results if one.name == name), None)

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as long as the first contestant each other takes, by medians."""
        first = self.results[0].figures.median
        return {one.name: one.figures.median / first for one in self.results[1:]}

    @property
    def label(self) -> str:
        """Threads and shapes in words."""
        shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in self.shapes.items())
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}, {shapes}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the samples."""
        return {
            "threads": self.threads,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "items": self.items,
            "results": {one.name: one.to_json() for one in self.results},
            "ratios": self.ratios,
            "absent": dict(self.absent),
        }


@dataclass(frozen=True)
class Options:
    """What takes part, and how long it is measured. `accuracy` runs the interpreter once, which takes a while."""

    budget: Budget = field(default_factory=Budget)
    percentiles: Sequence[float] = PERCENTILES
    unfused: bool = True
    against: Sequence[str] = ()
    accuracy: bool = True
    tell: Tell | None = None


def compare(
    graph: Graph,
    inputs: Mapping[str, Array],
    threads: int,
    compile: Compile,
    options: Options,
    *,
    passes: Any = "default",
    fused: CompiledModel | None = None,
    onnx: Path | None = None,
) -> tuple[Comparison, dict[str, Array]]:
    """Measure one configuration; returns the fused network's outputs, too.

    `graph` is the network as it was read. A model that is compiled already is given as `fused`. `onnx` is the file that
    other engines read; without it they read the graph, exported.
    """
    sizes = bind_sizes(graph.inputs, {name: array.shape for name, array in inputs.items()})
    arrays = [inputs[node.name] for node in graph.inputs]
    models: dict[str, CompiledModel] = {}
    prepared: dict[str, float] = {}
    runners: dict[str, Callable[[], Any]] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        for name, which in ((FUSED, passes), (UNFUSED, "none"))[: 2 if options.unfused else 1]:
            start = time.perf_counter()
            models[name] = fused if name == FUSED and fused is not None else compile(graph, which, threads)
            prepared[name] = time.perf_counter() - start
            runners[name] = _caller(models[name], arrays)
        for name in options.against:
            start = time.perf_counter()
            try:
                if onnx is None:
                    onnx = _export(graph, stack)
                runners[name] = open_rival(name, onnx, list(inputs.items()), threads)
                prepared[name] = time.perf_counter() - start
            except Error as error:
                absent[name] = f"{error.message} ({error.hint})"
        outputs = {name: _outputs(run()) for name, run in runners.items()}
        errors = _errors(graph, inputs, outputs) if options.accuracy else dict.fromkeys(runners)
        settle = threads > 1 and len(runners) > len(models)
        samples = race(runners, options.budget, settle=settle, tell=options.tell)
    items = arrays[0].shape[0] if arrays and arrays[0].ndim else 1
    results = []
    for name, taken in samples.items():
        figures = Figures.of(taken, items=items, percentiles=options.percentiles)
        model = models.get(name)
        own = (Memory.of(model, sizes), len(model.program.steps), len(model.sources)) if model else (None, None, None)
        results.append(Result(name, figures, errors[name], prepared[name], *own))
    shapes = {name: array.shape for name, array in inputs.items()}
    named = {port.name: array for port, array in zip(models[FUSED].outputs, outputs[FUSED], strict=True)}
    return Comparison(threads, shapes, items, tuple(results), absent, samples), named


def _caller(model: CompiledModel, arrays: Sequence[Array]) -> Callable[[], Any]:
    return lambda: model(*arrays)


def _outputs(found: Any) -> list[Array]:
    return [np.array(one) for one in (found if isinstance(found, (tuple, list)) else [found])]


def _export(graph: Graph, stack: ExitStack) -> Path:
    from convc.frontends.onnx import save_onnx

    path = Path(stack.enter_context(TemporaryDirectory(prefix="convc-bench-"))) / "model.onnx"
    save_onnx(graph, path)
    return path


def _errors(graph: Graph, inputs: Mapping[str, Array], outputs: Mapping[str, list[Array]]) -> dict[str, float | None]:
    expected = list(reference(graph, inputs).values())
    return {
        name: max(
            (difference(f, e).error for f, e in zip(same_shapes(found, expected), expected, strict=True)), default=0
        )
        for name, found in outputs.items()
    }


# ---- one pass left out at a time -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ablated:
    """The network without one pass: its median, and how many times as long it takes as with all passes.

    `ratio` is None where nothing was measured, for the `reason` given.
    """

    name: str
    rewrites: int
    operators: int | None
    median: float | None
    ratio: float | None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def ablate(
    graph: Graph,
    inputs: Mapping[str, Array],
    threads: int,
    compile: Compile,
    budget: Budget,
    *,
    passes: Any = "default",
    tell: Tell | None = None,
) -> tuple[float, list[Ablated]]:
    """The median with all passes, and what each pass is worth: all variants run in turns with the whole."""
    from convc.passes.manager import resolve

    pipeline = resolve(passes)
    whole = compile(graph, pipeline, threads)
    arrays = [inputs[node.name] for node in graph.inputs]
    runners: dict[str, Callable[[], Any]] = {"": _caller(whole, arrays)}
    found: dict[str, Ablated] = {}
    for name in dict.fromkeys(one.name for one in pipeline):
        rewrites = sum(len(record.rewrites) for record in whole.records if record.name == name)
        if not rewrites:
            found[name] = Ablated(name, 0, None, None, None, "rewrites nothing here")
            continue
        try:
            model = compile(graph, [one for one in pipeline if one.name != name], threads)
        except Error as error:
            found[name] = Ablated(name, rewrites, None, None, None, f"needed: {error.message}")
            continue
        found[name] = Ablated(name, rewrites, len(model.graph.operators), None, None)
        runners[name] = _caller(model, arrays)
    samples = race(runners, budget, tell=tell)
    medians = {name: float(np.median(taken)) for name, taken in samples.items()}
    rows = [
        Ablated(one.name, one.rewrites, one.operators, medians[name], medians[name] / medians[""])
        if name in medians
        else one
        for name, one in found.items()
    ]
    return medians[""], rows


__all__ = ["FUSED", "UNFUSED", "Ablated", "Comparison", "Compile", "Memory", "Options", "Result", "ablate", "compare"]
