"""Shape arithmetic: operators whose result is computed at import where their inputs are known, symbols included.

Each evaluator gives Known elements, or raises UnknownError, and then the operator's importer runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from convc.dims import Dim, Size
from convc.errors import ModelError
from convc.frontends.onnx.context import Call, Evaluator, Value
from convc.frontends.onnx.known import ELEMENTWISE, MOST_ELEMENTS, Known, UnknownError, cast, elementwise
from convc.frontends.onnx.tensors import dtype_of
from convc.ops.base import normal_axis
from convc.types import Array, DType, product


def known_input(call: Call, index: int) -> Known:
    """The small known elements of an input. Raises UnknownError."""
    known = call.known(index)
    if known is None or not known.small:
        raise UnknownError
    return known


def _like(source: Known, found: Any) -> Known:
    array = np.asarray(found, object if source.symbolic else None)
    if array.size > MOST_ELEMENTS:
        raise UnknownError
    return Known.make(source.dtype, array) if source.symbolic else Known(source.dtype, array)


def _fixed(call: Call, index: int, what: str) -> tuple[int, ...]:
    """Sizes that an input gives. Raises UnknownError where one is symbolic."""
    sizes = call.sizes(index, what)
    if any(isinstance(s, Dim) for s in sizes):
        raise UnknownError
    return tuple(s for s in sizes if isinstance(s, int))


def _fold(call: Call) -> Known:
    operands = [known_input(call, i) for i in range(call.count)]
    if call.op not in {"Max", "Min"}:
        return _checked(elementwise(call.op, operands))
    total = operands[0]
    for operand in operands[1:]:
        total = elementwise(call.op, [total, operand])
    return _checked(total)


def _checked(known: Known) -> Known:
    if known.array.size > MOST_ELEMENTS:
        raise UnknownError
    return known


def _identity(call: Call) -> Value:
    """Known values under another name: weights that several nodes share stay one constant."""
    value = call.value(0)
    if value.known is None and not (value.node is not None and value.node.op == "constant"):
        raise UnknownError
    return value


def _mod(call: Call) -> Known:
    if call.flag("fmod"):
        raise UnknownError
    return _fold(call)


def shape_of(call: Call) -> Known:
    """Sizes of the input; opset 15 takes part of them."""
    sizes = call.type(0).shape
    start, end = call.integer("start", 0), call.integer("end", len(sizes))
    return Known.make(DType.I64, [*sizes[slice(start, end)]] or np.empty(0, object))


def size_of(call: Call) -> Known:
    """The input's number of elements."""
    return Known.make(DType.I64, product(call.type(0).shape))


def _gather(call: Call) -> Known:
    data, indices = known_input(call, 0), known_input(call, 1)
    if indices.symbolic:
        raise UnknownError
    axis = normal_axis(call.integer("axis", 0), data.array.ndim)
    return _like(data, np.take(data.array, indices.array, axis))


def _slice(call: Call) -> Known:
    data = known_input(call, 0)
    index: list[slice] = [slice(None)] * data.array.ndim
    for axis, start, end, step in slices(call, data.array.ndim):
        if isinstance(start, Dim) or isinstance(end, Dim):
            raise UnknownError
        size = data.array.shape[axis]
        if step < 0:
            start = min(start + size if start < 0 else start, size - 1)
            end = end + size if end < 0 else end
            index[axis] = slice(max(start, 0), end if end >= 0 else None, step)
        else:
            index[axis] = slice(start, end, step)
    return _like(data, data.array[tuple(index)])


def slices(call: Call, rank: int) -> list[tuple[int, Size, Size, int]]:
    """Axis, start, end and step of each axis that Slice names; from attributes before opset 10."""
    starts: Sequence[Size]
    ends: Sequence[Size]
    if call.opset < 10:
        starts, ends = call.ints_attr("starts") or (), call.ints_attr("ends") or ()
        axes = call.ints_attr("axes", range(len(starts))) or ()
        steps: tuple[int, ...] = (1,) * len(starts)
    else:
        starts, ends = call.sizes(1, "starts"), call.sizes(2, "ends")
        axes = call.ints(3, "axes") if call.has(3) else tuple(range(len(starts)))
        steps = call.ints(4, "steps") if call.has(4) else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ModelError(
            f"{len(starts)} starts, {len(ends)} ends, {len(axes)} axes, {len(steps)} steps", hint="give as many of each"
        )
    if 0 in steps:
        raise ModelError("step 0", hint="use a positive or negative step")
    return [(normal_axis(a, rank), s, e, p) for a, s, e, p in zip(axes, starts, ends, steps, strict=True)]


