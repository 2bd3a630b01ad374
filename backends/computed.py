"""Weights and statistics that the network computes itself: by products of matrices, and elementwise.

Kernels of convolutions are made for weights that are known. A convolution by computed ones is a product with its
windows laid side by side; a transposed one, a product whose columns are added where they meet, which a transposed
convolution with one tap a kernel does.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product as pairs
from math import prod
from typing import Any

import numpy as np

from convc.dims import Size
from convc.ir.graph import Graph, Node, constant, make_node
from convc.ops.base import static_size
from convc.ops.unary import activation_attrs
from convc.types import Activation, Array, product

WEIGHTS = {
    "conv2d": ("w", "b", "scale", "shift"), "conv_transpose2d": ("w", "b"), "linear": ("w", "b"),
    "batch_norm": ("gamma", "beta", "mean", "var"),
}  # fmt: skip
"""Slots whose constants kernels know, by operator."""


def computed_weights(graph: Graph) -> Graph:
    """The graph without operators whose weights depend on the inputs, computed by others."""
    found = {node.name for node in graph.nodes if _is_computed(graph, node)}
    if not found:
        return graph
    made: dict[str, Node] = {}
    for node in graph.nodes:
        if node.name in found:
            _REPLACE[node.op](_Parts(graph, made, node))
        else:
            made[node.name] = node
    return Graph.build(graph.name, made.values(), graph.outputs, graph.nominal)


def _is_computed(graph: Graph, node: Node) -> bool:
    names = [node.input(slot) for slot in WEIGHTS.get(node.op, ())]
    return any(name is not None and graph[name].op != "constant" for name in names)


class _Parts:
    """One operator on the way to being several: its operands, and the nodes that are made for it."""

    def __init__(self, graph: Graph, made: dict[str, Node], node: Node) -> None:
        self.graph, self.made, self.node = graph, made, node
        self.attrs: dict[str, Any] = dict(node.attrs)

    def operand(self, slot: str) -> Node | None:
        name = self.node.input(slot)
        return self.made[name] if name is not None else None

    def needed(self, slot: str) -> Node:
        found = self.operand(slot)
        assert found is not None
        return found

    def _fresh(self, name: str) -> str:
        while name in self.made or name in self.graph:
            name += "_"
        return name

    def emit(self, op: str, *inputs: Node | None, **attrs: Any) -> Node:
        name = self._fresh(f"{self.node.name}.{op}")
        self.made[name] = make_node(op, name, inputs, attrs, source=self.node.source)
        return self.made[name]

    def constant(self, array: Array) -> Node:
        name = self._fresh(f"{self.node.name}.constant")
        self.made[name] = constant(name, array, source=self.node.source)
        return self.made[name]

    def reshape(self, x: Node, *shape: Size) -> Node:
        return self.emit("reshape", x, shape=shape)

    def along(self, values: Node, rank: int) -> Node:
        """One value a channel, as what broadcasts over [N, C, ...]."""
        return self.reshape(values, values.type.shape[0], *[1] * (rank - 2)) if rank > 2 else values

    def by_channel(self, x: Node, slot: str, op: str) -> Node:
        """`x` and what is in a slot, one value a channel; `x` itself where there is nothing."""
        values = self.operand(slot)
        return x if values is None else self.emit(op, x, self.along(values, x.type.rank))

    def activate(self, x: Node, activation: Activation | None) -> Node:
        return x if activation is None else self.emit(activation.name, x, **activation_attrs(activation))

    def finish(self, y: Node) -> None:
        """Residual, activation, and the operator's name for what comes out."""
        residual = self.operand("residual") if "activation" in self.attrs else None
        y = self.emit("add", y, residual) if residual is not None else y
        y = self.activate(y, self.attrs.get("activation"))
        self.made[self.node.name] = make_node("identity", self.node.name, [y], {}, source=self.node.source)


def _conv2d(parts: _Parts) -> None:
    x = parts.by_channel(parts.by_channel(parts.needed("x"), "scale", "mul"), "shift", "add")
    x = parts.activate(x, parts.attrs["prologue"])
    w = parts.needed("w")
    if w.op == "constant":
        kept = {name: parts.attrs[name] for name in ("stride", "padding", "dilation", "groups")}
        y = parts.emit("conv2d", x, w, **kept)
    else:
        y = _windows_by(parts, x, w)
    parts.finish(parts.by_channel(y, "b", "add"))


