"""Importers of Resize, of its predecessor Upsample, and of the block rearrangements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from convc.dims import Size
from convc.errors import ModelError
from convc.frontends.onnx.context import Call, Importer, listed
from convc.frontends.scales import FIX_SIZES, scale_between, scaled_size
from convc.ir.graph import Node
from convc.ops.base import normal_axis


def _mode(call: Call) -> str:
    mode = call.text("mode", "nearest")
    mode = "linear" if mode == "bilinear" else mode
    if mode not in {"nearest", "linear", "cubic"}:
        raise ModelError(f"attribute mode={mode} is not supported", hint="use nearest, linear or cubic")
    return mode


def _upsample(call: Call) -> Node:
    """Scales are an attribute in opset 7, an input in 9. Coordinates are asymmetric, nearest rounds down."""
    x = call.node(0)
    scales = call.floats_attr("scales") if call.opset < 9 else _floats(call, 1, "scales")
    return _by_scales(call, x, scales)


def _by_scales(call: Call, x: Node, scales: Sequence[float]) -> Node:
    """Before opset 11: nearest takes the element below where it enlarges, the one above where it shrinks."""
    _expect_count(x, scales, "scales")
    sizes = tuple(scaled_size(s, f) for s, f in zip(x.type.shape, scales, strict=True))
    shrinks = any(f < 1 for f in scales)
    if shrinks and any(f > 1 for f in scales) and _mode(call) == "nearest":
        raise ModelError(f"scales={listed(scales)} enlarge and shrink at once", hint="export with opset 11 or newer")
    return call.emit(
        "resize", x, size=sizes, scales=tuple(scales), mode=_mode(call), coordinates="asymmetric",
        nearest="ceil" if shrinks else "floor",
    )  # fmt: skip


def _floats(call: Call, index: int, what: str) -> tuple[float, ...]:
    known = call.known(index)
    if known is not None and known.symbolic:
        raise ModelError(f"{what} are {known}, expected numbers", hint=FIX_SIZES)
    return tuple(float(v) for v in call.array(index, what).reshape(-1))


def _expect_count(x: Node, values: Sequence[object], what: str, axes: Sequence[int] | None = None) -> None:
    count = x.type.rank if axes is None else len(axes)
    if len(values) != count:
        raise ModelError(f"{what}={listed(values)} has {len(values)} values, expected {count} for {x.type}",
                         hint="give one for each axis")  # fmt: skip


def _resize(call: Call) -> Node:
    x = call.node(0)
    if call.opset < 11:
        return _by_scales(call, x, _floats(call, 1, "scales"))
    given = call.ints_attr("axes") or range(x.type.rank)
    axes = [normal_axis(a, x.type.rank) for a in given]
    coordinates = call.text("coordinate_transformation_mode", "half_pixel")
    if coordinates == "tf_crop_and_resize":
        raise ModelError(
            "attribute coordinate_transformation_mode=tf_crop_and_resize is not supported", hint="use half_pixel"
        )
    size, scales = list(x.type.shape), [1.0] * x.type.rank
    by_scales = call.has(2) and call.type(2).shape != (0,)
    if by_scales == (call.has(3) and call.type(3).shape != (0,)):
        raise ModelError("expected either scales or sizes", hint="give exactly one of them")
    if by_scales:
        wanted = _floats(call, 2, "scales")
        _expect_count(x, wanted, "scales", axes)
        for axis, scale in zip(axes, wanted, strict=True):
            if not 0 < scale < math.inf:
                raise ModelError(f"scales={listed(wanted)}", hint="scales must be positive")
            size[axis], scales[axis] = scaled_size(size[axis], scale), scale
    else:
        target = call.sizes(3, "sizes")
        _expect_count(x, target, "sizes", axes)
        target = _keep_aspect(call, [x.type.shape[a] for a in axes], target)
        for axis, new in zip(axes, target, strict=True):
            scales[axis] = 1.0 if new == size[axis] else scale_between(size[axis], new)
            size[axis] = new
        policy = call.text("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            scales = [_aspect_scale(call, x, axes, policy) if a in axes else 1.0 for a in range(x.type.rank)]
    return call.emit(
        "resize", x, size=tuple(size), scales=tuple(scales), mode=_mode(call), coordinates=coordinates,
        nearest=call.text("nearest_mode", "round_prefer_floor"), cubic_a=call.real("cubic_coeff_a", -0.75),
        exclude_outside=call.flag("exclude_outside"), antialias=call.flag("antialias"),
    )  # fmt: skip


def _aspect_scale(call: Call, x: Node, axes: Sequence[int], policy: str) -> float:
    ratios = [scale_between(x.type.shape[a], new) for a, new in zip(axes, call.sizes(3, "sizes"), strict=True)]
    return min(ratios) if policy == "not_larger" else max(ratios)


def _keep_aspect(call: Call, old: Sequence[Size], new: Sequence[Size]) -> tuple[Size, ...]:
    """Sizes that keep the aspect ratio: the smallest or largest ratio serves all axes, halves round up."""
    policy = call.text("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return tuple(new)
    before, after = ([s for s in sizes if isinstance(s, int)] for sizes in (old, new))
    if policy not in {"not_larger", "not_smaller"} or len(before) < len(old) or len(after) < len(new):
        raise ModelError(
            f"attribute keep_aspect_ratio_policy={policy} with sizes {listed(old)} to {listed(new)}", hint=FIX_SIZES
        )
    ratios = [Fraction(b, a) for a, b in zip(before, after, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return tuple(math.floor(a * scale + Fraction(1, 2)) for a in before)


def _blocks(call: Call) -> tuple[Node, int, str]:
    x, block, mode = call.node(0), call.integer("blocksize"), call.text("mode", "DCR")
    if mode not in {"DCR", "CRD"}:
        raise ModelError(f"attribute mode={mode}", hint="use DCR or CRD")
    return x, block, mode


def _depth_to_space(call: Call) -> Node:
    x, block, mode = _blocks(call)
    return call.emit("depth_to_space", x, block=block, mode=mode)


def _space_to_depth(call: Call) -> Node:
    """Opset 28 adds the order column, row, depth: the blocks' axes come after the channels."""
    x, block, mode = _blocks(call)
    y = call.emit("space_to_depth", x, block=block)
    if mode == "DCR":
        return y
    n, channels, height, width = y.type.shape
    apart = call.emit("reshape", y, shape=(n, block * block, channels // (block * block), height, width))
    return call.emit("reshape", call.emit("transpose", apart, perm=(0, 2, 1, 3, 4)), shape=y.type.shape)


RESIZES: dict[str, Importer] = {
    "Upsample": _upsample,
    "Resize": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
"""By ONNX operator."""