def _squeeze(call: Call) -> Known:
    data = known_input(call, 0)
    axes = call.axes(1, data.array.ndim)
    return _like(data, np.squeeze(data.array, axes))


def _unsqueeze(call: Call) -> Known:
    data = known_input(call, 0)
    return _like(data, data.array.reshape(unsqueezed(call, data.array.shape)))


def unsqueezed(call: Call, shape: Sequence[Size]) -> list[Size]:
    """The shape with sizes 1 put in at the new axes."""
    given = call.ints_attr("axes") if call.has_attr("axes") else call.ints(1, "axes")
    rank = len(shape) + len(given or ())
    axes = {normal_axis(a, rank) for a in given or ()}
    if len(axes) != len(given or ()):
        raise ModelError(f"axes={given} names an axis twice", hint="name each axis once")
    rest = iter(shape)
    return [1 if i in axes else next(rest) for i in range(rank)]


def _concat(call: Call) -> Known:
    parts = [known_input(call, i) for i in range(call.count)]
    axis = call.integer("axis")
    if not any(p.symbolic for p in parts):
        return _checked(Known(parts[0].dtype, np.concatenate([p.array for p in parts], axis)))
    return _checked(Known.make(parts[0].dtype, np.concatenate([p.objects for p in parts], axis)))


def _cast(call: Call) -> Known:
    return cast(known_input(call, 0), dtype_of(call.integer("to"), "the result"))


def _cast_like(call: Call) -> Known:
    return cast(known_input(call, 0), call.type(1).dtype)


def _reshape(call: Call) -> Known:
    data = known_input(call, 0)
    target = list(_fixed(call, 1, "shape"))
    if not call.flag("allowzero"):
        target = [data.array.shape[i] if s == 0 else s for i, s in enumerate(target)]
    return _like(data, data.array.reshape(target))


def _flatten(call: Call) -> Known:
    data = known_input(call, 0)
    shape, axis = data.array.shape, call.integer("axis", 1)
    return _like(data, data.array.reshape(math.prod(shape[:axis]), -1))


def _transpose(call: Call) -> Known:
    data = known_input(call, 0)
    return _like(data, np.transpose(data.array, call.ints_attr("perm")))


def _expand(call: Call) -> Known:
    data, target = known_input(call, 0), _fixed(call, 1, "shape")
    if math.prod(target) * max(data.array.size, 1) > MOST_ELEMENTS:
        raise UnknownError
    return _like(data, np.broadcast_to(data.array, np.broadcast_shapes(data.array.shape, target)))


def _tile(call: Call) -> Known:
    data, repeats = known_input(call, 0), _fixed(call, 1, "repeats")
    if len(repeats) != data.array.ndim or math.prod(repeats) * data.array.size > MOST_ELEMENTS:
        raise UnknownError
    return _like(data, np.tile(data.array, repeats))


def _reduce(call: Call) -> Known:
    data = known_input(call, 0)
    axes = call.axes(1, data.array.ndim)
    if axes is None or not axes:
        if call.flag("noop_with_empty_axes"):
            return data
        axes = tuple(range(data.array.ndim))
    if data.dtype.is_float or data.dtype is DType.BOOL:
        raise UnknownError
    step = {"ReduceProd": "Mul", "ReduceSum": "Add", "ReduceMax": "Max", "ReduceMin": "Min"}[call.op]
    kept = [i for i in range(data.array.ndim) if i not in axes]
    rows = np.transpose(data.array, [*axes, *kept])
    rows = rows.reshape(-1, *(data.array.shape[i] for i in kept))
    if not len(rows):
        raise UnknownError
    total = Known(data.dtype, rows[0])
    for row in rows[1:]:
        total = elementwise(step, [total, Known(data.dtype, row)])
    shape = [
        1 if i in axes else s for i, s in enumerate(data.array.shape) if call.flag("keepdims", True) or i not in axes
    ]
    return Known(data.dtype, np.asarray(total.array).reshape(shape))


