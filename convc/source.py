"""From whatever a user calls a model to a Graph: one place that knows every kind of description."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convc.dims import Dim, Size
from convc.errors import InputError, LimitError, ModelError
from convc.files import regular_file_size
from convc.frontends.torch import is_module, is_program, load_program, load_torch
from convc.ir.graph import Graph, Node, graph_input, make_node
from convc.limits import Limits

TORCH_FILES = frozenset({".pt", ".pth", ".pt2"})
InputShapes = Mapping[str, Sequence[int | str | None]]


def read_source(
    source: Any,
    *,
    input_shapes: InputShapes | None = None,
    example_inputs: Sequence[Any] | None = None,
    limits: Limits | None = None,
) -> Graph:
    """The graph of a convc.Graph, an onnx.ModelProto or its bytes, a torch.nn.Module or torch.export.ExportedProgram,
    `zoo:NAME`, or a path.

    A path ending in .txt is read as the textual form, with constants from the .safetensors file of the same name beside
    it, any other as ONNX. `input_shapes` overrides the shapes of inputs by name: a number fixes a size, a name makes it
    symbolic, None keeps it. A module needs `example_inputs`, tensors for the arguments of `forward`. Raises ModelError
    for what cannot be read, InputError for shapes or names that do not fit.
    """
    limits = limits or Limits()
    _check_shapes(input_shapes)
    if is_module(source):
        return load_torch(source, example_inputs, input_shapes=input_shapes, limits=limits)
    if example_inputs is not None:
        raise InputError(
            f"example_inputs belongs to PyTorch modules, and this is a {type(source).__name__}", hint="leave it out"
        )
    if is_program(source):
        return load_program(source, input_shapes=input_shapes, limits=limits)
    if isinstance(source, Graph):
        return with_input_shapes(source, input_shapes or {})
    if isinstance(source, str) and source.startswith("zoo:"):
        from convc.zoo import build

        return with_input_shapes(build(source.removeprefix("zoo:")), input_shapes or {})
    if isinstance(source, (str, os.PathLike)) and Path(source).suffix == ".txt":
        return with_input_shapes(read_text(source, limits), input_shapes or {})
    if isinstance(source, (str, os.PathLike)) and Path(source).suffix == ".convc":
        raise InputError(f"{os.fspath(source)} is compiled already", hint="use convc.load")
    if isinstance(source, (str, os.PathLike)) and Path(source).suffix in TORCH_FILES:
        raise InputError(
            f"{os.fspath(source)} is one of PyTorch's files, and reading those may run what is in them",
            hint="load it with torch where you trust it, and give the torch.nn.Module or the ExportedProgram",
        )
    if isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)) or type(source).__name__ == "ModelProto":
        from convc.frontends.onnx import load_onnx

        return load_onnx(source, input_shapes=input_shapes, limits=limits)
    raise InputError(
        f"a {type(source).__name__} is no model",
        hint="give a path, zoo:NAME, an onnx.ModelProto, a torch.nn.Module, an ExportedProgram or a convc.Graph",
    )


def _check_shapes(input_shapes: Any) -> None:
    if input_shapes is None:
        return
    if not isinstance(input_shapes, Mapping) or not all(isinstance(s, Sequence) for s in input_shapes.values()):
        raise InputError(
            f"input_shapes={input_shapes!r} gives no sizes by input", hint='use a dict such as {"x": (1, 3, 224, 224)}'
        )


def read_text(path: str | os.PathLike[str], limits: Limits) -> Graph:
    """The graph in a file of the textual form, with its weights where they lie beside it. Raises ModelError."""
    from convc.ir.parser import parse
    from convc.tensors import read_tensors

    weights = Path(path).with_suffix(".safetensors")
    try:
        for file in [Path(path), *([weights] if weights.exists() else [])]:
            if regular_file_size(file) > limits.model_bytes:
                raise LimitError(f"{file} is larger than limits.model_bytes", hint="raise convc.Limits(model_bytes=)")
        text = Path(path).read_text("utf-8")
        arrays = read_tensors(weights.read_bytes(), str(weights)) if weights.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelError(f"cannot read {os.fspath(path)}: {reason}", hint="give a text as convc prints") from error
    return parse(text, weights=arrays, limits=limits)


def with_input_shapes(graph: Graph, input_shapes: InputShapes) -> Graph:
    """The graph with other shapes of inputs, all types inferred again; a symbol that is fixed is fixed everywhere.

    Raises InputError for unknown inputs, ranks that differ and sizes of one symbol that disagree, and ModelError,
    naming the node, where the network cannot take the shape.
    """
    if not input_shapes:
        return graph
    inputs = {node.name: node for node in graph.inputs}
    bound: dict[str, Size] = {}
    fixed: dict[str, Size] = {}
    shapes: dict[str, list[Size]] = {}
    for name, wishes in input_shapes.items():
        if name not in inputs:
            raise InputError(f"input_shapes names {name}, which is no input", hint=f"inputs are {', '.join(inputs)}")
        node = inputs[name]
        if isinstance(wishes, str) or len(wishes) != node.type.rank:
            raise InputError(
                f"input_shapes gives {name} the shape {wishes!r}, expected {node.type.rank} sizes as in {node.type}",
                hint="one number, name or None for each axis",
            )
        shapes[name] = [_wished(node, axis, wish) for axis, wish in enumerate(wishes)]
        for old, new in zip(node.type.shape, shapes[name], strict=True):
            symbol = str(old)
            if not isinstance(old, Dim) or old != Dim.symbol(symbol) or old == new:
                continue
            if fixed.setdefault(symbol, new) != new:
                found = f"{fixed[symbol]} and {new}"
                raise InputError(f"input_shapes gives {symbol} as both {found}", hint="make them agree")
            bound[symbol] = new
    rebound = graph.bind(**bound) if bound else graph
    made: dict[str, Node] = {}
    for node in rebound.nodes:
        if node.name in shapes:
            made[node.name] = graph_input(node.name, node.type.dtype, shapes[node.name])
        elif node.op == "constant":
            made[node.name] = node
        else:
            operands = [made[i] if i is not None else None for i in node.inputs]
            made[node.name] = make_node(node.op, node.name, operands, node.attrs, source=node.source)
    nominal = {**graph.nominal, **{str(new): graph.nominal[s] for s, new in bound.items() if isinstance(new, Dim)}}
    return Graph.build(graph.name, made.values(), graph.outputs, nominal)


def _wished(node: Node, axis: int, wish: int | str | None) -> Size:
    if wish is None:
        return node.type.shape[axis]
    if isinstance(wish, str):
        return Dim.symbol(wish)
    if isinstance(wish, bool) or not isinstance(wish, int) or wish < 1:
        raise InputError(
            f"input_shapes gives axis {axis} of {node.name} as {wish!r}", hint="use a positive number, a name, or None"
        )
    return wish


__all__ = ["InputShapes", "read_source", "read_text", "with_input_shapes"]
