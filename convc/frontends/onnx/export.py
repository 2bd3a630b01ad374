"""A Graph as an ONNX model: constants become initializers, fused epilogues nodes of their own, symbols dim_params."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from convc.dims import Dim, FloorDiv, Size
from convc.errors import LimitError, ModelError
from convc.files import atomic_write
from convc.frontends.onnx.export_ops import EXPORTERS
from convc.frontends.onnx.inputs import NOMINAL_KEY
from convc.frontends.onnx.tensors import ONNX_TYPES
from convc.ir.graph import Graph, Node
from convc.types import Array, TensorType

OPSET = 18
"""The oldest opset that is written; operators that are newer raise it."""
_LARGEST_FILE = (1 << 31) - 1


class Writer:
    """The ONNX model under construction. Values are named after nodes, helpers as `name.1`.

    An ONNX node is named after the node's source; where there are several, they are its doc_string.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.opset = OPSET
        self.nodes: list[onnx.NodeProto] = []
        self.titles: set[str] = set()
        self.initializers: list[onnx.TensorProto] = []
        self.taken = {n.name for n in graph.nodes} | {o.name for o in graph.outputs}
        self.counters: dict[str, int] = {}
        self.scalars: dict[Size, str] = {}
        self.base = graph.name
        self.sources: tuple[str, ...] = ()
        self.names = self._value_names()

    def _value_names(self) -> dict[str, str]:
        """A name for each node's value; a computed output has the output's name, and nothing else has."""
        outputs = {o.name for o in self.graph.outputs}
        names: dict[str, str] = {}
        for output in self.graph.outputs:
            if self.graph[output.node].op not in {"input", "constant"}:
                names.setdefault(output.node, output.name)
        for node in self.graph.inputs:
            if any(o.name == node.name and o.node != node.name for o in self.graph.outputs):
                raise ModelError(f"output and input are both named {node.name}", hint="rename one of them")
        for node in self.graph.nodes:
            clash = node.name in outputs and names.get(node.name) != node.name and node.op != "input"
            names.setdefault(node.name, self.fresh(node.name) if clash else node.name)
        return names

    def fresh(self, base: str) -> str:
        """A name that nothing has."""
        while True:
            self.counters[base] = self.counters.get(base, 0) + 1
            name = f"{base}.{self.counters[base]}"
            if name not in self.taken:
                self.taken.add(name)
                return name

    def emit(self, op: str, inputs: Sequence[str], out: str | None = None, *, since: int = 0, **attrs: Any) -> str:
        """An ONNX node; its output's name. `since` is the opset that it needs."""
        self.opset = max(self.opset, since)
        name = out or self.fresh(self.base)
        title = self.sources[0] if out and len(self.sources) == 1 else name
        if title in self.titles:  # another node came from the same one of the description
            title = name if name not in self.titles else self.fresh(name)
        self.titles.add(title)
        origin = f"from {', '.join(self.sources)}" if len(self.sources) > 1 else ""
        proto = helper.make_node(op, list(inputs), [name], name=title, doc_string=origin)
        proto.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attrs.items()))
        self.nodes.append(proto)
        return name

    def constant(self, array: Array, name: str | None = None) -> str:
        """An initializer; its name."""
        name = name or self.fresh(self.base)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def ints(self, values: Sequence[int]) -> str:
        """An initializer of i64."""
        return self.constant(np.array(values, np.int64))

    def sizes(self, sizes: Sequence[Size]) -> str:
        """A vector of sizes: an initializer, or computed from the inputs' shapes where sizes are symbolic."""
        fixed = [s for s in sizes if isinstance(s, int)]
        if len(fixed) == len(sizes):
            return self.ints(fixed)
        return self.emit("Concat", [self.size(s) for s in sizes], axis=0)

    def size(self, size: Size) -> str:
        """A vector of one size."""
        if size not in self.scalars:
            self.scalars[size] = self._polynomial(size) if isinstance(size, Dim) else self.ints([size])
        return self.scalars[size]

    def _polynomial(self, size: Dim) -> str:
        total = ""
        for monomial, factor in size.terms:
            product = self.size(factor) if factor != 1 or not monomial else ""
            for atom in monomial:
                value = self._symbol(atom) if isinstance(atom, str) else self._quotient(atom)
                product = self.emit("Mul", [product, value]) if product else value
            total = self.emit("Add", [total, product]) if total else product
        return total

    def _quotient(self, quotient: FloorDiv) -> str:
        return self.emit("Div", [self.size(quotient.numerator), self.size(quotient.denominator)])

    def _symbol(self, name: str) -> str:
        symbol = Dim.symbol(name)
        if symbol not in self.scalars:
            for node in self.graph.inputs:
                if symbol in node.type.shape:
                    axis = node.type.shape.index(symbol)
                    value = self.names[node.name]
                    self.scalars[symbol] = self.emit("Shape", [value], start=axis, end=axis + 1)
                    break
            else:
                raise ModelError(f"size {name} is no input's size", hint="bind it with graph.bind(...) first")
        return self.scalars[symbol]


