"""Importers of matrix products and of sums along an axis."""

from __future__ import annotations

import numpy as np

from convc.dims import Dim
from convc.errors import ModelError
from convc.frontends.onnx.context import Call, Importer
from convc.frontends.scales import FIX_SIZES
from convc.ir.graph import Node
from convc.ops.base import normal_axis


def _transposed(call: Call, x: Node) -> Node:
    return call.emit("transpose", x, perm=(1, 0))


def _scaled(call: Call, x: Node, factor: float) -> Node:
    return x if factor == 1.0 else call.emit("mul", x, call.scalar_like(x, factor))


def _gemm(call: Call) -> Node:
    """Gemm: alpha A' B' + beta C. With constant B it is linear; a C of one value a column is its bias."""
    a, b = call.node(0), call.node(1)
    c = call.optional(2)
    for node, slot in ((a, "A"), (b, "B")):
        if node.type.rank != 2:
            raise ModelError(f"{slot} is %{node.name}: {node.type}, expected rank 2", hint="flatten it first")
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    if call.flag("transA"):
        a = _transposed(call, a)
    if c is not None:
        c = _scaled(call, c, beta)
    linear = call.builder.is_constant(b) and a.type.dtype.is_float
    if not linear:
        if call.flag("transB"):
            b = _transposed(call, b)
        y = _scaled(call, call.emit("matmul", a, b), alpha)
        return y if c is None else call.emit("add", y, c)
    w = b if call.flag("transB") else _transposed(call, b)
    w = _scaled(call, w, alpha)
    columns = w.type.shape[0]
    if c is None:
        return call.emit("linear", a, w)
    if all(s == 1 for s in c.type.shape[:-1]) and (not c.type.rank or c.type.shape[-1] in {1, columns}):
        if c.type.elements != columns:
            c = call.emit("expand", call.emit("reshape", c, shape=(1,)), shape=(columns,))
        elif c.type.rank != 1:
            c = call.emit("reshape", c, shape=(columns,))
        return call.emit("linear", a, w, c)
    return call.emit("add", call.emit("linear", a, w), c)


def _matmul(call: Call) -> Node:
    """A product with a constant matrix is linear."""
    a, b = call.node(0), call.node(1)
    if b.type.rank == 2 and a.type.rank >= 2 and call.builder.is_constant(b) and a.type.dtype.is_float:
        return call.emit("linear", a, _transposed(call, b))
    return call.emit("matmul", a, b)


def _cumsum(call: Call) -> Node:
    """Sums up to each element along an axis: of all, with those that do not count left out. What is not finite stays
    out of the sums before it, which a product with zeros and ones would not see to.
    """
    x = call.node(0)
    axis = normal_axis(int(call.scalar(1, "axis")), x.type.rank)
    count = x.type.shape[axis]
    if isinstance(count, Dim):
        raise ModelError(f"the size of axis {axis} of {x.type} is not fixed", hint=FIX_SIZES)
    call.builder.charge(f"the sums {call.output} along {count} elements", count * count, x.type.dtype)
    beyond = 1 if call.flag("exclusive") else 0
    every = np.ones((count, count), bool)
    counted = np.triu(every, beyond) if call.flag("reverse") else np.tril(every, -beyond)  # [sum, element]
    last = [i for i in range(x.type.rank) if i != axis] + [axis]
    moved = call.emit("transpose", x, perm=tuple(last)) if axis < x.type.rank - 1 else x
    outer = moved.type.shape[:-1]
    rows = call.emit("reshape", moved, shape=(*outer, 1, count))
    kept = call.emit("where", call.constant(counted), rows, call.scalar_like(x, 0))
    summed = call.emit("reduce_sum", kept, axes=(len(outer) + 1,), keepdims=False)
    return call.emit("transpose", summed, perm=tuple(np.argsort(last).tolist())) if moved is not x else summed


PRODUCTS: dict[str, Importer] = {"Gemm": _gemm, "MatMul": _matmul, "CumSum": _cumsum}
"""By ONNX operator."""
