"""Convolutions at given sizes: launches, and the arrays that kernels read beside the activations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.backends.cuda.conv import arguments, shared_bytes
from convc.backends.cuda.epilogue import reduce_arguments
from convc.backends.cuda.spec import VECTOR, ConvSizes, ConvSpec, Epilogue, Launch, Word, padded
from convc.backends.cuda.vocabulary import magic
from convc.backends.cuda.writer import THREADS
from convc.errors import LimitError
from convc.types import Array

MOST_ELEMENTS = 1 << 31
MOST_PIXELS = 1 << 15
NOWHERE = 0x7FFF << 16
"""Row offset of a tap that is none."""


def padded_outputs(spec: ConvSpec | Epilogue, outputs: int) -> int:
    """Outputs of a group with the lanes that are stored as zeros, the pitch of bias and lanes."""
    epilogue = spec.epilogue if isinstance(spec, ConvSpec) else spec
    return padded(outputs, VECTOR[epilogue.output])


def padded_depth(spec: ConvSpec, sizes: ConvSizes) -> int:
    """K, rounded up to whole steps."""
    return padded(sizes.depth, spec.tile.bk)


def launch(spec: ConvSpec, sizes: ConvSizes) -> Launch:
    """Grid, threads, shared memory and arguments of the convolution."""
    tile, s = spec.tile, sizes
    _check(spec, s)
    tiles_m, tiles_n = -(-s.pixels // tile.bm), -(-s.outputs // tile.bn)
    steps = padded_depth(spec, s) // tile.bk
    splits = s.splits if spec.partial else 1
    outputs = padded_outputs(spec, s.outputs)
    numbers: dict[str, int] = {
        "pixels": s.pixels, "channels": s.channels, "outputs": s.outputs, "padded_outputs": outputs,
        "x_pixel": s.x_pitch, "depth": padded_depth(spec, s), "steps": steps, "tiles": tiles_n,
        "height": s.height, "width": s.width, "x_image": s.height * s.width * s.x_pitch, "x_row": s.width * s.x_pitch,
        "oh": s.out_height, "ow": s.out_width, "stride_h": s.stride[0], "stride_w": s.stride[1],
        "pad_h": s.padding[0], "pad_w": s.padding[1], "splits": splits, "split_steps": -(-steps // splits),
        "work_pitch": s.groups * outputs, "y_pixel": s.y_strides[2] if spec.scatter else s.y_pitch,
        "y_image": s.y_strides[0], "y_row": s.y_strides[1],
        "residual_pixel": s.residual_strides[2] if spec.scatter else s.residual_pitch,
        "residual_image": s.residual_strides[0], "residual_row": s.residual_strides[1],
    }  # fmt: skip
    for name, divisor in (("tiles", tiles_n), ("oh", s.out_height), ("ow", s.out_width)):
        numbers[f"{name}_factor"], numbers[f"{name}_shift"] = magic(divisor)
    args = words(arguments(spec), numbers, s.params)
    return Launch((tiles_m * tiles_n, 1, s.groups * splits), tile.threads, shared_bytes(spec), args)


def launch_reduce(spec: ConvSpec, sizes: ConvSizes) -> Launch:
    """The launch of `epilogue.emit_reduce(spec.math, spec.epilogue)` after the parts of a split K."""
    s, epilogue = sizes, spec.epilogue
    width = VECTOR[epilogue.output]
    outputs = padded_outputs(spec, s.outputs)
    group_items = outputs // width
    row_items = s.groups * group_items
    numbers = {
        "pixels": s.pixels, "outputs": s.outputs, "padded_outputs": outputs, "work_pitch": s.groups * outputs,
        "items": s.pixels * row_items, "row_items": row_items, "group_items": group_items, "splits": s.splits,
        "y_pixel": s.y_pitch, "residual_pixel": s.residual_pitch,
    }  # fmt: skip
    for name, divisor in (("row", row_items), ("group", group_items)):
        numbers[f"{name}_factor"], numbers[f"{name}_shift"] = magic(divisor)
    args = words(reduce_arguments(spec.math, epilogue), numbers, s.params)
    return Launch((max(-(-s.pixels * row_items // THREADS), 1), 1, 1), THREADS, 0, args)


def work_bytes(spec: ConvSpec, sizes: ConvSizes) -> int:
    """Workspace of a split convolution."""
    return sizes.splits * sizes.pixels * sizes.groups * padded_outputs(spec, sizes.outputs) * 4


def pack_taps(spec: ConvSpec, sizes: ConvSizes) -> Array:
    """The table of taps, int32 [K / V, 2]: lane within the group, row offset * 65536 + column offset."""
    vector = VECTOR[spec.math]
    k = np.arange(0, padded_depth(spec, sizes), vector)
    tap, lane = k // sizes.channels, k % sizes.channels
    offsets = np.array([*sizes.offsets, (0, 0)], np.int64)
    found = offsets[np.minimum(tap, len(sizes.offsets))]
    place = np.where(tap < len(sizes.offsets), found[:, 0] * 65536 + (found[:, 1] & 0xFFFF), NOWHERE)
    return np.stack([np.where(tap < len(sizes.offsets), lane, 0), place], axis=1).astype(np.int32)


def pack_weights(spec: ConvSpec, weights: Array) -> Array:
    """[G, O, taps, lanes] in float32 as the kernel reads it: [G, O, K] of the storage type (bfloat16 as uint16)."""
    groups, outputs = weights.shape[:2]
    flat = np.asarray(weights, np.float32).reshape(groups, outputs, -1)
    depth = padded(flat.shape[2], spec.tile.bk)
    whole = np.zeros((groups, outputs, depth), np.float32)
    whole[:, :, : flat.shape[2]] = flat
    return to_storage(whole, spec.math)


def pack_bias(spec: ConvSpec | Epilogue, bias: Array, groups: int) -> Array:
    """[G * O] as float32 [G, padded outputs]."""
    outputs = bias.size // groups
    whole = np.zeros((groups, padded_outputs(spec, outputs)), np.float32)
    whole[:, :outputs] = np.asarray(bias, np.float32).reshape(groups, outputs)
    return whole


def pack_lanes(
    spec: ConvSpec | Epilogue, lanes: Array, groups: int, zeros: Sequence[int] | Array | None = None
) -> Array:
    """Lane of each output [G * O] as int32 [G, padded outputs]; `zeros` are lanes that shall hold zeros."""
    outputs = lanes.size // groups
    whole = np.full((groups, padded_outputs(spec, outputs)), -1, np.int32)
    whole[:, :outputs] = lanes.reshape(groups, outputs)
    free = np.argwhere(np.arange(whole.shape[1]) >= outputs + np.zeros((groups, 1), int))
    for (group, column), lane in zip(free, () if zeros is None else zeros, strict=False):
        whole[group, column] = lane
    return whole


def to_storage(array: Array, kind: str) -> Array:
    """float32 as it lies in memory: tf32 rounded (halves to even), float16, bfloat16 as uint16."""
    if kind == "f32":
        return np.ascontiguousarray(array, np.float32)
    if kind == "f16":
        return np.ascontiguousarray(array).astype(np.float16)
    drop = 13 if kind == "tf32" else 16
    bits: Array = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    bits = bits + np.uint64((1 << (drop - 1)) - 1) + ((bits >> np.uint64(drop)) & np.uint64(1))
    if kind == "bf16":
        return np.asarray(bits >> np.uint64(16), np.uint16)
    kept: Array = bits.astype(np.uint32) & np.uint32(0xFFFFE000)
    return kept.view(np.float32)


def words(given: list[str], numbers: dict[str, int], params: tuple[float, ...]) -> tuple[Word, ...]:
    """Arguments in order: roles of pointers, `numbers` by name, float parameters."""
    found: list[Word] = []
    for text in given:
        name, kind = text.split(": ")
        if kind.endswith("*"):
            found.append(name)  # type: ignore[arg-type]
        elif kind == "f32":
            found.append(float(params[int(name[1:])]))
        else:
            found.append(numbers[name])
    return tuple(found)


def _check(spec: ConvSpec, s: ConvSizes) -> None:
    vector = VECTOR[spec.math]
    assert s.channels % vector == 0 and s.x_pitch % vector == 0, (
        f"channels={s.channels}, pitch={s.x_pitch}: not x{vector}"
    )
    plain = s.offsets == ((0, 0),) and s.stride == (1, 1) and s.padding == (0, 0)
    assert spec.window or (plain and (s.height, s.width) == (s.out_height, s.out_width)), "the window needs taps"
    out = VECTOR[spec.epilogue.output]
    assert spec.partial or spec.epilogue.lanes or s.groups == 1 or s.outputs % out == 0, "odd groups need lanes"
    written = s.batch * s.y_strides[0] if spec.scatter else s.pixels * s.y_pitch
    parts = s.splits * s.pixels * s.groups * padded_outputs(spec, s.outputs) if spec.partial else 0
    weights = s.groups * s.outputs * padded_depth(spec, s)
    largest = max(s.batch * s.height * s.width * s.x_pitch, written, parts, weights)
    if largest >= MOST_ELEMENTS or (spec.window and max(s.height, s.width) >= MOST_PIXELS):
        raise LimitError(
            f"a convolution of {largest} elements", hint="use a smaller batch or image: indices have 32 bits"
        )