def _value_info(name: str, type: TensorType) -> onnx.ValueInfoProto:
    shape = [d if isinstance(d, int) else str(d) for d in type.shape]
    return helper.make_tensor_value_info(name, ONNX_TYPES[type.dtype], shape)


def export_onnx(graph: Graph) -> onnx.ModelProto:
    """The work of `convc.frontends.onnx.to_onnx`."""
    stored = sum(n.array.nbytes for n in graph.constants)
    if stored > _LARGEST_FILE - (16 << 20):
        raise LimitError(
            f"graph {graph.name} has {stored} bytes of constants, more than an ONNX file can hold (2 GiB)",
            hint="save it as a .convc artifact",
        )
    writer = Writer(graph)
    for node in graph.nodes:
        writer.base = writer.names[node.name]
        writer.sources = node.source
        if node.op == "constant":
            writer.constant(node.array, writer.names[node.name])
        elif node.op != "input":
            _export_node(writer, node)
    _write_aliases(writer)
    proto = helper.make_graph(
        writer.nodes,
        graph.name,
        [_value_info(writer.names[n.name], n.type) for n in graph.inputs],
        [_value_info(o.name, graph[o.node].type) for o in graph.outputs],
        writer.initializers,
    )
    opsets = [helper.make_opsetid("", writer.opset)]
    model: onnx.ModelProto = helper.make_model(
        proto, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets), producer_name="convc"
    )
    if graph.dims:
        helper.set_model_props(model, {NOMINAL_KEY: " ".join(f"{symbol}={value}" for symbol, value in graph.dims)})
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the C++ checker raises ValidationError and bare ValueError
        raise ModelError(
            f"graph {graph.name} makes no valid ONNX model: {error}", hint="print the graph, and verify it"
        ) from error
    return model


def _export_node(writer: Writer, node: Node) -> None:
    exporter = EXPORTERS.get(node.op)
    if exporter is None:
        raise ModelError(f"{node} has no ONNX operator", hint="export the graph before passes that add such operators")
    try:
        exporter(writer, node)
    except ModelError as error:
        raise ModelError(f"{node}: {error.message}", hint=error.hint) from error


def _write_aliases(writer: Writer) -> None:
    """Outputs that are inputs, constants, or listed under a second name, through Identity."""
    for output in writer.graph.outputs:
        value = writer.names[output.node]
        if value != output.name:
            writer.base, writer.sources = output.name, ()
            writer.emit("Identity", [value], output.name)


def write_onnx(graph: Graph, path: str | os.PathLike[str]) -> None:
    """The work of `convc.frontends.onnx.save_onnx`."""
    model = export_onnx(graph)
    with atomic_write(path) as file:
        file.write(model.SerializeToString())