def _constant_of_shape(call: Call) -> Known:
    shape = call.sizes(0, "shape")
    value = fill_value(call)
    if any(isinstance(s, Dim) or s < 0 for s in shape):
        raise UnknownError
    sizes = [s for s in shape if isinstance(s, int)]
    if math.prod(sizes) > MOST_ELEMENTS:
        raise UnknownError
    return Known(DType.of(value), np.full(sizes, value.reshape(())))


def fill_value(call: Call) -> Array:
    """The one element of ConstantOfShape."""
    if not call.has_attr("value"):
        return np.zeros(1, np.float32)
    value = call.builder.reader.read(call.attributes["value"].t, "attribute value")
    if value.size != 1:
        raise ModelError(f"attribute value has {value.size} elements, expected 1", hint="check the exporter")
    return value


def _range(call: Call) -> Known:
    operands = [known_input(call, i) for i in range(3)]
    count = range_count(operands)
    if count > MOST_ELEMENTS:
        raise UnknownError
    return Known(operands[0].dtype, range_array(operands, count))


def range_count(operands: Sequence[Known]) -> int:
    """How many elements Range has. Raises UnknownError where its ends are symbolic."""
    if any(o.symbolic for o in operands):
        raise UnknownError
    start, limit, delta = (o.array.reshape(()).item() for o in operands)
    if not delta:
        raise ModelError("delta is 0", hint="use another step")
    return max(math.ceil(float((limit - start) / delta)), 0)


def range_array(operands: Sequence[Known], count: int) -> Array:
    """The elements of Range."""
    dtype = operands[0].dtype.numpy
    wide = np.dtype(np.float32) if dtype == np.float16 else dtype
    start, _, delta = (o.array.reshape(()).astype(wide) for o in operands)
    return np.asarray(start + np.arange(count).astype(wide) * delta).astype(dtype)


def _split(call: Call) -> list[Known]:
    data = known_input(call, 0)
    axis = normal_axis(call.integer("axis", 0), data.array.ndim)
    parts = split_sizes(call, data.array.shape[axis])
    edges = np.cumsum(parts)[:-1]
    return [_like(data, part) for part in np.split(data.array, edges, axis)]


def split_sizes(call: Call, size: Size) -> list[int]:
    """Sizes of Split's outputs: given (attribute, or input from opset 13), or as equal as can be."""
    outputs = call.integer("num_outputs", len(call.proto.output))
    given = call.ints_attr("split") if call.has_attr("split") else call.ints(1, "split") if call.has(1) else None
    if given is not None:
        if sum(given) != size or min(given, default=0) < 0 or len(given) != len(call.proto.output):
            raise ModelError(f"split={list(given)} does not divide size {size}", hint="parts must add up to the size")
        return list(given)
    if isinstance(size, Dim):
        raise ModelError(f"cannot split symbolic size {size} in {outputs}", hint="fix it with input_shapes=")
    if call.opset < 18 and size % outputs:
        raise ModelError(f"cannot split size {size} in {outputs} equal parts", hint="give the parts' sizes")
    part = -(-size // outputs)
    return [min(part, max(size - i * part, 0)) for i in range(outputs)]


def constant_array(call: Call) -> Array:
    """The elements of Constant, from whichever attribute gives them."""
    given = [name for name in call.attributes]
    if len(given) != 1:
        raise ModelError(f"{len(given)} values are given, expected 1", hint="check the exporter")
    attribute = call.attributes[given[0]]
    if given[0] == "value":
        return call.builder.reader.read(attribute.t, "attribute value")
    if given[0] == "value_float":
        return np.array(attribute.f, np.float32)
    if given[0] == "value_floats":
        return np.array(attribute.floats, np.float32)
    if given[0] == "value_int":
        return np.array(attribute.i, np.int64)
    if given[0] == "value_ints":
        return np.array(attribute.ints, np.int64)
    raise ModelError(f"attribute {given[0]} is not supported", hint="use value, value_float(s) or value_int(s)")


def _constant(call: Call) -> Known:
    return Known.of(constant_array(call))


EVALUATORS: dict[str, Evaluator] = {
    **dict.fromkeys((name for name in ELEMENTWISE if name != "Mod"), _fold),
    "Mod": _mod,
    "Identity": _identity,
    "Shape": shape_of,
    "Size": size_of,
    "Gather": _gather,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "ReduceProd": _reduce,
    "ReduceSum": _reduce,
    "ReduceMax": _reduce,
    "ReduceMin": _reduce,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Split": _split,
    "Constant": _constant,
}
"""By ONNX operator."""
