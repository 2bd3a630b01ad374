"""conv2d as a call of Winograd's kernel: where it is eligible, packed weights, arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convc.backends.aligned import aligned_empty
from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Word, offsets_table
from convc.backends.cpu import conv, merge, winograd_few
from convc.backends.cpu.activations import float_word, function_of
from convc.backends.cpu.channels import Channels, bias_of, make_taps, pack_weights, rows_of
from convc.backends.cpu.choice import Choice
from convc.backends.cpu.isa import Isa, host_processor, speed_of
from convc.backends.cpu.phases import Phases
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
    where their first inputs do: `padding` rows and columns above and left of the first, those of the next output
    `stride` rows and columns on. `apart`: pixels between taps.
    """

    padding: tuple[int, int]
    apart: int
    height: Size
    width: Size
    start: tuple[int, int] = (0, 0)
    every: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)

    def halo(self, form: Form, x: Planes) -> Halo:
        """What is read around x by whole tiles of outputs: of each tap, all phases."""
        sizes, tiles, taps = (self.height, self.width), (form.down, form.across), (form.height, form.breadth)
        covered = map(self._covered, sizes, tiles)
        facts = zip((x.height, x.width), covered, self.stride, taps, self.padding, strict=True)
        ends = [reach(size, many, step, count * step, self.apart, ahead) for size, many, step, count, ahead in facts]
        return Halo.of(*self.padding, *ends)

    def _covered(self, size: Size, tile: int) -> Size:
        tiles = ((size + self.apart - 1) // self.apart + tile - 1) // tile
        return tiles * (tile * self.apart)


@dataclass(frozen=True, eq=False)
class Terms:
    """What the points of a form sum: by point, one of some `lists` of numbers of factors, each in order."""

    lists: Sequence[Ints]
    of_point: Ints

    @staticmethod
    def of(columns: Ints, phases: Phases | None, form: Form | None) -> Terms:
        """Of the kernels' `columns` that factors are multiplied by; where a phase's are 0 at a point, it is left out.
        Without a form, all factors.
        """
        if phases is None or form is None:
            return Terms([np.arange(len(columns))], np.zeros(form.points if form is not None else 1, np.int64))
        kinds, of_point = np.unique(phases.present(form), axis=0, return_inverse=True)
        return Terms([np.flatnonzero(kind[columns % phases.count]) for kind in kinds], of_point.reshape(-1))

    @property
    def counts(self) -> Ints:
        """Of each point."""
        return np.array([len(one) for one in self.lists])[self.of_point]

    @property
    def mean(self) -> float:
        """Factors of a point, on average."""
        return float(self.counts.mean())

    @property
    def unroll(self) -> int:
        """What divides all counts."""
        return math.gcd(*(len(one) for one in self.lists))

    def table(self, row: int) -> Ints:
        """Of each point: the bytes of its first offset and of its first weights, and how many factors it has. `row`:
        bytes of the weights of a factor.
        """
        starts = np.cumsum([0, *(len(one) * 4 for one in self.lists[:-1])])[self.of_point]
        weights = np.cumsum([0, *self.counts[:-1]]) * row
        return np.stack([starts, weights, self.counts], axis=-1)


@dataclass(frozen=True, eq=False)
class WinogradCall:
    """One call of the kernel, before sizes are known. `plane`, `lane`: of the factors; `planes`: of x, or of its phases
    where the kernel reads those out of x.
    """

    spec: WinogradSpec | FewSpec
    isa: Isa
    plane: Ints
    lane: Ints
    terms: Terms
    phases: Phases | None
    place: Place
    blocks_out: int
    weights: str
    bias: str
    params: tuple[float, ...]
    shrink: int = 1
    """2 where 2 x 2 outputs are pooled into one."""


def append(
    asm: Assembler, node: Node, isa: Isa, choice: Choice, x: Planes, y: Planes, residual: Planes | None,
    channels: Channels, weights: Callable[[], Array], place: Place, *, phases: Phases | None = None,
    joins: bool = False,
) -> None:  # fmt: skip
    """Append the call that writes outputs at a place in y; `weights` makes the kernels, [out, in, R, S]. `phases`: of
    a strided convolution, in x as they are or, where `place` has a stride, to be read out of it.
    """
    form = choice.form
    assert form is not None
    asm.need_halo(x, place.halo(form, x))
    taps, order = make_taps(x, channels, [(0, 0, 0, 0)], 1)
    factors, blocks = (taps.plane[0], taps.lane[0], order[0, :, 0]), channels.group_blocks
    cut = phases if place.stride != (1, 1) else None
    if cut is not None:
        factors = cut.of_factors(*factors)
    inputs, planes = factors[2], len(x.planes) * (cut.count if cut is not None else 1)
    terms = Terms.of(inputs, phases, None if choice.few else form)
    activation: Activation | None = node.attrs["activation"]
    function, params = function_of(activation) if activation is not None else ("", ())
    epilogue = residual is not None, function, len(params)
    spec: WinogradSpec | FewSpec
    images, height, width = (concrete(size, asm.graph.nominal) for size in (y.batch, place.height, place.width))
    grid = Grid.of(form, images, height, width, place.apart)
    plan = plan_best(
        isa, form, (choice.rows, choice.cols), planes, terms.mean, blocks, grid, few=choice.few,
        speed=speed_of(isa, asm.processor),
    )  # fmt: skip
    if choice.few:
        spec = FewSpec(
            form, place.apart, choice.rows, winograd_few.streams_of(asm.processor), *epilogue, every=place.every[1],
            stride=place.stride[1], mixed=plan.mixed,
        )  # fmt: skip
    else:
        unroll = conv.unroll_of(isa, "dense", terms.unroll)
        streams = streams_of(isa, asm.processor, len(inputs), choice.cols, ceil_div(grid.total, choice.rows))
        tile = choice.rows, choice.cols, blocks % choice.cols
        strips = ceil_div(min(plan.tiles, grid.total), choice.rows)
        lines = lines_of(isa, choice.cols, unroll, strips, plan.mixed)
        spec = WinogradSpec(
            form, place.apart, *tile, unroll, streams, lines, *epilogue, every=place.every[1], mixed=plan.mixed,
            stride=place.stride[1], sums=len(terms.lists) > 1,
        )  # fmt: skip

    def pack() -> Array:
        kernels = weights()
        if choice.few:
            weighed = weigh_kernels(kernels, form.rows).reshape(*kernels.shape[:2], -1)
            columns = inputs[:, None] * 9 + np.arange(9)
            return pack_weights(weighed.reshape(len(kernels), -1), channels, columns.reshape(1, -1), 1)
        return pack_points(form, kernels, channels, inputs, terms, choice.cols)

    count = channels.slots.size * (9 * len(inputs) if choice.few else int(terms.counts.sum()))
    call = WinogradCall(
        spec, isa, *factors[:2], terms, cut, place, blocks, asm.pack_later(f"{node.name}.u", count, pack),
        asm.pack(f"{node.name}.b", bias_of(asm, node, channels)), params,
    )  # fmt: skip
    facts: dict[str, Any] = {"call": call}
    if residual is not None and place.every == (1, 1):
        facts["in_place"] = 1
    reads = (x, residual) if residual is not None else (x,)
    asm.step(merge.named(spec, isa), "winograd", node.name, reads, (y,), facts, joins=joins)


def pack_points(form: Form, weights: Array, channels: Channels, inputs: Ints, terms: Terms, cols: int) -> Array:
    """Weights [out, in, R, S] transformed, in the kernel's order: [point][tile][k][block of the tile][lane], flat."""
    lanes, taps = channels.slots.shape[1], form.height * form.breadth
    packed: Array = aligned_empty(channels.slots.size * int(terms.counts.sum()), np.float32)
    starts = np.cumsum([0, *terms.counts[:-1]]) * channels.slots.size
    in_order = len(inputs) == weights.shape[1] and bool((inputs == np.arange(len(inputs))).all())
    widths = conv.tiles_of(channels.group_blocks, cols)
    tiles = list(zip(np.cumsum([0, *widths[:-1]]), widths, strict=True))  # first block, blocks

    def pack(tile: tuple[int, int]) -> None:
        block, width = tile
        slots = channels.slots[block : block + width].reshape(-1)
        chosen = rows_of(weights, slots).reshape(len(slots), -1, taps)
        kernels = np.ascontiguousarray((chosen if in_order else chosen[:, inputs]).transpose(2, 1, 0))
        kernels[:, :, slots < 0] = 0.0
        if len(terms.lists) == 1:
            start, size = block * lanes * len(inputs), len(inputs) * len(slots)
            transform_kernels(form, kernels.reshape(taps, -1), packed.reshape(form.points, -1)[:, start : start + size])
            return
        points = np.empty((form.points, len(inputs), len(slots)), np.float32)
        transform_kernels(form, kernels.reshape(taps, -1), points.reshape(form.points, -1))
        for kind, transformed, start in zip(terms.of_point, points, starts, strict=True):
            factors = terms.lists[kind]
            start += block * lanes * len(factors)
            into = packed[start : start + len(factors) * len(slots)].reshape(-1, len(slots))
            np.take(transformed, factors, axis=0, out=into)

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
    planes = x.planes
    if call.phases is not None:
        planes = np.add.outer(planes, call.phases.places(x.row, x.pixel)).reshape(-1)
    few = isinstance(spec, FewSpec)
    mixed, pairs = spec.mixed and not few, spec.mixed and few and grid.paired
    tile = (spec.together, 1) if isinstance(spec, FewSpec) else (spec.rows, spec.cols)
    plan = plan_blocks(
        call.isa, form, tile, len(planes), call.terms.mean, blocks, grid, bound.threads,
        few=few, mixed=mixed or pairs, speed=speed_of(call.isa, host_processor()),
    )  # fmt: skip
    # the last strip of a point may reach beyond the tiles of a mixed block, for it may begin anywhere
    tiles = plan.tiles + tile[0] * mixed
    facts = -(-tiles * WORDS * 8 // 64) * 64
    # a line more than needed, so that the points of a tile do not all fall on one set of a cache
    if few:
        plane = form.columns * tile[0] * vector
        v_row = len(planes) * plane + vector
        v_group = form.rows * v_row
        need = facts + -(-plan.tiles // tile[0]) * (v_group + form.points * tile[0] * vector)
        last: Sequence[int] = (v_row, v_group)
    else:
        part = part_blocks(blocks, tile[1], plan.parts)
        plane = tiles * vector
        v_point, p_point = len(planes) * plane + vector, part * plane + vector
        need = facts + form.points * (v_point + p_point)
        last = v_point, p_point
    scratch, every = bound.scratch(need)
    (top, left), (a, b), down_every = place.padding, place.start, place.every[0]
    offsets = call.plane * plane + call.lane * 4
    entries = np.concatenate([offsets[one] for one in call.terms.lists])
    r_start = bound.arena + (a * r.row + b * r.pixel)
    residual: Sequence[Word] = (r_start, bound.table(r.planes)) if added is not None else (0, 0)
    more: list[Word] = [plan.maps, plan.bands, grid.full_rows, grid.full_columns] if mixed else []
    if isinstance(spec, WinogradSpec) and spec.sums:
        more.append(bound.table(call.terms.table(blocks * vector)))
    elif isinstance(spec, FewSpec) and spec.mixed:
        more.append(int(pairs))
    return [
        bound.arena + (-top * x.row - left * x.pixel), bound.constant(call.weights), bound.constant(call.bias),
        bound.arena + (a * y.row + b * y.pixel), residual[0], bound.table(planes), bound.table(y.planes), residual[1],
        bound.table(offsets_table(entries, step.node)), len(planes), len(offsets), x.images, grid.rows, grid.columns,
        height, width, x.image, x.row * place.stride[0], y.image, y.row * down_every, form.down // call.shrink, r.image,
        r.row * down_every, blocks, tiles, plan.parts, *last, scratch, every,
        *more, *(float_word(p) for p in call.params),
    ]  # fmt: skip
