"""conv2d and conv_transpose2d as calls of the convolution kernels: layouts, what is chosen, packed weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.binding import SLACK
from convc.backends.cpu import conv, conv_dot, merge, winograd_call
from convc.backends.cpu.activations import function_of
from convc.backends.cpu.channels import (
    Channels,
    Taps,
    at_places,
    dense_channels,
    following_channels,
    lane_channels,
    make_taps,
    pack_weights,
    prefers_lanes,
)  # fmt: skip
from convc.backends.cpu.choice import Choice, Facts, candidates
from convc.backends.cpu.conv_call import ConvCall
from convc.backends.cpu.conv_window import row_of_taps, windowed
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.prologue import lower_prologue
from convc.backends.cpu.regions import Run, regions_of
from convc.backends.halo import Halo, reach
from convc.backends.operands import constant_of, transposed_taps
from convc.backends.program import Ints, Planes
from convc.dims import Size, concrete
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.types import Activation, Array, product

NEAR = 1.03
"""Times the cycles predicted: less than predictions are worth."""
EXACT_ROWS = 2
"""A tile of 2 rows, or half of it, reads no pixel that is not there: for steps that are long or known at run time."""


def lower_conv2d(asm: Assembler, node: Node, isa: Isa) -> None:
    """Select and append the call for a conv2d."""
    weights = constant_of(asm, node, "w")
    out, width, height, breadth = weights.shape
    groups = node.attrs["groups"]
    (top, left, bottom, right), (dh, dw) = node.attrs["padding"], node.attrs["dilation"]
    if min(top, left, bottom, right) < 0:
        raise TargetError(f"{node}: padding={node.attrs['padding']} crops", hint="use slice ahead of the convolution")
    x_name = str(node.inputs[0])
    mapped = lower_prologue(asm, node, isa)
    narrow = groups == 1 and width * 2 <= isa.lanes and not asm.has_planes(x_name)
    narrow = narrow and asm.graph[x_name].type.shape[2:] != (1, 1)
    x = mapped or asm.planes(x_name, 1 if narrow else None)
    channels, residual = match_channels(asm, node, x, out, width * groups, groups, isa)
    stride = node.attrs["stride"]
    step = stride[1] * x.lanes * 4
    flat = (height, breadth, *stride, top, left) == (1, 1, 1, 1, 0, 0)
    flat = flat and not asm.has_gaps(node.name, x, mapped is None and _wants_halo(asm, x_name))
    ranked: Sequence[tuple[Choice, float]] = ()
    if channels.mode == "dense" and groups == 1 and not _is_exact(step, isa):
        apart = winograd_call.apart_of(node, (height, breadth), groups) if x.lanes == isa.lanes else 0
        apart = apart if apart and _is_finite(asm, node) else 0
        facts = Facts.of(
            [concrete(size, asm.graph.nominal) for size in node.type.shape], len(x.planes), width, (height, breadth),
            channels.group_blocks, flat, apart,
        )  # fmt: skip
        ranked = candidates(isa, facts)
    pixels = [(r, s, r * dh - top, s * dw - left) for r in range(height) for s in range(breadth)]
    if ranked and len(channels.slots) == 1:
        taps, _ = make_taps(x, channels, pixels, breadth)
        if _vectors(isa, x, channels, taps, facts.images * facts.height * facts.width, ranked[0][1]):
            ranked = ()  # the kernel for few outputs is the only one of its kind
    cut = _regions(asm, node, isa, x, channels, (height, breadth), ranked, step)
    if cut:
        asm.candidates[node.name] = []
        _append_regions(asm, node, isa, x, residual, channels, weights, step, cut)
        return
    choice = _chosen(asm, node, ranked, (step, channels.group_blocks))
    asm.candidates[node.name] = [one for one, _ in ranked]
    if choice is not None and choice.form is not None:
        _append_winograd(asm, node, isa, choice, x, residual, channels, weights)
        return
    taps, order = make_taps(x, channels, pixels, breadth)
    y = asm.new_planes(node.name, node.type, places=channels.places)
    below = reach(x.height, y.height, stride[0], height, dh, top)
    beyond = reach(x.width, y.width, stride[1], breadth, dw, left)
    asm.need_halo(x, Halo.of(top, left, below, beyond))
    packed = weights.reshape(out, -1)
    tile = (choice.rows, choice.cols) if choice is not None else None
    _append(asm, node, isa, x, y, residual, channels, taps, order, packed, step, stride, flat, tile=tile)
    asm.define(y)


def _regions(
    asm: Assembler, node: Node, isa: Isa, x: Planes, channels: Channels, kernel: tuple[int, int],
    ranked: Sequence[tuple[Choice, float]], step: int,
) -> Sequence[tuple[Run, Run]]:  # fmt: skip
    if _is_exact(step, isa):
        return ()
    shape = asm.graph[str(node.inputs[0])].type.shape
    bundles, terms = channels.inputs.shape
    images, _, rows, columns = (concrete(size, asm.graph.nominal) for size in node.type.shape)
    count = terms * kernel[0] * kernel[1]
    if ranked:
        cycles = ranked[0][1]
    else:
        tile = conv.choose_tile(isa, channels.group_blocks, count, columns, images * rows)
        cycles = bundles * count * conv.tile_cycles(isa, tile, channels.group_blocks, count, columns, images * rows)
    return regions_of(isa, node, shape, kernel, len(x.planes), bundles, terms, channels.group_blocks, cycles)


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
        _append(
            asm, node, isa, x, y, residual, channels, taps, order, weights.reshape(len(weights), -1), step, stride,
            False, size=(down.count, along.count), start=(down.start, along.start), taps_in_kernel=height * breadth,
            joins=index < len(cut) - 1,
        )  # fmt: skip
    asm.define(y)


def _chosen(
    asm: Assembler, node: Node, ranked: Sequence[tuple[Choice, float]], layer: tuple[int, int]
) -> Choice | None:
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


def _append_winograd(
    asm: Assembler, node: Node, isa: Isa, choice: Choice, x: Planes, residual: Planes | None,
    channels: Channels, weights: Array,
) -> None:  # fmt: skip
    taps, order = make_taps(x, channels, [(0, 0, 0, 0)], 1)
    y = asm.new_planes(node.name, node.type, places=channels.places)
    activation: Activation | None = node.attrs["activation"]
    function, params = function_of(activation) if activation is not None else ("", ())
    bias = bias_of(asm, node, channels)
    winograd_call.append(asm, node, isa, choice, x, y, residual, channels, taps, order, weights, bias, function, params)
    asm.define(y)


def bias_of(asm: Assembler, node: Node, channels: Channels) -> Array:
    """The bias of every lane of every block, 0 where the node has none."""
    bias = np.zeros(channels.slots.size, np.float32)
    if node.input("b") is not None:
        filled = channels.slots.reshape(-1)
        bias[filled >= 0] = constant_of(asm, node, "b")[filled[filled >= 0]]
    return bias


def lower_conv_transpose2d(asm: Assembler, node: Node, isa: Isa) -> None:
    """A transposed convolution of stride s is s * s convolutions, one for each phase of the output's rows and columns.

    out[q s + a] = sum of x[q + (a + padding - r dilation) / s] w[r] over the r for which s divides
    """
    weights = constant_of(asm, node, "w")
    channels_in, per_group, height, breadth = weights.shape
    groups = node.attrs["groups"]
    out = per_group * groups
    x = asm.planes(str(node.inputs[0]))
    channels, residual = match_channels(asm, node, x, out, channels_in, groups, isa)
    y = asm.new_planes(node.name, node.type, places=channels.places)
    packed = weights.reshape(groups, channels_in // groups, per_group, height * breadth)
    packed = packed.transpose(0, 2, 1, 3).reshape(out, -1)
    stride = node.attrs["stride"]
    phases = []
    for a in range(stride[0]):
        for b in range(stride[1]):
            rows = transposed_taps(a, height, stride[0], node.attrs["padding"][0], node.attrs["dilation"][0])
            cols = transposed_taps(b, breadth, stride[1], node.attrs["padding"][1], node.attrs["dilation"][1])
            size = tuple(
                (length - start + (step - 1)) // step
                for length, start, step in zip(node.type.shape[2:], (a, b), stride, strict=True)
            )
            if 0 not in size:
                phases.append((a, b, [(r, s, dy, dx) for r, dy in rows for s, dx in cols], size))
    for index, (a, b, pixels, size) in enumerate(phases):
        for _, _, dy, dx in pixels:
            asm.need_halo(x, Halo.of(-dy, -dx, size[0] + dy - x.height, size[1] + dx - x.width))
        taps, order = make_taps(x, channels, pixels, breadth)
        order = order if pixels else np.zeros((len(channels.inputs), 0), np.int64)
        _append(
            asm, node, isa, x, y, residual, channels, taps, order, packed, x.lanes * 4, (1, 1), False,
            size=size, start=(a, b), every=stride, taps_in_kernel=height * breadth, joins=index < len(phases) - 1,
        )  # fmt: skip
    asm.define(y)


def _is_exact(step: int, isa: Isa) -> bool:
    """Whether pixels so many bytes apart, or 0 where that is known at run time, take tiles that read no other."""
    return not 0 < step <= SLACK // max(rows for rows, _ in isa.tiles)


def _is_finite(asm: Assembler, node: Node) -> bool:
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


def _append(
    asm: Assembler, node: Node, isa: Isa, x: Planes, y: Planes, residual: Planes | None,
    channels: Channels, taps: Taps, order: Ints, weights: Array, step: int, stride: tuple[int, int], flat: bool,
    *, size: tuple[Size, ...] | None = None, start: tuple[int, int] = (0, 0), every: tuple[int, int] = (1, 1),
    taps_in_kernel: int | None = None, joins: bool = False, tile: tuple[int, int] | None = None,
) -> None:  # fmt: skip
    height, width = size if size is not None else (y.height, y.width)
    nominal = asm.graph.nominal
    lines, pixels = concrete(y.batch * height, nominal), concrete(width, nominal)
    if flat:
        lines, pixels = 1, lines * pixels
    exact = _is_exact(max(step, every[1] * isa.lanes * 4) if step else 0, isa)
    if exact:
        tile = (EXACT_ROWS, min(isa.registers // 4, channels.group_blocks))
    elif tile is None:
        tile = conv.choose_tile(isa, channels.group_blocks, max(taps.plane.shape[1], 1), max(pixels, 1), max(lines, 1))
    activation: Activation | None = node.attrs["activation"]
    function, params = function_of(activation) if activation is not None else ("", ())
    rest = channels.group_blocks % tile[1]
    unroll = conv.unroll_of(isa, channels.mode, taps.plane.shape[1])
    soon = channels.mode == "dense" and not taps.dy.any() and not taps.dx.any()
    spec = conv.ConvSpec(
        channels.mode, step, *tile, rest, unroll, residual is not None, function, len(params), soon=soon
    )
    direct = conv.tile_cycles(isa, (spec.rows, spec.cols), 1, taps.plane.shape[1], pixels, lines)
    vectors = None if exact else _vectors(isa, x, channels, taps, lines * pixels, direct * taps.plane.shape[1])
    if vectors is not None:
        spec = conv_dot.across(spec, isa, conv_dot.outputs_of(channels))
    if channels.inputs.shape[1] == 1 and every == (1, 1):
        across, gap = row_of_taps(taps.dy[0], taps.dx[0])
        spec = windowed(spec, isa, across, gap * x.lanes * 4)
    if taps_in_kernel is None:
        taps_in_kernel = weights.shape[1] // channels.inputs.shape[1]
    columns = order[..., 0] * taps_in_kernel + order[..., 1] if order.ndim == 3 else order

    def pack() -> Array:
        if vectors is not None:
            return conv_dot.pack(weights, channels, columns)
        return pack_weights(weights, channels, columns, tile[1])

    count = (spec.outputs or channels.slots.size) * columns.shape[1]
    packed = asm.pack_later(f"{node.name}.w", count, pack)
    call = ConvCall(
        spec, vectors or taps, stride, height, width, start, every, channels.group_blocks, packed,
        asm.pack(f"{node.name}.b", bias_of(asm, node, channels)), params,
    )  # fmt: skip
    reads = (x, residual) if residual is not None else (x,)
    facts: dict[str, Any] = {"call": call}
    if residual is not None and every == (1, 1):
        facts["in_place"] = 1
    asm.step(merge.emit(spec, isa), "conv", node.name, reads, (y,), facts, joins=joins)


def _vectors(isa: Isa, x: Planes, channels: Channels, taps: Taps, pixels: int, cycles: float) -> Taps | None:
    """The taps by whole vectors of channels, where the kernel for few outputs is predicted to take fewer cycles."""
    vectors = conv_dot.whole_vectors(channels, taps, isa.lanes) if x.lanes == isa.lanes else None
    if vectors is None:
        return None
    needed = conv_dot.cycles(isa, conv_dot.outputs_of(channels), vectors.plane.shape[1], pixels)
    return vectors if needed < cycles else None