def _windows_by(parts: _Parts, x: Node, w: Node) -> Node:
    """The product of kernels and windows: rows are taps of all channels, columns pixels; one product a group."""
    attrs, groups = parts.attrs, parts.attrs["groups"]
    out, per_group, rows, columns = (static_size(size, "a kernel's size") for size in w.type.shape)
    batch, _, height, width = parts.node.type.shape
    top, left, bottom, right = attrs["padding"]
    if any(attrs["padding"]):
        x = parts.emit("pad", x, before=(0, 0, top, left), after=(0, 0, bottom, right), mode="constant", value=0.0)
    taps = []
    for r, s in pairs(range(rows), range(columns)):
        tap = x
        for axis, place, count in ((2, r, height), (3, s, width)):
            start, step = place * attrs["dilation"][axis - 2], attrs["stride"][axis - 2]
            stop = (count - 1) * step + start + 1
            if (start, stop, step) != (0, tap.type.shape[axis], 1):
                tap = parts.emit("slice", tap, axis=axis, start=start, stop=stop, step=step)
        taps.append(tap)
    x = parts.emit("concat", *taps, axis=1) if len(taps) > 1 else taps[0]
    pixels, terms = product([height, width]), len(taps) * per_group
    if groups > 1 and len(taps) > 1:
        x = parts.emit("transpose", parts.reshape(x, batch, len(taps), groups, per_group, pixels), perm=(0, 2, 1, 3, 4))
    x = parts.reshape(x, batch, groups, terms, pixels)
    w = parts.reshape(w, groups, out // groups, per_group, len(taps))
    w = parts.reshape(parts.emit("transpose", w, perm=(0, 1, 3, 2)), groups, out // groups, terms)
    return parts.reshape(parts.emit("matmul", w, x), batch, out, height, width)


def _conv_transpose2d(parts: _Parts) -> None:
    attrs, x, w = parts.attrs, parts.needed("x"), parts.needed("w")
    kept = {name: attrs[name] for name in ("stride", "padding", "dilation", "output_padding")}
    if w.op == "constant":
        y = parts.emit("conv_transpose2d", x, w, groups=attrs["groups"], **kept)
    else:
        y = _columns_by(parts, x, w, kept)
    parts.finish(parts.by_channel(y, "b", "add"))


def _columns_by(parts: _Parts, x: Node, w: Node, kept: Mapping[str, Any]) -> Node:
    """Each pixel becomes a column of taps, added where they meet."""
    batch, _, height, width = x.type.shape
    groups, (inputs, out, *kernel) = parts.attrs["groups"], (static_size(s, "a kernel's size") for s in w.type.shape)
    taps = prod(kernel)
    w = parts.emit("transpose", parts.reshape(w, groups, inputs // groups, out * taps), perm=(0, 2, 1))
    x = parts.reshape(x, batch, groups, inputs // groups, product([height, width]))
    columns = parts.reshape(parts.emit("matmul", w, x), batch, groups * out * taps, height, width)
    one = np.tile(np.eye(taps, dtype=x.type.dtype.numpy), (groups * out, 1)).reshape(-1, 1, *kernel)
    return parts.emit("conv_transpose2d", columns, parts.constant(one), groups=groups * out, **kept)


def _linear(parts: _Parts) -> None:
    y = parts.emit("matmul", parts.needed("x"), parts.emit("transpose", parts.needed("w"), perm=(1, 0)))
    bias = parts.operand("b")
    parts.finish(parts.emit("add", y, bias) if bias is not None else y)


def _batch_norm(parts: _Parts) -> None:
    var = parts.needed("var")
    epsilon = parts.constant(np.array(parts.attrs["epsilon"], var.type.dtype.numpy))
    spread = parts.emit("sqrt", parts.emit("add", var, epsilon))
    x, scale = parts.needed("x"), parts.emit("div", parts.needed("gamma"), spread)
    y = parts.emit("mul", parts.by_channel(x, "mean", "sub"), parts.along(scale, x.type.rank))
    parts.finish(parts.by_channel(y, "beta", "add"))


_REPLACE = {"conv2d": _conv2d, "conv_transpose2d": _conv_transpose2d, "linear": _linear, "batch_norm": _batch_norm}
