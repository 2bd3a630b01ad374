"""Operators that rearrange elements without arithmetic: views, joins, parts."""

from __future__ import annotations

import numpy as np

from convc.errors import InputError, ModelError
from convc.ops.base import Arrays, Attr, Attrs, Operator, Types, given, normal_axis
from convc.ops.check import expect_same_dtype, present
from convc.types import Array, Shape, Size, TensorType, broadcast_shapes, product

MOVES = frozenset({"moves"})
VIEW = frozenset({"moves", "view"})


def _text(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _expect_complete(shape: Shape) -> None:
    if any(isinstance(size, int) and size < 0 for size in shape):
        raise ModelError(f"shape {_text(shape)} has a negative size", hint="work out -1 before making the node")


def _infer_same(types: Types, attrs: Attrs) -> TensorType:
    return given(types, 0)


def _evaluate_same(arrays: Arrays, attrs: Attrs) -> Array:
    return present(arrays, 0)


def _infer_reshape(types: Types, attrs: Attrs) -> TensorType:
    x, shape = given(types, 0), attrs["shape"]
    _expect_complete(shape)
    if x.elements != product(shape):
        raise ModelError(
            f"{_text(shape)} has {product(shape)} elements, x is {x} with {x.elements}",
            hint="sizes must multiply to the same; a batch baked into a reshape must become the symbol",
        )
    return TensorType(x.dtype, shape)


def _evaluate_reshape(arrays: Arrays, attrs: Attrs) -> Array:
    return np.reshape(present(arrays, 0), attrs["shape"])


def _infer_transpose(types: Types, attrs: Attrs) -> TensorType:
    x, perm = given(types, 0), attrs["perm"]
    if sorted(perm) != list(range(x.rank)):
        raise ModelError(f"perm={perm} does not order the axes of {x}", hint=f"name each of 0 to {x.rank - 1} once")
    return TensorType(x.dtype, tuple(x.shape[axis] for axis in perm))


def _evaluate_transpose(arrays: Arrays, attrs: Attrs) -> Array:
    return np.transpose(present(arrays, 0), attrs["perm"])


def _infer_expand(types: Types, attrs: Attrs) -> TensorType:
    x, shape = given(types, 0), attrs["shape"]
    _expect_complete(shape)
    if broadcast_shapes(x.shape, shape) != shape:
        raise ModelError(f"x is {x}, which does not broadcast to {_text(shape)}", hint="give the broadcast result")
    return TensorType(x.dtype, shape)


def _evaluate_expand(arrays: Arrays, attrs: Attrs) -> Array:
    return np.broadcast_to(present(arrays, 0), attrs["shape"])


def _infer_concat(types: Types, attrs: Attrs) -> TensorType:
    if not types:
        raise ModelError("concat of nothing", hint="give one input or more")
    first = given(types, 0)
    expect_same_dtype(types, ("xs",))
    axis = normal_axis(attrs["axis"], first.rank)
    total: Size = 0
    for index in range(len(types)):
        type = given(types, index)
        if type.rank != first.rank or any(
            a != b for i, (a, b) in enumerate(zip(type.shape, first.shape, strict=True)) if i != axis
        ):
            raise ModelError(
                f"input {index} is {type}, expected {first} but for axis {axis}", hint="crop, pad or transpose it"
            )
        total = total + type.shape[axis]
    return TensorType(first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :]))


def _evaluate_concat(arrays: Arrays, attrs: Attrs) -> Array:
    return np.concatenate([a for a in arrays if a is not None], attrs["axis"])


def _infer_slice(types: Types, attrs: Attrs) -> TensorType:
    x, start, stop, step = given(types, 0), attrs["start"], attrs["stop"], attrs["step"]
    axis = normal_axis(attrs["axis"], x.rank)
    size = x.shape[axis]
    if step == 0:
        raise ModelError("step=0", hint="use a positive or negative step")
    low, high = (0, size) if step > 0 else (-1, size - 1)
    beyond = [isinstance(high, int) and isinstance(v, int) and v > high for v in (start, stop)]
    if start < 0 or (isinstance(stop, int) and stop < low) or any(beyond):
        raise ModelError(
            f"start={start}, stop={stop}, step={step} do not fit axis {axis} of {x}",
            hint=f"start and stop must lie in {low} to {high}, counted from the front",
        )
    span = stop - start if step > 0 else start - stop
    length = (span + (abs(step) - 1)) // abs(step)
    length = max(length, 0) if isinstance(length, int) else length
    return TensorType(x.dtype, (*x.shape[:axis], length, *x.shape[axis + 1 :]))


def _evaluate_slice(arrays: Arrays, attrs: Attrs) -> Array:
    x = present(arrays, 0)
    stop = None if attrs["step"] < 0 and attrs["stop"] == -1 else attrs["stop"]
    index = [slice(None)] * x.ndim
    index[attrs["axis"]] = slice(attrs["start"], stop, attrs["step"])
    return x[tuple(index)]


