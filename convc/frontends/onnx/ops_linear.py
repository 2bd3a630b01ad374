"""Importers of matrix products."""

from __future__ import annotations

from convc.errors import ModelError
from convc.frontends.onnx.context import Call, Importer
from convc.ir.graph import Node


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


PRODUCTS: dict[str, Importer] = {"Gemm": _gemm, "MatMul": _matmul}
"""By ONNX operator."""
