"""Values on the GPU: one NHWC plane each, `lanes` elements from pixel to pixel, in the storage of the precision.

A value is *natural* where channel c lies at lane start + c, start a multiple of 16 bytes, and zeros follow up to the
next such multiple. Kernels write natural values only, and most read them so; a dense convolution reads any places, by
the order of its weights. Operands of a concatenation along channels are given their home ahead, in one buffer, so that
joining them moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convc.backends.assemble import Assembler, Conversions
from convc.backends.cuda.winners import Shape, Winner
from convc.backends.cuda.writer import ELEMENT, VECTOR
from convc.backends.program import Buffer, Ints, Planes
from convc.dims import Size, concrete
from convc.errors import TargetError
from convc.ir.graph import Graph, Node
from convc.types import Array, DType, TensorType

SEVERAL = 2
"""So many operands of a concatenation are picked from other values where these share a buffer."""
MOST_HOLES = 2
"""A dense convolution reads a run of lanes at most this many times as wide as it has channels."""


@dataclass(frozen=True)
class Home:
    """Where a value that is part of a concatenation will lie: the concatenation's name, and the first lane."""

    root: str
    start: int


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution's call, and the shape that it has at some sizes."""

    shape: Shape
    call: Any
    sizes: Mapping[str, int]


class CudaAssembler(Assembler):
    """An Assembler whose values in planes are single NHWC planes."""

    def __init__(
        self,
        graph: Graph,
        target: str,
        precision: str,
        storage: str,
        arch: str,
        conversions: Conversions,
        given: Mapping[str, Array] | None = None,
        winners: Mapping[str, Winner] | None = None,
    ) -> None:
        super().__init__(graph, target, 0, conversions, given)
        self.winners = winners or {}
        self.layers: dict[str, Layer] = {}
        """One convolution of each class of shapes."""
        self.precision = precision
        self.arch = arch
        self.storage = storage
        self.vector = VECTOR[storage]
        self.homes, self._widths = find_homes(graph, self.vector)
        self._rooms: dict[str, int] = {}
        self._written: dict[int, set[int]] = {}

    def padded(self, channels: int) -> int:
        """Lanes that a natural value of so many channels fills."""
        return -(-channels // self.vector) * self.vector

    def has_planes(self, name: str) -> bool:
        return any(isinstance(layout, Planes) for layout in self.layouts(name))

    def planes(self, name: str, lanes: int | None = None) -> Planes:
        for layout in self.layouts(name):
            if isinstance(layout, Planes):
                return layout
        plain = self.plain(name)
        made = self.new_planes(name, self.graph[name].type)
        self._conversions.pack(self, name, plain, made)
        self.define(made)
        return made

    def natural(self, name: str) -> Planes:
        """The value in natural order, copied there where need be."""
        found = self.planes(name)
        for layout in self.layouts(name):
            if isinstance(layout, Planes) and self.is_natural(layout):
                return layout
        return self.copied(name, found)

    def is_natural(self, planes: Planes) -> bool:
        """Whether channels follow each other from a multiple of 16 bytes on."""
        lanes = planes.places[:, 1]
        return bool(lanes[0] % self.vector == 0 and (np.diff(lanes) == 1).all())

    def copied(self, name: str, source: Planes) -> Planes:
        """A natural copy in a buffer of its own, or in the value's home."""
        type = TensorType(DType.F32, (source.batch, source.channels, source.height, source.width))
        made = self.new_planes(name, type)
        self._conversions.relayout(self, name, source, made)
        self.define(made)
        return made

    def run(self, name: str) -> tuple[Planes, int, Ints]:
        """For a reader that packs weights by lane: the value, its first lane, and each lane's channel, -1 for none.

        All those lanes have been written, and their number is a multiple of 16 bytes.
        """
        first = self.planes(name)
        return self.readable(name, next((v for v in self._in_planes(name) if self._is_readable(v)), first))

    def readable(self, name: str, found: Planes) -> tuple[Planes, int, Ints]:
        """`run` of a value that lies in planes, copied where its lanes lie too far apart."""
        return self.run_of(found if self._is_readable(found) else self.copied(name, found))

    def _in_planes(self, name: str) -> list[Planes]:
        return [layout for layout in self.layouts(name) if isinstance(layout, Planes)]

    def _is_readable(self, found: Planes) -> bool:
        """Whether the lanes that a reader by lane would read have been written, and are few."""
        lanes = found.places[:, 1]
        first = int(lanes.min()) // self.vector * self.vector
        width = self.padded(int(lanes.max()) + 1 - first)
        known = self._written.get(found.planes[0][0], set())
        return width <= MOST_HOLES * self.padded(found.channels) and known.issuperset(range(first, first + width))

    def run_of(self, planes: Planes) -> tuple[Planes, int, Ints]:
        """`run` of a value as it lies."""
        lanes = planes.places[:, 1]
        first = int(lanes.min()) // self.vector * self.vector
        channels = np.full(self.padded(int(lanes.max()) + 1 - first), -1, np.int64)
        channels[lanes - first] = np.arange(planes.channels)
        return planes, first, channels

    def grouped(self, name: str, source: Planes, groups: int) -> Planes:
        """The value with each group's channels in a row from a multiple of 16 bytes on, copied where need be."""
        per_group = source.channels // groups
        width = self.padded(per_group)
        channel = np.arange(source.channels)
        wanted = channel // per_group * width + channel % per_group
        first = int(source.places[0, 1])
        if first % self.vector == 0 and np.array_equal(source.places[:, 1], first + wanted):
            return source
        index = self._new_buffer(
            f"{name}.groups", source.batch, groups * width, source.height, source.width, groups * width
        )
        places = np.stack([np.zeros(len(wanted), np.int64), wanted], axis=1)
        made = replace(source, planes=((index, 0),), places=places, lanes=groups * width)
        self._conversions.relayout(self, name, source, made)
        return made

    def new_planes(
        self, name: str, type: TensorType, *, lanes: int | None = None, places: Ints | None = None
    ) -> Planes:
        """A natural place for a value of rank 4, or of rank 2 as [N, C, 1, 1]: its home, or a buffer of its own."""
        if type.rank not in {2, 4} or type.dtype is not DType.F32 or not isinstance(type.shape[1], int):
            raise TargetError(f"%{name}: {type} cannot be laid out in planes", hint="use float32 of rank 2 or 4")
        batch, channels = type.shape[0], type.shape[1]
        height, width = type.shape[2:] if type.rank == 4 else (1, 1)
        home = self.homes.pop(name, None)
        if home is None:
            index = self._new_buffer(name, batch, channels, height, width, self.padded(channels))
            start = 0
        else:
            index, start = self._room(home.root), home.start
        self._written.setdefault(index, set()).update(range(start, start + self.padded(channels)))
        found = np.stack([np.zeros(channels, np.int64), start + np.arange(channels)], axis=1)
        return Planes(name, self.buffers[index].lanes, batch, height, width, ((index, 0),), found)

    @staticmethod
    def stored(y: Planes, order: Ints | None) -> Planes:
        """`y` with channel c in lane `order[c]`, where a kernel's store put it."""
        return y if order is None else replace(y, places=np.stack([y.places[:, 0], y.places[0, 1] + order], axis=1))

    def _new_buffer(self, name: str, batch: Size, channels: int, height: Size, width: Size, lanes: int) -> int:
        index, group = len(self.buffers), len(self._parent)
        self._parent.append(group)
        type = TensorType(DType.F32, (batch, channels, height, width))
        self.buffers.append(Buffer(index, name, type, 1, lanes, group, element=ELEMENT[self.storage]))
        return index

    def _room(self, root: str) -> int:
        """The buffer of a concatenation's parts."""
        if root not in self._rooms:
            type = self.graph[root].type
            height, width = type.shape[2:] if type.rank == 4 else (1, 1)
            channels = concrete(type.shape[1], {})
            self._rooms[root] = self._new_buffer(root, type.shape[0], channels, height, width, self._widths[root])
        return self._rooms[root]

    def join(self, name: str, parts: Sequence[Planes]) -> Planes:
        """The concatenation of values along their channels.

        Parts that lie in one buffer stay there, as in DenseNet, whose later concatenations hold the earlier ones;
        else those that are not at home are copied there.
        """
        home = self.homes.pop(name, None) or Home(name, 0)
        buffers = {part.planes[0] for part in parts}
        lanes = np.concatenate([part.places[:, 1] for part in parts])
        if len(buffers) == 1 and len(np.unique(lanes)) == len(lanes):
            return replace(parts[0], name=name, places=np.stack([np.zeros(len(lanes), np.int64), lanes], axis=1))
        self._widths.setdefault(home.root, lanes_of(self.graph, name, self.vector))
        room, start = self._room(home.root), home.start
        places = []
        for part in parts:
            size = lanes_of(self.graph, part.name, self.vector)
            lanes = part.places[:, 1]
            if part.planes[0][0] != room or lanes[0] != start or lanes.max() >= start + size:
                lanes = start + np.arange(part.channels)
                wanted = np.stack([np.zeros(part.channels, np.int64), lanes], axis=1)
                target = replace(part, planes=((room, 0),), places=wanted, lanes=self.buffers[room].lanes)
                self._conversions.relayout(self, part.name, part, target)
                self._written.setdefault(room, set()).update(range(start, start + self.padded(part.channels)))
            places.append(lanes)
            start += size
        joined = np.concatenate(places)
        first = parts[0]
        found = np.stack([np.zeros(len(joined), np.int64), joined], axis=1)
        return Planes(name, self.buffers[room].lanes, first.batch, first.height, first.width, ((room, 0),), found)


def lanes_of(graph: Graph, name: str, vector: int) -> int:
    """Lanes that a value takes as part of a concatenation: parts of parts begin at multiples of 16 bytes, too."""
    node = graph[name]
    if _joins_channels(node):
        return sum(lanes_of(graph, operand, vector) for operand in node.operands)
    return -(-concrete(node.type.shape[1], {}) // vector) * vector


def find_homes(graph: Graph, vector: int) -> tuple[dict[str, Home], dict[str, int]]:
    """Homes of concatenations along channels and of their operands, and the lanes of each buffer, by its root.

    The last concatenation that an operand is part of decides: those before it, as in DenseNet, are its first lanes.
    Where several operands are picked from other values, as in ShuffleNetV2, these share a buffer: what is picked from
    one buffer is one value, whose lanes a dense convolution can read, or one copy puts in order.
    """
    homes: dict[str, Home] = {}
    widths: dict[str, int] = {}
    for node in reversed(graph.operators):
        if not _joins_channels(node):
            continue
        bases = [_base(graph, name) for name in node.operands]
        if sum(base != name for base, name in zip(bases, node.operands, strict=True)) >= SEVERAL:
            _share(graph, vector, bases, homes, widths)
            continue
        if node.name not in homes:
            homes[node.name] = Home(node.name, 0)
            widths[node.name] = lanes_of(graph, node.name, vector)
        start = homes[node.name].start
        for name in node.operands:
            if name not in homes and graph[name].op != "constant":
                homes[name] = Home(homes[node.name].root, start)
            start += lanes_of(graph, name, vector)
    return homes, widths


def _share(graph: Graph, vector: int, names: list[str], homes: dict[str, Home], widths: dict[str, int]) -> None:
    """Give values one buffer, each its own lanes; buffers that some of them have already become one."""
    wanted = [name for name in dict.fromkeys(names) if graph[name].op != "constant"]
    roots = list(dict.fromkeys(homes[name].root for name in wanted if name in homes))
    root = roots[0] if roots else wanted[0]
    for other in roots[1:]:
        for name, home in homes.items():
            if home.root == other:
                homes[name] = Home(root, home.start + widths[root])
        widths[root] += widths.pop(other)
    for name in wanted:
        if name not in homes:
            homes[name] = Home(root, widths.get(root, 0))
            widths[root] = widths.get(root, 0) + lanes_of(graph, name, vector)


def _base(graph: Graph, name: str) -> str:
    """The value that a value's channels are picked from; itself where it is no pick."""
    node = graph[name]
    picks = node.op in {"slice", "gather"} and node.attrs["axis"] % max(node.type.rank, 1) == 1
    if node.op == "channel_shuffle" or (picks and graph[node.operands[0]].type.rank == node.type.rank):
        source = graph[node.operands[0]]
        return _base(graph, source.name) if source.op not in {"input", "constant"} else name
    return name


def _joins_channels(node: Node) -> bool:
    if node.op != "concat" or node.type.rank not in {2, 4} or node.attrs["axis"] % node.type.rank != 1:
        return False
    return node.type.dtype is DType.F32 and isinstance(node.type.shape[1], int)
