"""Importers of reductions and softmax."""

from __future__ import annotations

import math

from convc.errors import ModelError
from convc.frontends.torch.context import Call, Importer
from convc.ir.graph import Node
from convc.types import DType


def reduction(op: str) -> Importer:
    """Over `dim`, or over all axes; the mean of whole planes is a pooling."""

    def convert(call: Call) -> Node:
        x = call.cast(call.x, call.dtype)
        axes = call.axes("dim", x.type.rank)
        return _reduced(call, op, x, axes, keep=call.flag("keepdim"))

    return convert


def _reduced(call: Call, op: str, x: Node, axes: tuple[int, ...], *, keep: bool) -> Node:
    if op == "reduce_mean" and x.type.rank == 4 and sorted(axes) == [2, 3]:
        y = call.emit("global_avg_pool", x)
        return y if keep else call.reshape(y, x.type.shape[:2])
    return call.emit(op, x, axes=tuple(sorted(axes)), keepdims=keep)


def _extremum(op: str) -> Importer:
    """Values and indices along one axis."""

    def convert(call: Call) -> list[Node]:
        x, keep = call.x, call.flag("keepdim")
        axis = call.axis("dim", x.type.rank)
        if op == "reduce_min" and not x.type.dtype.is_float:
            raise ModelError(f"the least of {x.type} is not supported", hint="cast it to float32")
        place = call.emit("argmax", call.emit("neg", x) if op == "reduce_min" else x, axis=axis, keepdims=keep)
        return [call.emit(op, x, axes=(axis,), keepdims=keep), place]

    return convert


def _arg(*, least: bool) -> Importer:
    """Without `dim`, over all elements in order."""

    def convert(call: Call) -> Node:
        x = call.emit("neg", call.x) if least else call.x
        if call.get("dim") is None:
            return call.emit("argmax", call.reshape(x, (x.type.elements,)), axis=0, keepdims=False)
        return call.emit("argmax", x, axis=call.axis("dim", x.type.rank), keepdims=call.flag("keepdim"))

    return convert


def _norm(order: str) -> Importer:
    """The 1-, 2- or maximum norm over `dim`."""

    def convert(call: Call) -> Node:
        x, power = call.x, call.real(order, 2.0)
        options = {"axes": call.axes("dim", x.type.rank), "keepdims": call.flag("keepdim")}
        if power == 2.0:
            return call.emit("reduce_l2", x, **options)
        if power not in {1.0, math.inf}:
            raise ModelError(f"a norm of order {power} is not supported", hint="use 1, 2 or inf")
        return call.emit("reduce_sum" if power == 1.0 else "reduce_max", call.emit("abs", x), **options)

    return convert


def _softmax(op: str) -> Importer:
    def convert(call: Call) -> Node:
        x = call.cast(call.x, call.dtype)
        return call.emit(op, x, axis=call.axis("dim", x.type.rank))

    return convert


def _all(call: Call) -> Node:
    """Whether all elements are true: the least of zeros and ones."""
    return _any(call, "reduce_min")


def _any(call: Call, op: str = "reduce_max") -> Node:
    x = call.x
    if x.type.dtype is not DType.BOOL:
        raise ModelError(f"truth of {x.type} is not supported", hint="compare it first")
    ones = call.emit("cast", x, to=DType.F32)
    y = call.emit(op, ones, axes=call.axes("dim", x.type.rank), keepdims=call.flag("keepdim"))
    return call.emit("cast", y, to=DType.BOOL)


REDUCTIONS: dict[str, Importer] = {
    "mean": reduction("reduce_mean"),
    "sum": reduction("reduce_sum"),
    "amax": reduction("reduce_max"),
    "amin": reduction("reduce_min"),
    "prod": reduction("reduce_prod"),
    "max": reduction("reduce_max"),
    "min": reduction("reduce_min"),
    "max.dim": _extremum("reduce_max"),
    "min.dim": _extremum("reduce_min"),
    "argmax": _arg(least=False),
    "argmin": _arg(least=True),
    "any": _any,
    "all": _all,
    "linalg_vector_norm": _norm("ord"),
    "norm": _norm("p"),
    "softmax": _softmax("softmax"),
    "_softmax": _softmax("softmax"),
    "_safe_softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
    "_log_softmax": _softmax("log_softmax"),
}
"""By ATen operator, with its overload where that matters."""