def _infer_gather(types: Types, attrs: Attrs) -> TensorType:
    x, indices = given(types, 0), given(types, 1)
    if not np.issubdtype(indices.dtype.numpy, np.integer):
        raise ModelError(f"indices are {indices}, expected integers", hint="insert a cast")
    axis = normal_axis(attrs["axis"], x.rank)
    return TensorType(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _evaluate_gather(arrays: Arrays, attrs: Attrs) -> Array:
    x, indices = present(arrays, 0), present(arrays, 1)
    size = x.shape[attrs["axis"]]
    if indices.size and (indices.min() < -size or indices.max() >= size):
        raise InputError(
            f"gather: indices {indices.min()} to {indices.max()} leave axis {attrs['axis']} of size {size}",
            hint=f"use {-size} to {size - 1}",
        )
    return np.asarray(np.take(x, indices, attrs["axis"]))


def _infer_pad(types: Types, attrs: Attrs) -> TensorType:
    x, before, after, mode = given(types, 0), attrs["before"], attrs["after"], attrs["mode"]
    if len(before) != x.rank or len(after) != x.rank:
        raise ModelError(f"before={before} and after={after} do not fit {x}", hint=f"give {x.rank} values each")
    shape: list[Size] = []
    for axis, size in enumerate(x.shape):
        low, high = before[axis], after[axis]
        padded = size + low + high
        if isinstance(padded, int) and padded < 0:
            raise ModelError(f"axis {axis} of {x} is cropped by more than it has", hint="crop less")
        kept = size + min(low, 0) + min(high, 0)
        if mode != "constant" and isinstance(kept, int) and max(low, high) > 0:
            reach = {"reflect": max(kept - 1, 0), "wrap": kept}.get(mode, max(low, high) if kept else 0)
            if max(low, high) > reach:
                raise ModelError(
                    f"{mode} padding of {max(low, high)} on axis {axis} of {x} reaches too far",
                    hint=f"pad by at most {reach}, or in constant mode",
                )
        shape.append(padded)
    return TensorType(x.dtype, tuple(shape))


def _evaluate_pad(arrays: Arrays, attrs: Attrs) -> Array:
    """Crops first, then pads."""
    x, before, after, mode = present(arrays, 0), attrs["before"], attrs["after"], attrs["mode"]
    x = x[tuple(slice(max(-b, 0), size - max(-a, 0)) for b, a, size in zip(before, after, x.shape, strict=True))]
    edges = [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]
    if mode == "constant":
        fill = np.asarray(attrs["value"]).astype(x.dtype)
        return np.pad(x, edges, constant_values=fill)
    return np.pad(x, edges, mode=mode)


_SHAPE = Attr("shape", "sizes", doc="sizes of the output, complete")

OPERATORS: tuple[Operator, ...] = (
    Operator("identity", ("x",), _infer_same, _evaluate_same, (), "x.", traits=VIEW),
    Operator("dropout", ("x",), _infer_same, _evaluate_same, (Attr("ratio", "float", 0.5, "has no effect"),),
             "x: dropout does nothing in inference.", traits=VIEW),
    Operator("reshape", ("x",), _infer_reshape, _evaluate_reshape, (_SHAPE,), "x with other sizes, same order.",
             traits=VIEW),
    Operator("transpose", ("x",), _infer_transpose, _evaluate_transpose,
             (Attr("perm", "ints", doc="for each axis of the output, the axis of x"),), "x with its axes reordered.",
             traits=MOVES),
    Operator("expand", ("x",), _infer_expand, _evaluate_expand, (_SHAPE,), "x broadcast to a shape.", traits=MOVES),
    Operator("concat", ("xs*",), _infer_concat, _evaluate_concat, (Attr("axis", "int", doc="axis to join along"),),
             "The inputs one after the other along an axis.", traits=MOVES),
    Operator("slice", ("x",), _infer_slice, _evaluate_slice,
             (Attr("axis", "int", doc="axis to cut"), Attr("start", "int", doc="first index"),
              Attr("stop", "size", doc="exclusive; -1 with a negative step means before the first"),
              Attr("step", "int", 1)),
             "Elements start, start + step, ... of one axis.", traits=MOVES),
    Operator("gather", ("x", "indices"), _infer_gather, _evaluate_gather, (Attr("axis", "int", 0),),
             "x at the indices of one axis; negative ones count from the end.", traits=MOVES),
    Operator("pad", ("x",), _infer_pad, _evaluate_pad,
             (Attr("before", "ints", doc="a value an axis; negative crops"),
              Attr("after", "ints", doc="a value an axis; negative crops"),
              Attr("mode", "str", "constant", "what goes beyond the border", ("constant", "reflect", "edge", "wrap")),
              Attr("value", "float", 0.0, "for constant mode")),
             "x with a border added or taken off.", traits=MOVES),
)  # fmt: skip
