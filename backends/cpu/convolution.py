"""conv2d as calls of the convolution kernels: layouts, and what is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.cpu import conv, conv_ahead, phases_pack, winograd_call
from convc.backends.cpu.channels import (
    Channels,
    at_places,
    dense_channels,
    following_channels,
    lane_channels,
    make_taps,
    prefers_lanes,
)  # fmt: skip
from convc.backends.cpu.choice import Choice, Facts, candidates
from convc.backends.cpu.conv_append import across_vectors, append_direct, is_exact
from convc.backends.cpu.isa import Isa, Speed, speed_of
from convc.backends.cpu.phases import Phases, phases_of
from convc.backends.cpu.prologue import lower_prologue
from convc.backends.cpu.regions import Run, regions_of
from convc.backends.halo import Halo, reach
from convc.backends.operands import constant_of
from convc.backends.program import Planes
from convc.dims import concrete
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.types import Array, product

NEAR = 1.03
"""Times the cycles predicted: less than predictions are worth."""


def lower_conv2d(asm: Assembler, node: Node, isa: Isa) -> None:
    """Select and append the call for a conv2d."""
    weights = constant_of(asm, node, "w")
    out, width, height, breadth = weights.shape
    groups = node.attrs["groups"]
    (top, left, bottom, right), (dh, dw) = node.attrs["padding"], node.attrs["dilation"]
    if min(top, left, bottom, right) < 0:
        raise TargetError(f"{node}: padding={node.attrs['padding']} crops", hint="use slice ahead of the convolution")
    x_name = str(node.inputs[0])
    ahead = conv_ahead.ahead_of(node, weights.shape, isa)
    if ahead is not None and asm.planes(x_name).lanes != isa.lanes:
        ahead = None
    mapped = lower_prologue(asm, node, isa) if ahead is None else None
    narrow = mapped is None and ahead is None and groups == 1 and width * 2 <= isa.lanes and not asm.has_planes(x_name)
    narrow = narrow and asm.graph[x_name].type.shape[2:] != (1, 1)
    ranked: Sequence[tuple[Choice, float]] = ()
    if narrow:
        cut = phases_pack.fitting_phases(node, isa, width, (height, breadth)) if is_finite(asm, node) else None
        shape = [concrete(size, asm.graph.nominal) for size in node.type.shape]
        ranked = phases_pack.ranked(isa, cut, shape, width, (height, breadth), speed_of(isa, asm.processor))
        choice = chosen(asm, node, ranked, (node.attrs["stride"][1] * 4, -(-out // isa.lanes)))
        if cut is not None and choice is not None and choice.form is not None:
            _lower_phases(asm, node, isa, choice, cut, weights)
            asm.candidates[node.name] = [one for one, _ in ranked]
            return
    x = mapped or asm.planes(x_name, 1 if narrow else None)
    channels, residual = match_channels(asm, node, x, out, width * groups, groups, isa)
    stride = node.attrs["stride"]
    step = stride[1] * x.lanes * 4
    flat = (height, breadth, *stride, top, left) == (1, 1, 1, 1, 0, 0)
    flat = flat and not asm.has_gaps(node.name, x, mapped is None and _wants_halo(asm, x_name))
    cut = None
    pixels = [(r, s, r * dh - top, s * dw - left) for r in range(height) for s in range(breadth)]
    if channels.mode == "dense" and groups == 1 and not narrow and not is_exact(step, isa):
        apart = winograd_call.apart_of(node, (height, breadth), groups) if x.lanes == isa.lanes else 0
        cut = phases_of(node, width, (height, breadth)) if stride != (1, 1) and x.lanes == isa.lanes else None
        if (apart or cut) and not is_finite(asm, node):
            apart, cut = 0, None
        facts = Facts.of(
            [concrete(size, asm.graph.nominal) for size in node.type.shape],
            len(x.planes) * (cut.count if cut is not None else 1), width, (height, breadth), channels.group_blocks,
            flat, 1 if cut is not None else apart, cut,
        )  # fmt: skip
        ranked = rank(isa, speed_of(isa, asm.processor), x, channels, pixels, breadth, facts)
    cut_out = _regions(asm, node, isa, x, channels, (height, breadth), ranked, step)
    if cut_out:
        asm.candidates[node.name] = []
        _append_regions(asm, node, isa, x, residual, channels, weights, step, cut_out)
        return
    choice = chosen(asm, node, ranked, (step, channels.group_blocks))
    asm.candidates[node.name] = [one for one, _ in ranked]
    y = asm.new_planes(node.name, node.type, places=channels.places)
    if choice is not None and choice.form is not None:
        if cut is None:
            apart = winograd_call.apart_of(node, (height, breadth), groups)
            place = winograd_call.Place((top, left), apart, y.height, y.width)
        else:
            place = winograd_call.Place(cut.before, 1, y.height, y.width, stride=stride)
        kernels = partial(cut.kernels, weights) if cut is not None else lambda: weights
        winograd_call.append(asm, node, isa, choice, x, y, residual, channels, kernels, place, phases=cut)
        asm.define(y)
        return
    taps, order = make_taps(x, channels, pixels, breadth)
    below = reach(x.height, y.height, stride[0], height, dh, top)
    beyond = reach(x.width, y.width, stride[1], breadth, dw, left)
    asm.need_halo(x, Halo.of(top, left, below, beyond))
    packed = weights.reshape(out, -1)
    tile = (choice.rows, choice.cols) if choice is not None else None
    append_direct(
        asm, node, isa, x, y, residual, channels, taps, order, packed, step, stride, flat, tile=tile, ahead=ahead,
    )  # fmt: skip
    asm.define(y)


def _lower_phases(asm: Assembler, node: Node, isa: Isa, choice: Choice, cut: Phases, weights: Array) -> None:
    x = phases_pack.append(asm, node, isa, cut)
    channels, residual = match_channels(asm, node, x, len(weights), cut.all_channels, 1, isa)
    y = asm.new_planes(node.name, node.type, places=channels.places)
    place = winograd_call.Place(cut.ahead, 1, y.height, y.width)
    kernels = partial(cut.kernels, weights)
    winograd_call.append(asm, node, isa, choice, x, y, residual, channels, kernels, place, phases=cut)
    asm.define(y)


def rank(
    isa: Isa, speed: Speed, x: Planes, channels: Channels, pixels: Sequence[tuple[int, int, int, int]], breadth: int,
    facts: Facts,
) -> Sequence[tuple[Choice, float]]:
    """What could run a convolution by predicted cycles; nothing where the kernel for few outputs takes fewer, which is
    the only one of its kind.
    """
    found = candidates(isa, facts, speed)
    if len(channels.slots) == 1:
        taps, _ = make_taps(x, channels, pixels, breadth)
        if across_vectors(isa, x, channels, taps, facts.images * facts.height * facts.width, found[0][1]):
            return ()
    return found


def _regions(
    asm: Assembler, node: Node, isa: Isa, x: Planes, channels: Channels, kernel: tuple[int, int],
    ranked: Sequence[tuple[Choice, float]], step: int,
) -> Sequence[tuple[Run, Run]]:  # fmt: skip
    if is_exact(step, isa):
        return ()
    shape = asm.graph[str(node.inputs[0])].type.shape
    bundles, terms = channels.inputs.shape
    images, _, rows, columns = (concrete(size, asm.graph.nominal) for size in node.type.shape)
    count, speed = terms * kernel[0] * kernel[1], speed_of(isa, asm.processor)
    if ranked:
        cycles = ranked[0][1]
    else:
        blocks, lines = channels.group_blocks, images * rows
        tile = conv.choose_tile(isa, blocks, count, columns, lines)
        cycles = bundles * count * conv.tile_cycles(isa, tile, blocks, count, columns, lines, speed)
    return regions_of(isa, node, shape, kernel, len(x.planes), bundles, terms, channels.group_blocks, cycles, speed)


def _append_regions(
    asm: Assembler, node: Node, isa: Isa, x: Planes, residual: Planes | None, channels: Channels, weights: Array,
    step: int, cut: Sequence[tuple[Run, Run]],
) -> None:  # fmt: skip
    (top, left, _, _), (dh, dw), stride = (node.attrs[name] for name in ("padding", "dilation", "stride"))
    height, breadth = weights.shape[2:]
    y = asm.new_planes(node.name, node.type, places=channels.places)
    for index, (down, along) in enumerate(cut):
        pixels = [
            (r, s, down.start * stride[0] + r * dh - top, along.start * stride[1] + s * dw - left)
            for r in down.taps
            for s in along.taps
        ]
        taps, order = make_taps(x, channels, pixels, breadth)
        order = order if pixels else np.zeros((len(channels.inputs), 0), np.int64)
        append_direct(
            asm, node, isa, x, y, residual, channels, taps, order, weights.reshape(len(weights), -1), step, stride,
            False, size=(down.count, along.count), start=(down.start, along.start), taps_in_kernel=height * breadth,
            joins=index < len(cut) - 1,
        )  # fmt: skip
    asm.define(y)


def chosen(asm: Assembler, node: Node, ranked: Sequence[tuple[Choice, float]], layer: tuple[int, int]) -> Choice | None:
    """What was chosen before, else the likely fastest; of those that are as fast, one whose kernel there is already."""
    given = asm.choices.get(node.name)
    if not ranked or given in [one for one, _ in ranked]:
        return given if ranked else None
    (best, cycles), (step, blocks) = ranked[0], layer
    near = [one for one, needed in ranked if needed <= NEAR * cycles and (one.form, one.few) == (best.form, best.few)]
    kernels = {one: (step if one.form is None else 0, one, blocks % one.cols) for one in near}
    choice = next((one for one in near if kernels[one] in asm.used), best)
    asm.used.add(kernels[choice])
    return choice


def is_finite(asm: Assembler, node: Node) -> bool:
    """Whether Winograd's transform may mix the weights: no infinity, no NaN. What was packed before tells."""
    if asm.is_given(f"{node.name}.u") or asm.is_given(f"{node.name}.w"):
        return asm.is_given(f"{node.name}.u")
    kernel = asm.graph[str(node.input("w"))].value
    return kernel is not None and bool(np.isfinite(kernel.largest))


def _wants_halo(asm: Assembler, name: str) -> bool:
    return any(u.op == "conv2d" and any(u.attrs["padding"]) and u.inputs[0] == name for u in asm.graph.users(name))


def match_channels(
    asm: Assembler, node: Node, x: Planes, out: int, channels: int, groups: int, isa: Isa
) -> tuple[Channels, Planes | None]:
    """Pairing of channels, and the residual with its channels where the output's are."""
    name = node.input("residual")
    residual = asm.planes(name) if name is not None else None
    found: Channels | None = None
    if prefers_lanes(out, channels, groups, isa.lanes):
        found = lane_channels(x, out, groups)
    if found is None and residual is not None:
        count = product(asm.graph[str(node.input("w"))].type.shape) // out
        following = following_channels(residual, out, channels, groups, concrete(count, {}))
        if following is not None:
            return following
    if found is None:
        found = dense_channels(out, channels, groups, isa.lanes, asm.wanted.get(node.name))
    if residual is not None:
        listed = at_places(residual, found.places, len(found.slots))
        residual = listed or asm.relayout(str(name), residual, found.places)
    return found, residual
