"""The outputs of a compiled network against the interpreter in float64, and against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from convc.errors import Error
from convc.measure.accuracy import TOLERANCE, Difference, difference, reference
from convc.measure.rivals import open_rival, same_shapes
from convc.types import Array

if TYPE_CHECKING:
    from convc.ir.graph import Graph
    from convc.model import CompiledModel


@dataclass(frozen=True)
class Compared:
    """One output: how the compiled network, and ONNX Runtime where it ran, differ from the interpreter."""

    output: str
    compiled: Difference
    onnxruntime: Difference | None
    compiled_to_onnxruntime: Difference | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """All outputs. `engine` says why ONNX Runtime did not run, '' where it did."""

    outputs: tuple[Compared, ...]
    tolerance: float = TOLERANCE
    engine: str = ""
    expected: Mapping[str, Array] = field(default_factory=dict, repr=False)

    @property
    def same(self) -> bool:
        """Whether the compiled network does what the interpreter does."""
        return all(one.compiled.within(self.tolerance) for one in self.outputs)

    @property
    def read_alike(self) -> bool:
        """Whether ONNX Runtime, where it ran, does what the interpreter does."""
        return all(one.onnxruntime is None or one.onnxruntime.within(self.tolerance) for one in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "same": self.same,
            "read_alike": self.read_alike,
            "tolerance": self.tolerance,
            "engine": self.engine,
            "outputs": [one.to_json() for one in self.outputs],
        }


def compare(
    graph: Graph,
    model: CompiledModel,
    inputs: Mapping[str, Array],
    *,
    tolerance: float = TOLERANCE,
    onnx: Path | None = None,
    engine: bool = True,
) -> Comparison:
    """Hold `model` against the interpreter on `graph`, and, with `engine`, against ONNX Runtime on the file `onnx`.

    Without a file, ONNX Runtime runs the graph, exported.
    """
    expected = reference(graph, inputs)
    found = model.run(inputs)
    other, why = _from_onnxruntime(graph, inputs, onnx) if engine else (None, "not asked for")
    rows = []
    for index, (name, want) in enumerate(expected.items()):
        compiled = difference(found[name], want)
        if other is None:
            rows.append(Compared(name, compiled, None, None))
            continue
        theirs = same_shapes([other[index]], [want])[0]
        rows.append(Compared(name, compiled, difference(theirs, want), difference(found[name], theirs)))
    return Comparison(tuple(rows), tolerance, why, expected)


def _from_onnxruntime(graph: Graph, inputs: Mapping[str, Array], onnx: Path | None) -> tuple[list[Array] | None, str]:
    from convc.frontends.onnx import save_onnx

    try:
        with TemporaryDirectory(prefix="convc-check-") as folder:
            path = onnx or Path(folder) / "model.onnx"
            if onnx is None:
                save_onnx(graph, path)
            found = open_rival("onnxruntime", path, list(inputs.items()), 1)()
    except Error as error:
        return None, error.message
    return found, ""


__all__ = ["Compared", "Comparison", "compare"]
