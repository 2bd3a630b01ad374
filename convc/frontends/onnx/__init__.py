"""The ONNX frontend: opsets 7 and newer to a Graph, and a Graph to an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from convc.interrupts import held
from convc.limits import Limits

if TYPE_CHECKING:
    import os

    import onnx

    from convc.frontends.onnx.load import Source
    from convc.ir.graph import Graph

_DEFAULT_LIMITS = Limits()


def load_onnx(
    source: Source,
    *,
    input_shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    limits: Limits = _DEFAULT_LIMITS,
) -> Graph:
    """Read an ONNX model from a path, a file's bytes, or an onnx.ModelProto.

    `input_shapes` overrides shapes of inputs: a number fixes a size, a name makes it symbolic, None keeps it. Sizes
    that the model leaves open become symbols. Raises ModelError for what is wrong or not supported (all unknown
    operators at once), LimitError for what exceeds `limits`, InputError where `input_shapes` does not fit.
    """
    with held():
        from convc.frontends.onnx.importer import import_onnx

    return import_onnx(source, input_shapes=input_shapes, limits=limits)


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """The graph as an ONNX model of the newest opset that its operators need, checked. Raises ModelError."""
    with held():
        from convc.frontends.onnx.export import export_onnx

    return export_onnx(graph)


def save_onnx(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write the graph as an ONNX file; an older file is replaced only once the new one is complete."""
    with held():
        from convc.frontends.onnx.export import write_onnx

    write_onnx(graph, path)


__all__ = ["load_onnx", "save_onnx", "to_onnx"]
