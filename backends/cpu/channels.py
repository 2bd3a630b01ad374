"""How a convolution pairs channels: which lanes hold which outputs, where factors lie, weights in that order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from convc.backends.aligned import aligned_empty
from convc.backends.assemble import Assembler
from convc.backends.cpu import conv
from convc.backends.operands import constant_of
from convc.backends.program import Ints, Planes
from convc.dims import concrete
from convc.ir.graph import Graph, Node
from convc.parallel import each
from convc.types import Array

RELAYOUT_CYCLES = 24
"""Estimated cycles in which a pixel of a plane moves to other lanes; a vector multiply-add takes half a cycle."""


@dataclass(frozen=True, eq=False)
class Taps:
    """Where the k-th factor of each group lies: plane, lane, and displacement in input pixels. Arrays [groups, K]."""

    plane: Ints
    lane: Ints
    dy: Ints
    dx: Ints


@dataclass(frozen=True, eq=False)
class Channels:
    """How a convolution pairs channels: output channels in blocks by group, and the input channels each group reads.

    `slots` [groups * group_blocks, lanes] holds the output channel in each lane, -1 for none. `inputs` [groups, n]
    holds input channels; in `lanes` mode those of lane 0, the other lanes hold their own group's.
    """

    mode: str
    slots: Ints
    inputs: Ints
    group_blocks: int

    @property
    def places(self) -> Ints:
        block, lane = np.nonzero(self.slots >= 0)
        places = np.empty((len(block), 2), np.int64)
        places[self.slots[block, lane]] = np.stack([block, lane], axis=1)
        return places


def dense_channels(out: int, channels: int, groups: int, lanes: int, places: Ints | None) -> Channels:
    """Each block of output channels reads all input channels of its group; groups start at a new block."""
    per_group = out // groups
    blocks = -(-per_group // lanes)
    if places is not None:
        blocks = -(-(int(places[:, 0].max()) + 1) // groups)
        slots = np.full((groups * blocks, lanes), -1, np.int64)
        slots[places[:, 0], places[:, 1]] = np.arange(out)
    else:
        slots = np.full((groups, blocks * lanes), -1, np.int64)
        slots[:, :per_group] = np.arange(out).reshape(groups, per_group)
        slots = slots.reshape(groups * blocks, lanes)
    return Channels("dense", slots, np.arange(channels).reshape(groups, -1), blocks)


def following_channels(
    residual: Planes, out: int, channels: int, groups: int, count: int
) -> tuple[Channels, Planes] | None:
    """Output channels where those of the residual are: a block for each of its planes and each group with channels
    there. Also the residual with a plane for each block. None where that takes more than twice the fewest blocks (all
    that follows would, too), or where the multiply-adds of those beyond cost more than moving the residual.
    `count` is the multiply-adds of an output. The last plane always has channels.
    """
    lanes, per_group = residual.lanes, out // groups
    of_group = residual.places.reshape(groups, per_group, 2)
    planes = [np.unique(places[:, 0]) for places in of_group]
    blocks = max(map(len, planes))
    fewest = -(-per_group // lanes)
    extra = groups * (blocks - fewest)
    if blocks > 2 * fewest or extra * count > 2 * RELAYOUT_CYCLES * len(residual.planes):
        return None
    slots = np.full((groups, blocks, lanes), -1, np.int64)
    empty = iter(sorted(set(range(len(residual.planes))) - set(residual.places[:, 0].tolist())))
    listed: list[tuple[int, int]] = []
    for group, (used, places) in enumerate(zip(planes, of_group, strict=True)):
        block = np.searchsorted(used, places[:, 0])
        block[block == len(used) - 1] = blocks - 1
        slots[group, block, places[:, 1]] = group * per_group + np.arange(per_group)
        unused = [next(empty, 0) for _ in range(blocks - len(used))]
        listed += [residual.planes[i] for i in (*used[:-1], *unused, used[-1])]
    found = Channels("dense", slots.reshape(-1, lanes), np.arange(channels).reshape(groups, -1), blocks)
    return found, replace(residual, planes=tuple(listed), places=found.places)


def at_places(value: Planes, places: Ints, count: int) -> Planes | None:
    """`value` as a list of `count` planes in which its channels lie at `places`; None where some must move."""
    if len(value.planes) == count and np.array_equal(value.places, places):
        return value
    if not np.array_equal(value.places[:, 1], places[:, 1]):
        return None
    source: dict[int, int] = {}
    for to, at in zip(places[:, 0].tolist(), value.places[:, 0].tolist(), strict=True):
        if source.setdefault(to, at) != at:
            return None
    planes = tuple(value.planes[source.get(i, 0)] for i in range(count))
    return replace(value, planes=planes, places=places)


def lane_channels(x: Planes, out: int, groups: int) -> Channels | None:
    """A group a lane, where the i-th channels of all groups lie in one plane, a lane each; else None."""
    width, per_group = x.channels // groups, out // groups
    planes = x.places[:, 0].reshape(groups, width)
    lanes = x.places[:, 1].reshape(groups, width)
    if (lanes != lanes[:, :1]).any():
        return None
    bundles, member = np.unique(planes, axis=0, return_inverse=True)
    member = member.reshape(-1)
    slots = np.full((len(bundles), per_group, x.lanes), -1, np.int64)
    outputs = np.arange(out).reshape(groups, per_group)
    slots[member[:, None], np.arange(per_group)[None], lanes[:, :1]] = outputs
    first = np.array([np.flatnonzero(member == i)[0] for i in range(len(bundles))])
    inputs = np.arange(x.channels).reshape(groups, width)[first]
    return Channels("lanes", slots.reshape(-1, x.lanes), inputs, per_group)


def lane_places(channels: int, groups: int, lanes: int) -> Ints:
    """Places that give every group a lane: channel i of group g in plane (g // lanes) * n + i, lane g % lanes."""
    width = channels // groups
    group, index = np.divmod(np.arange(channels), width)
    return np.stack([(group // lanes) * width + index, group % lanes], axis=1)


def prefers_lanes(out: int, channels: int, groups: int, lanes: int) -> bool:
    """Whether a group a lane takes fewer vector multiply-adds than a block of lanes a group."""
    by_lane = -(-groups // lanes) * (out // groups)
    by_block = groups * -(-out // groups // lanes)
    return groups > 1 and by_lane < by_block


def wanted_places(node: Node, graph: Graph, lanes: int) -> Ints | None:
    """Places that a grouped convolution wants its input's channels to have."""
    if node.op != "conv2d":
        return None
    groups, x = node.attrs["groups"], graph[node.operands[0]].type
    channels, out = x.shape[1], concrete(node.type.shape[1], {})
    if groups == channels or not isinstance(channels, int) or not prefers_lanes(out, channels, groups, lanes):
        return None
    return lane_places(channels, groups, lanes)


def bias_of(asm: Assembler, node: Node, channels: Channels) -> Array:
    """The bias of every lane of every block, 0 where the node has none."""
    bias = np.zeros(channels.slots.size, np.float32)
    if node.input("b") is not None:
        filled = channels.slots.reshape(-1)
        bias[filled >= 0] = constant_of(asm, node, "b")[filled[filled >= 0]]
    return bias


def make_taps(
    x: Planes, channels: Channels, pixels: Sequence[tuple[int, int, int, int]], breadth: int
) -> tuple[Taps, Ints]:
    """Offsets in the order (plane, tap, lane), so that the lines of one plane stay in the first-level cache.

    Also the column of the weight matrix [out, inputs * taps] that each k multiplies. Arrays [groups, K].
    """
    groups, width = channels.inputs.shape
    places = x.places[channels.inputs]  # [groups, width, 2]
    count = len(pixels)
    r, s, dy, dx = (np.array([p[i] for p in pixels], np.int64).reshape(count) for i in range(4))
    plane = np.repeat(places[:, :, 0], count, axis=1)
    lane = np.repeat(places[:, :, 1] * (channels.mode == "dense"), count, axis=1)
    tap = np.tile(np.arange(count), (groups, width))
    order = (
        np.lexsort((lane, tap, plane), axis=-1) if channels.mode == "dense" else np.argsort(tap, axis=-1, kind="stable")
    )

    def take(values: Ints) -> Ints:
        return np.take_along_axis(values, order, axis=1)

    tap = take(tap)
    taps = Taps(take(plane), take(lane), dy[tap] if count else tap, dx[tap] if count else tap)
    source = np.repeat(np.tile(np.arange(width), (groups, 1)), count, axis=1)
    kernel = r * breadth + s
    return taps, np.stack([take(source), kernel[tap] if count else tap], axis=-1)


def rows_of(weights: Array, slots: Ints) -> Array:
    """The rows that lanes hold, any where a lane holds none; without a copy where they follow each other."""
    in_turn = slots[0] >= 0 and (np.diff(slots) == 1).all()
    return weights[slots[0] : slots[-1] + 1] if in_turn else weights[np.maximum(slots, 0)]


def pack_weights(weights: Array, channels: Channels, columns: Ints, cols: int) -> Array:
    """Weights [out, inputs * taps] in the kernel's order: [tile][k][block of the tile][lane], flat."""
    groups, count = columns.shape
    lanes = channels.slots.shape[1]
    packed: Array = aligned_empty(channels.slots.size * count, np.float32)
    tiles: list[tuple[int, int, int, int]] = []  # group, first block, blocks, first element
    start = 0
    for group in range(groups):
        block = group * channels.group_blocks
        for width in conv.tiles_of(channels.group_blocks, cols):
            tiles.append((group, block, width, start))
            start += count * width * lanes
            block += width

    def pack(tile: tuple[int, int, int, int]) -> None:
        group, block, width, start = tile
        slots = channels.slots[block : block + width].reshape(-1)
        rows = rows_of(weights, slots)
        if len(columns[group]) != weights.shape[1] or (columns[group] != np.arange(weights.shape[1])).any():
            rows = rows[:, columns[group]]
        to = packed[start : start + count * len(slots)].reshape(count, len(slots))
        np.copyto(to, rows.T)
        to[:, slots < 0] = 0.0

    each(pack, tiles)
    return packed
