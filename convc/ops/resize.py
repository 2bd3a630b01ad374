"""Resize, as ONNX defines it. Separable: each axis is a gather of a few elements with weights."""

from __future__ import annotations

import math

import numpy as np

from convc.errors import ModelError
from convc.ops.base import Arrays, Attr, Attrs, Operator, Types, given
from convc.ops.check import expect_float, expect_nonzero, present, wide
from convc.types import Array, TensorType

_COORDINATES = (
    "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric", "tf_half_pixel_for_nn",
)  # fmt: skip


def _infer_resize(types: Types, attrs: Attrs) -> TensorType:
    x, size, scales = given(types, 0), attrs["size"], attrs["scales"]
    if attrs["mode"] != "nearest":
        expect_float(x, "x")
    if len(size) != x.rank or len(scales) != x.rank:
        raise ModelError(f"size={size} and scales={scales} do not fit {x}", hint=f"give {x.rank} values each")
    expect_nonzero(x, (a for a in range(x.rank) if size[a] != x.shape[a]), "x")
    for axis, (old, new, scale) in enumerate(zip(x.shape, size, scales, strict=True)):
        if not 0 < scale < math.inf or (isinstance(new, int) and new < (0 if old == 0 else 1)):
            raise ModelError(f"axis {axis}: size {new}, scale {scale}", hint="sizes and scales must be positive")
        if isinstance(old, int) and isinstance(new, int) and abs(old * scale - new) > 1 + 1e-6 * new:
            raise ModelError(f"axis {axis}: scale {scale} takes {old} to {old * scale}, not {new}", hint="mend either")
    return TensorType(x.dtype, size)


def source_coordinates(old: int, new: int, scale: float, coordinates: str, dtype: type = np.float64) -> Array:
    """Where each output element lies along an input axis, computed in `dtype`."""
    i: Array = np.arange(new, dtype=dtype)
    scale = dtype(scale)
    if coordinates == "asymmetric":
        return i / scale
    if coordinates == "align_corners":
        return i * (old - 1) / (new - 1) if new > 1 else i
    if coordinates == "tf_half_pixel_for_nn":
        return (i + 0.5) / scale
    if coordinates == "pytorch_half_pixel" and new == 1:
        return i
    centred = (i + 0.5) / scale - 0.5
    if coordinates == "half_pixel_symmetric":
        return old / 2 * (1 - new / (scale * old)) + (i + 0.5) / scale - 0.5
    return centred


def nearest_indices(old: int, new: int, scale: float, coordinates: str, rounding: str) -> Array:
    """The element that each output element copies.

    Coordinates are rounded to float32 as in ONNX Runtime and PyTorch, since between two elements that decides.
    """
    x = source_coordinates(old, new, scale, coordinates, np.float32).astype(np.float64)
    rounded: Array = {
        "round_prefer_floor": lambda: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda: np.floor(x + 0.5),
        "floor": lambda: np.floor(x),
        "ceil": lambda: np.ceil(x),
    }[rounding]()
    return np.clip(rounded, 0, old - 1).astype(np.int64)


def _cubic(t: Array, a: float) -> Array:
    """Keys' kernel. Source: R. Keys, Cubic convolution interpolation for digital image processing, 1981."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def interpolation_taps(
    old: int,
    new: int,
    scale: float,
    mode: str,
    coordinates: str,
    cubic_a: float,
    exclude_outside: bool,
    antialias: bool,
) -> tuple[Array, Array]:
    """Indices and weights [new, taps] of linear or cubic interpolation along one axis; taps outside read the edge."""
    x = source_coordinates(old, new, scale, coordinates)
    shrink = min(scale, 1.0) if antialias else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) / shrink)
    position = np.floor(x).astype(np.int64)[:, None] + np.arange(1 - reach, reach + 1)
    distance = (position - x[:, None]) * shrink
    weights = np.maximum(1 - np.abs(distance), 0.0) if mode == "linear" else _cubic(distance, cubic_a)
    if exclude_outside:
        weights = np.where((position >= 0) & (position < old), weights, 0.0)
    if exclude_outside or antialias:
        weights = weights / weights.sum(1, keepdims=True)
    return np.clip(position, 0, old - 1), weights


def _evaluate_resize(arrays: Arrays, attrs: Attrs) -> Array:
    x = present(arrays, 0)
    mode, coordinates = attrs["mode"], attrs["coordinates"]
    for axis, (new, scale) in enumerate(zip(attrs["size"], attrs["scales"], strict=True)):
        old = x.shape[axis]
        if new == old and scale == 1.0:
            continue
        if mode == "nearest":
            x = x.take(nearest_indices(old, new, scale, coordinates, attrs["nearest"]), axis)
            continue
        indices, weights = interpolation_taps(
            old, new, scale, mode, coordinates, attrs["cubic_a"], attrs["exclude_outside"], attrs["antialias"]
        )
        total = np.zeros((*x.shape[:axis], new, *x.shape[axis + 1 :]), x.dtype)
        for tap in range(indices.shape[1]):
            weight = weights[:, tap].astype(x.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
            total += x.take(indices[:, tap], axis) * weight
        x = total
    return x


RESIZE = Operator(
    "resize", ("x",), _infer_resize, wide(_evaluate_resize),
    (
        Attr("size", "sizes", doc="size of the output along each axis"),
        Attr("scales", "floats", doc="output over input size, an axis, as the coordinates use it"),
        Attr("mode", "str", "nearest", "interpolation", ("nearest", "linear", "cubic")),
        Attr("coordinates", "str", "half_pixel", "how output elements map to input coordinates", _COORDINATES),
        Attr("nearest", "str", "round_prefer_floor", "rounding in nearest mode",
             ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
        Attr("cubic_a", "float", -0.75, "coefficient of the cubic kernel"),
        Attr("exclude_outside", "bool", False, "weights outside the input become 0, the others are scaled up"),
        Attr("antialias", "bool", False, "stretch the kernel where the output is smaller"),
    ),
    "x sampled at other points; beyond the border the edge is repeated.",
)  # fmt: skip

OPERATORS = (RESIZE,)
