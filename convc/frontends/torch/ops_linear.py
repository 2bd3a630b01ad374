"""Importers of matrix products, attention, and sums along an axis."""

from __future__ import annotations

import math

import numpy as np

from convc.dims import Dim
from convc.errors import ModelError
from convc.frontends.scales import FIX_SIZES
from convc.frontends.torch.context import Call, Const, Importer
from convc.ir.graph import Node
from convc.ops.base import static_size
from convc.types import DType, TensorType


def _linear(call: Call) -> Node:
    return call.emit("linear", call.x, call.node("weight"), call.optional("bias"))


def _transposed(call: Call, value: Const) -> Node:
    """A constant matrix with its axes exchanged: weights that were transposed come back as they lie in memory."""
    return call.materialise(Const(value.tensor.t(), value.name))


def _product(call: Call, a: Node, b: Node | Const, bias: Node | None = None) -> Node:
    """The product a b; one with a constant matrix is linear."""
    if isinstance(b, Const) and b.tensor.dim() == 2 and a.type.rank >= 2 and a.type.dtype.is_float:
        w = _transposed(call, b)
        if bias is None or bias.type.shape == (w.type.shape[0],):
            return call.emit("linear", a, w, bias)
    y = call.emit("matmul", a, call.materialise(b))
    return y if bias is None else call.emit("add", bias, y)


def _matmul(call: Call) -> Node:
    values = list(call.arguments.values())
    return _product(call, call.materialise(values[0]), values[1])


def _addmm(left: str, right: str) -> Importer:
    """The sum beta C + alpha A B."""

    def convert(call: Call) -> Node:
        c, a = call.x, call.node(left)
        alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
        if alpha == 1.0 and beta == 1.0:
            return _product(call, a, call.get(right), c)
        y = call.emit("mul", _product(call, a, call.get(right)), call.scalar(alpha, a.type.dtype))
        return call.emit("add", call.emit("mul", c, call.scalar(beta, a.type.dtype)), y)

    return convert


def _attention(call: Call) -> Node:
    """softmax(q k^T scale + mask) v over the last two axes. Source: Vaswani et al. 2017, equation 1."""
    q, k, v = call.node("query"), call.node("key"), call.node("value")
    if call.flag("enable_gqa"):
        raise ModelError("enable_gqa=True is not supported", hint="repeat keys and values before attention")
    if call.real("dropout_p", 0.0):
        raise ModelError("dropout_p is not 0", hint="pass 0.0 where the module is not in training mode")
    depth = q.type.shape[-1]
    if isinstance(depth, Dim):
        raise ModelError(f"the last axis of the query {q.type} is symbolic", hint=FIX_SIZES)
    scale = call.real("scale", 1 / math.sqrt(depth))
    last = k.type.rank - 1
    keys = call.transpose(k, [*range(last - 1), last, last - 1])
    scores = call.emit("matmul", call.emit("mul", q, call.scalar(scale, q.type.dtype)), keys)
    mask = call.optional("attn_mask")
    if call.flag("is_causal"):
        rows, columns = scores.type.shape[-2:]
        if isinstance(rows, Dim) or isinstance(columns, Dim):
            raise ModelError(f"a causal mask of symbolic size {rows} x {columns}", hint=FIX_SIZES)
        mask = call.constant(np.tri(rows, columns, dtype=np.bool_), "mask")
    if mask is not None and mask.type.dtype is DType.BOOL:
        scores = call.emit("where", mask, scores, call.scalar(-math.inf, q.type.dtype))
    elif mask is not None:
        scores = call.emit("add", scores, mask)
    return call.emit("matmul", call.emit("softmax", scores, axis=-1), v)


def _cumsum(call: Call) -> Node:
    """Sums up to each element along an axis: of all, with those that do not count left out, so that what is not finite
    stays out of the sums before it.
    """
    x = call.cast(call.x, call.dtype)
    axis, rank = call.axis("dim", x.type.rank), x.type.rank
    if not rank:
        return x
    count = static_size(x.type.shape[axis], "the axis that is summed")
    call.builder.limits.check_tensor(call.name, TensorType(DType.BOOL, (count, count)), {})
    last = [i for i in range(rank) if i != axis] + [axis]
    moved = call.transpose(x, last)
    rows = call.reshape(moved, (*moved.type.shape[:-1], 1, count))
    counted = call.constant(np.tril(np.ones((count, count), bool)), "counted")  # [sum, element]
    kept = call.emit("where", counted, rows, call.scalar(0, x.type.dtype))
    summed = call.emit("reduce_sum", kept, axes=(rank,), keepdims=False)
    return call.transpose(summed, [last.index(i) for i in range(rank)])


PRODUCTS: dict[str, Importer] = {
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "bmm": _matmul,
    "addmm": _addmm("mat1", "mat2"),
    "baddbmm": _addmm("batch1", "batch2"),
    "cumsum": _cumsum,
    "scaled_dot_product_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": lambda call: [_attention(call), None],
}
"""By ATen operator."""
