"""Importers of interpolation and of the block rearrangements."""

from __future__ import annotations

import numpy as np

from convc.dims import Size
from convc.errors import ModelError
from convc.frontends.scales import scale_between, scaled_size
from convc.frontends.torch.context import Call, Importer
from convc.frontends.torch.planes import on_planes
from convc.ir.graph import Node
from convc.ops.base import static_size


def _upsample(count: int, mode: str, *, exact: bool = False, antialias: bool = False) -> Importer:
    """Nearest takes floor(i / scale), or floor((i + 1/2) / scale) where it is `exact`.

    Linear and cubic sample at pixel centres, or at equal steps from corner to corner (`align_corners`). Their weights
    with `antialias` are Pillow's.
    """

    def convert(call: Call, x: Node) -> Node:
        old = x.type.shape
        factors = _factors(call, count)
        if call.get("output_size") is not None:
            new = (*old[:2], *_plane(call.sizes("output_size")))
        else:
            new = (*old[:2], *(s if f is None else scaled_size(s, f) for s, f in zip(old[2:], factors, strict=True)))
        scales = [1.0, 1.0]
        for before, after, factor in zip(old[2:], new[2:], factors, strict=True):
            scales.append(1.0 if before == after and factor is None else factor or scale_between(before, after))
        if mode == "nearest":
            coordinates = "tf_half_pixel_for_nn" if exact else "asymmetric"
        elif call.flag("align_corners"):
            coordinates = "align_corners"
            scales = [1.0 if b == a else scale_between(b, a) for b, a in zip(old, new, strict=True)]
        else:
            coordinates = "half_pixel"
        if new == old and all(s == 1.0 for s in scales):
            return x
        return call.emit(
            "resize", x, size=new, scales=tuple(scales), mode=mode, coordinates=coordinates, nearest="floor",
            antialias=antialias, exclude_outside=antialias, cubic_a=-0.5 if antialias else -0.75,
        )  # fmt: skip

    return on_planes(count, convert)


def _plane(sizes: tuple[Size, ...]) -> tuple[Size, ...]:
    return (1, *sizes) if len(sizes) == 1 else sizes


def _factors(call: Call, count: int) -> list[float | None]:
    """Scale factors of height and width where they are given: overloads have a list, or an argument each."""
    given = call.get("scale_factors")
    if given is None:
        names = {1: ["scales"], 2: ["scales_h", "scales_w"]}[count]
        given = [call.get(name) for name in names]
    factors = [None if f is None else float(f) for f in given]
    return [None, *factors] if count == 1 else factors


def _pixel_shuffle(call: Call) -> Node:
    return call.emit("depth_to_space", call.x, block=call.integer("upscale_factor"), mode="CRD")


def _pixel_unshuffle(call: Call) -> Node:
    """space_to_depth has the place in the block outermost, torch the channel."""
    x, block = call.x, call.integer("downscale_factor")
    if x.type.rank != 4:
        raise ModelError(f"%{x.name} is {x.type}, expected rank 4", hint="give inputs a batch axis")
    channels = static_size(x.type.shape[1], "channels")
    order = np.arange(block * block * channels).reshape(block * block, channels).T.reshape(-1)
    y = call.emit("space_to_depth", x, block=block)
    return call.emit("gather", y, call.constant(order, "order"), axis=1)


def _channel_shuffle(call: Call) -> Node:
    return call.emit("channel_shuffle", call.x, groups=call.integer("groups"))


RESIZES: dict[str, Importer] = {
    "upsample_nearest1d": _upsample(1, "nearest"),
    "upsample_nearest2d": _upsample(2, "nearest"),
    "_upsample_nearest_exact1d": _upsample(1, "nearest", exact=True),
    "_upsample_nearest_exact2d": _upsample(2, "nearest", exact=True),
    "upsample_linear1d": _upsample(1, "linear"),
    "upsample_bilinear2d": _upsample(2, "linear"),
    "upsample_bicubic2d": _upsample(2, "cubic"),
    "_upsample_bilinear2d_aa": _upsample(2, "linear", antialias=True),
    "_upsample_bicubic2d_aa": _upsample(2, "cubic", antialias=True),
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "native_channel_shuffle": _channel_shuffle,
}
"""By ATen operator."""
