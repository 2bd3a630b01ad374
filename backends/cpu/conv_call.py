"""A call of the convolution kernel, and its argument words once sizes are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convc.backends.binding import Binding, Word, offsets_table
from convc.backends.cpu import conv, conv_ahead
from convc.backends.cpu.activations import float_word
from convc.backends.cpu.channels import Taps
from convc.backends.cpu.split import Work, pixel_parts
from convc.backends.program import Planes, Step
from convc.dims import Size

NO_WRAP = 1 << 40
PANEL_BYTES = 512 << 10


@dataclass(frozen=True, eq=False)
class ConvCall:
    """One call of the kernel, before sizes are known. `start` and `every` place its pixels in the output."""

    spec: conv.ConvSpec
    taps: Taps
    stride: tuple[int, int]
    height: Size
    width: Size
    start: tuple[int, int]
    every: tuple[int, int]
    group_blocks: int
    weights: str
    bias: str
    params: tuple[float, ...]
    ahead: tuple[str, str] = ("", "")
    """Packed scale and shift of the prologue that the kernel applies."""


def arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Argument words of a convolution call, in the order of `conv.ARGUMENTS`."""
    call: ConvCall = step.params["call"]
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y = bound.geometry(source), bound.geometry(target)
    added = step.reads[1] if len(step.reads) > 1 else None
    r = bound.geometry(added) if isinstance(added, Planes) else y
    images, rows, width = x.images, bound.size(call.height), bound.size(call.width)
    taps = call.taps
    table = x.planes[taps.plane] + taps.lane * 4 + taps.dy * x.row + taps.dx * x.pixel
    (sh, sw), (a, b), (ey, ex) = call.stride, call.start, call.every
    x_image, x_row, x_step = x.image, x.row * sh, x.pixel * sw
    wrap, x_wrap, y_wrap, r_wrap = NO_WRAP, 0, 0, 0
    if rows == width == 1 and call.spec.step in {0, x.image}:
        images, width, x_step = 1, images, x.image
        y_step, r_step = y.image, r.image
    else:
        y_step, r_step = y.pixel * ex, r.pixel * ex
        single = not taps.dy.any() and not taps.dx.any() and (sh, sw, ey, ex) == (1, 1, 1, 1)
        if single and x.flat_rows and x.height == rows and x.width == width:
            wrap, x_wrap, y_wrap, r_wrap = width, x.row, y.row, r.row
            alone = y.height == rows  # not one region of several
            rows, width = 1, rows * width
            if alone and x.flat_images and y.image == y.height * y.row and r.image == r.height * r.row:
                images, width = 1, images * width
    (groups, count), lanes = taps.plane.shape, target.lanes
    total = images * rows * -(-width // call.spec.rows)
    tiles = groups * -(-call.group_blocks // call.spec.cols)
    shared = len(np.unique(taps.dy)) * min(len(np.unique(taps.dx)), sw)  # by neighbours
    pixel_bytes = max(call.spec.rows * count * 4 // max(shared, 1), 1)
    cols = min(call.spec.cols, call.group_blocks)
    steps = conv.step_cycles(call.spec.rows, cols, count, lanes * 4)
    work = Work(
        max(total, 1), tiles, groups * call.group_blocks * count * lanes * 4, x.bytes, y.bytes,
        total * tiles * count * steps,
    )  # fmt: skip
    parts = pixel_parts(work, bound.threads)
    staging = call.spec.ahead is not None
    most = conv_ahead.PANEL_BYTES if staging else PANEL_BYTES
    panels = min(parts * -(-total * pixel_bytes // (parts * most)), total)
    panel = -(-total // max(panels, 1))
    chunk = conv.chunk_steps(count, cols * lanes * 4, call.spec.unroll) if panel > 1 else max(count, 1)
    sums = panel * call.spec.rows * cols * lanes * 4 if chunk < count else 64
    ahead: Sequence[Word] = ()
    if staging:
        plane = panel * call.spec.rows * lanes * 4
        table = taps.plane * plane + taps.lane * 4
        scratch = bound.scratch(sums + len(x.planes) * plane)
        ahead = conv_ahead.arguments(bound, x, call.ahead, sums, plane)
    else:
        scratch = bound.scratch(sums)
    if call.spec.soon:  # lane l of a plane fetches pixel l of the next tile
        table = np.stack([table, table + taps.lane * (x_step - 4)], axis=-1)
    r_start = bound.arena + (a * r.row + b * r.pixel)
    residual: Sequence[Word] = (r_start, bound.table(r.planes)) if added is not None else (0, 0)
    return [
        bound.arena, bound.constant(call.weights), bound.constant(call.bias),
        bound.arena + (a * y.row + b * y.pixel), bound.table(y.planes), *residual,
        bound.table(offsets_table(table, step.node)), count, images, rows, width, wrap,
        x_image, x_row, x_wrap, x_step, y.image, y.row * ey, y_wrap, y_step, r.image, r.row * ey, r_wrap, r_step,
        groups, call.group_blocks, call.group_blocks // call.spec.cols, panels,
        chunk, *scratch, *ahead, *(float_word(p) for p in call.params),
    ]  # fmt: skip
