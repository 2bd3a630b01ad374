"""conv2d as a call of Winograd's kernel: where it is eligible, packed weights, arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convc.backends.aligned import aligned_empty
from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Word, offsets_table
from convc.backends.cpu import conv, merge
from convc.backends.cpu.activations import float_word, function_of
from convc.backends.cpu.channels import Channels, bias_of, make_taps, pack_weights, rows_of
from convc.backends.cpu.choice import Choice
from convc.backends.cpu.isa import Isa, host_processor, speed_of
from convc.backends.cpu.winograd import WinogradSpec, lines_of, streams_of
from convc.backends.cpu.winograd_few import FewSpec
from convc.backends.cpu.winograd_plan import Grid, ceil_div, part_blocks, plan_best, plan_blocks
from convc.backends.cpu.winograd_points import Form, forms_of, transform_kernels, weigh_kernels
from convc.backends.cpu.winograd_tiles import WORDS
from convc.backends.halo import Halo, reach
from convc.backends.program import Ints, Planes, Step
from convc.dims import Size, concrete
from convc.ir.graph import Node
from convc.parallel import each
from convc.types import Activation, Array


def apart_of(node: Node, kernel: tuple[int, int], groups: int) -> int:
    """Pixels between taps where the convolution has a form: stride 1, no groups, dilated alike along the axes that the
    kernel extends along; else 0.
    """
    apart = {d for d, taps in zip(node.attrs["dilation"], kernel, strict=True) if taps > 1}
    if groups > 1 or node.attrs["stride"] != (1, 1) or len(apart) != 1 or not forms_of(kernel):
        return 0
    return int(apart.pop())


@dataclass(frozen=True, slots=True)
class Place:
    """Where outputs lie, `height` x `width` of them: the first at `start`, then `every` so many rows and columns; and
    where their first inputs do: `padding` rows and columns above and left of the first. `apart`: pixels between taps.
    """

    padding: tuple[int, int]
    apart: int
    height: Size
    width: Size
    start: tuple[int, int] = (0, 0)
    every: tuple[int, int] = (1, 1)

    def halo(self, form: Form, x: Planes) -> Halo:
        """What is read around x by whole tiles of outputs."""
        below = reach(x.height, self._covered(self.height, form.down), 1, form.height, self.apart, self.padding[0])
        beyond = reach(x.width, self._covered(self.width, form.across), 1, form.breadth, self.apart, self.padding[1])
        return Halo.of(*self.padding, below, beyond)

    def _covered(self, size: Size, tile: int) -> Size:
        tiles = ((size + self.apart - 1) // self.apart + tile - 1) // tile
        return tiles * (tile * self.apart)


@dataclass(frozen=True, eq=False)
class WinogradCall:
    """One call of the kernel, before sizes are known."""

    spec: WinogradSpec | FewSpec
    isa: Isa
    plane: Ints
    lane: Ints
    place: Place
    blocks_out: int
    weights: str
    bias: str
    params: tuple[float, ...]
    shrink: int = 1
    """2 where 2 x 2 outputs are pooled into one."""


def append(
    asm: Assembler, node: Node, isa: Isa, choice: Choice, x: Planes, y: Planes, residual: Planes | None,
    channels: Channels, weights: Callable[[], Array], place: Place, *, joins: bool = False,
) -> None:  # fmt: skip
    """Append the call that writes outputs at a place in y; `weights` makes the kernels, [out, in, R, S]."""
    form = choice.form
    assert form is not None
    asm.need_halo(x, place.halo(form, x))
    taps, order = make_taps(x, channels, [(0, 0, 0, 0)], 1)
    inputs, blocks = order[0, :, 0], channels.group_blocks
    activation: Activation | None = node.attrs["activation"]
    function, params = function_of(activation) if activation is not None else ("", ())
    epilogue = residual is not None, function, len(params)
    spec: WinogradSpec | FewSpec
    if choice.few:
        spec = FewSpec(form, place.apart, choice.rows, *epilogue, every=place.every[1])
    else:
        unroll = conv.unroll_of(isa, "dense", len(inputs))
        images, height, width = (concrete(size, asm.graph.nominal) for size in (y.batch, place.height, place.width))
        grid = Grid.of(form, images, height, width, place.apart)
        streams = streams_of(isa, asm.processor, len(inputs), choice.cols, ceil_div(grid.total, choice.rows))
        tile = choice.rows, choice.cols, blocks % choice.cols
        plan = plan_best(
            isa, form, tile[:2], len(x.planes), len(inputs), blocks, grid, speed=speed_of(isa, asm.processor)
        )
        strips = ceil_div(min(plan.tiles, grid.total), choice.rows)
        lines = lines_of(isa, choice.cols, unroll, strips, plan.mixed)
        spec = WinogradSpec(
            form, place.apart, *tile, unroll, streams, lines, *epilogue, every=place.every[1], mixed=plan.mixed
        )

    def pack() -> Array:
        kernels = weights()
        if choice.few:
            weighed = weigh_kernels(kernels, form.rows).reshape(*kernels.shape[:2], -1)
            columns = inputs[:, None] * 9 + np.arange(9)
            return pack_weights(weighed.reshape(len(kernels), -1), channels, columns.reshape(1, -1), 1)
        return pack_points(form, kernels, channels, inputs, choice.cols)

    count = channels.slots.size * len(inputs) * (9 if choice.few else form.points)
    call = WinogradCall(
        spec, isa, taps.plane[0], taps.lane[0], place, blocks, asm.pack_later(f"{node.name}.u", count, pack),
        asm.pack(f"{node.name}.b", bias_of(asm, node, channels)), params,
    )  # fmt: skip
    facts: dict[str, Any] = {"call": call}
    if residual is not None and place.every == (1, 1):
        facts["in_place"] = 1
    reads = (x, residual) if residual is not None else (x,)
    asm.step(merge.named(spec, isa), "winograd", node.name, reads, (y,), facts, joins=joins)


def pack_points(form: Form, weights: Array, channels: Channels, inputs: Ints, cols: int) -> Array:
    """Weights [out, in, R, S] transformed, in the kernel's order: [point][tile][k][block of the tile][lane], flat."""
    lanes, taps = channels.slots.shape[1], form.height * form.breadth
    packed: Array = aligned_empty(channels.slots.size * len(inputs) * form.points, np.float32)
    by_point = packed.reshape(form.points, -1)
    in_order = len(inputs) == weights.shape[1] and bool((inputs == np.arange(len(inputs))).all())
    tiles: list[tuple[int, int, int]] = []  # first block, blocks, first element
    start = block = 0
    for width in conv.tiles_of(channels.group_blocks, cols):
        tiles.append((block, width, start))
        start += len(inputs) * width * lanes
        block += width

    def pack(tile: tuple[int, int, int]) -> None:
        block, width, start = tile
        slots = channels.slots[block : block + width].reshape(-1)
        chosen = rows_of(weights, slots).reshape(len(slots), -1, taps)
        kernels = np.ascontiguousarray((chosen if in_order else chosen[:, inputs]).transpose(2, 1, 0))
        kernels[:, :, slots < 0] = 0.0
        transform_kernels(form, kernels.reshape(taps, -1), by_point[:, start : start + len(inputs) * len(slots)])

    each(pack, tiles)
    return packed


def arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Argument words, in the order of `winograd.ARGUMENTS`."""
    call: WinogradCall = step.params["call"]
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y = bound.geometry(source), bound.geometry(target)
    added = step.reads[1] if len(step.reads) > 1 else None
    r = bound.geometry(added) if isinstance(added, Planes) else y
    spec, vector, blocks = call.spec, source.lanes * 4, call.blocks_out
    place, form = call.place, spec.form
    height, width = bound.size(place.height), bound.size(place.width)
    grid = Grid.of(form, x.images, height, width, spec.apart)
    few, mixed = isinstance(spec, FewSpec), isinstance(spec, WinogradSpec) and spec.mixed
    tile = (spec.together, 1) if isinstance(spec, FewSpec) else (spec.rows, spec.cols)
    plan = plan_blocks(
        call.isa, form, tile, len(x.planes), len(call.plane), blocks, grid, bound.threads,
        few=few, mixed=mixed, speed=speed_of(call.isa, host_processor()),
    )  # fmt: skip
    # the last strip of a point may reach beyond the tiles of a mixed block, for it may begin anywhere
    tiles = plan.tiles + tile[0] * mixed
    facts = -(-tiles * WORDS * 8 // 64) * 64
    # a line more than needed, so that the points of a tile do not all fall on one set of a cache
    if few:
        plane = form.columns * tile[0] * vector
        v_row = len(x.planes) * plane + vector
        v_group = form.rows * v_row
        need = facts + -(-plan.tiles // tile[0]) * (v_group + form.points * tile[0] * vector)
        last: Sequence[int] = (v_row, v_group)
    else:
        part = part_blocks(blocks, tile[1], plan.parts)
        plane = tiles * vector
        v_point, p_point = len(x.planes) * plane + vector, part * plane + vector
        need = facts + form.points * (v_point + p_point)
        last = v_point, p_point
    scratch, every = bound.scratch(need)
    (top, left), (a, b), down_every = place.padding, place.start, place.every[0]
    offsets = call.plane * plane + call.lane * 4
    r_start = bound.arena + (a * r.row + b * r.pixel)
    residual: Sequence[Word] = (r_start, bound.table(r.planes)) if added is not None else (0, 0)
    return [
        bound.arena + (-top * x.row - left * x.pixel), bound.constant(call.weights), bound.constant(call.bias),
        bound.arena + (a * y.row + b * y.pixel), residual[0], bound.table(x.planes), bound.table(y.planes), residual[1],
        bound.table(offsets_table(offsets, step.node)), len(x.planes), len(offsets), x.images, grid.rows, grid.columns,
        height, width, x.image, x.row, y.image, y.row * down_every, form.down // call.shrink, r.image,
        r.row * down_every, blocks, tiles, plan.parts, *last, scratch, every,
        *((plan.maps, plan.bands, grid.full_rows, grid.full_columns) if mixed else ()),
        *(float_word(p) for p in call.params),
    ]  # fmt: skip
