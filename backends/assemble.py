"""Assembling a Program: buffers, layouts of values, conversions between layouts on demand, halos, results in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from convc.backends.aligned import aligned
from convc.backends.halo import Halo
from convc.backends.program import (
    Buffer,
    Flattened,
    Ints,
    Layout,
    Plain,
    Planes,
    Program,
    Step,
    Turned,
    buffers_of,
    dense_places,
)  # fmt: skip
from convc.dims import Size, concrete
from convc.errors import TargetError
from convc.ir.graph import Graph, Node
from convc.parallel import each
from convc.types import Array, DType, TensorType

if TYPE_CHECKING:
    from convc.backends.binding import Binding

Tables = Callable[["Binding"], Sequence[Ints]]
"""Byte offsets by output axis, once sizes are known."""


@dataclass(frozen=True)
class Conversions:
    """The steps that a target uses to move a value between layouts and to clear halos. Only a target that defines
    Turned layouts is asked to unpack one.
    """

    pack: Callable[[Assembler, str, Plain, Planes], None]
    unpack: Callable[[Assembler, str, Planes | Turned, Plain], None]
    relayout: Callable[[Assembler, str, Planes, Planes], None]
    index_copy: Callable[
        [Assembler, str, Plain, Plain, Tables | None, Array | None, tuple[Size, Size, Size] | None, bool], None
    ]
    """From the second argument on as `Assembler.index_copy` has them."""
    gather: Callable[[Assembler, str, Plain, Plain, Plain, tuple[Size, ...]], None]
    """y[o, j] = x[o, index[j]], with sizes (outer, axis, inner, count of indices)."""
    clear_halo: Callable[[Assembler, Buffer], Step]


_UNMADE: Array = np.empty(0)
"""In the place of a packed constant, until `finish`."""
LARGE = 1 << 22
"""Elements of a constant that threads share in packing."""


class Assembler:
    """Collects the steps of one Program. A value may have several layouts; each is made once, when first asked for."""

    def __init__(
        self, graph: Graph, target: str, lanes: int, conversions: Conversions, given: Mapping[str, Array] | None = None
    ) -> None:
        self.graph = graph
        self.target = target
        self.lanes = lanes
        self.steps: list[Step] = []
        self.buffers: list[Buffer] = []
        self.kernels: dict[str, str] = {}
        self.packed: dict[str, Array] = {}
        self._makers: dict[str, tuple[int, Callable[[], Array]]] = {}
        self.wanted: dict[str, Ints] = {}
        """Places that a consumer would like a value's channels to have, by node."""
        self._conversions = conversions
        self._given = given or {}
        self._layouts: dict[str, list[Layout | Turned]] = {}
        self._parent: list[int] = []
        self._halos: dict[int, Halo] = {}
        self.choices: Mapping[str, Any] = {}
        """What was chosen for nodes by name, where the target leaves a choice; otherwise it predicts."""
        self.processor = ""
        """For which processor it predicts, where that matters."""
        self.candidates: dict[str, Sequence[Any]] = {}
        """What could have been chosen, the likely best first."""
        self.used: set[Any] = set()
        """What tells the kernels that were chosen so far."""
        self.gaps: Mapping[str, bool] = {}
        """Whether the rows of what a node reads have gaps between them, where a lowering before this one found it."""
        self._expected: dict[str, tuple[Planes, bool]] = {}

    def is_given(self, name: str) -> bool:
        """Whether a packed constant comes from an artifact, so that its source need not be read."""
        return name in self._given

    # ---- values ------------------------------------------------------------------------------------------------

    def define(self, layout: Layout | Turned) -> None:
        """Register a layout under its value's name."""
        self._layouts.setdefault(layout.name, []).append(layout)

    def layouts(self, name: str) -> Sequence[Layout | Turned]:
        """Layouts in which a value is there already."""
        return self._layouts.get(name, ())

    def has_planes(self, name: str) -> bool:
        """Whether the value is there as planes of full width."""
        return any(isinstance(layout, Planes) and layout.lanes == self.lanes for layout in self.layouts(name))

    def planes(self, name: str, lanes: int | None = None) -> Planes:
        """The value as planes, packed from its plain form where need be. Rank 2 is [N, C, 1, 1]."""
        width = lanes or self.lanes
        for layout in self.layouts(name):
            if isinstance(layout, Planes) and layout.lanes == width:
                return layout
        type = self.graph[name].type
        plain = self.plain(name)
        made = self.new_planes(name, type, lanes=width)
        self._conversions.pack(self, name, plain, made)
        self.define(made)
        return made

    def plain(self, name: str) -> Plain:
        """The value as a contiguous tensor, unpacked from its planes where need be."""
        for layout in self.layouts(name):
            if isinstance(layout, Plain):
                return layout
        node = self.graph[name]
        if node.op == "constant":
            packed = self.pack(name, np.ascontiguousarray(node.array))
            constant = Plain(name, len(self.buffers), node.type)
            self.buffers.append(Buffer(constant.buffer, name, node.type, place="constant", packed=packed))
            self.define(constant)
            return constant
        made = self.new_plain(name, node.type)
        for layout in self.layouts(name):
            source, target = layout.planes if isinstance(layout, Flattened) else layout, made
            if isinstance(source, Planes):
                shape = (source.batch, source.channels, source.height, source.width)
                target = replace(made, type=TensorType(node.type.dtype, shape))
            if not isinstance(source, Plain):
                self._conversions.unpack(self, name, source, target)
                self.define(made)
                return made
        raise TargetError(f"{node} has no value when it is read", hint="report this: selection skipped a node")

    def relayout(self, name: str, source: Planes, places: Ints) -> Planes:
        """A copy of planes with the channels at other places."""
        type = TensorType(DType.F32, (source.batch, source.channels, source.height, source.width))
        made = self.new_planes(name, type, places=places)
        self._conversions.relayout(self, name, source, made)
        return made

    def new_plain(self, name: str, type: TensorType) -> Plain:
        """A new plain buffer; that of an output, where `name` is one and has none yet."""
        index = len(self.buffers)
        for slot, output in enumerate(self.graph.outputs):
            taken = any(b.place == "output" and b.slot == slot for b in self.buffers)
            if output.node == name and not taken:
                self.buffers.append(Buffer(index, name, type, place="output", slot=slot))
                return Plain(name, index, type)
        self.buffers.append(Buffer(index, name, type))
        return Plain(name, index, type)

    def new_planes(
        self, name: str, type: TensorType, *, lanes: int | None = None, places: Ints | None = None
    ) -> Planes:
        """New planes for a value of rank 4, or of rank 2 as [N, C, 1, 1]."""
        if type.rank not in {2, 4} or type.dtype is not DType.F32 or not isinstance(type.shape[1], int):
            raise TargetError(f"%{name}: {type} cannot be laid out in planes", hint="use float32 of rank 2 or 4")
        width = lanes or self.lanes
        batch, channels = type.shape[:2]
        height, breadth = type.shape[2:] if type.rank == 4 else (1, 1)
        if places is None:
            places = dense_places(concrete(channels, {}), width)
        count = int(places[:, 0].max()) + 1 if len(places) else 1
        index, group = len(self.buffers), len(self._parent)
        self._parent.append(group)
        kind = TensorType(DType.F32, (batch, channels, height, breadth))
        self.buffers.append(Buffer(index, name, kind, count, width, group))
        return Planes(name, width, batch, height, breadth, tuple((index, i) for i in range(count)), places)

    # ---- halos -------------------------------------------------------------------------------------------------

    def _root(self, group: int) -> int:
        while self._parent[group] != group:
            self._parent[group] = self._parent[self._parent[group]]
            group = self._parent[group]
        return group

    def unite(self, *buffers: int) -> None:
        """Make buffers share one halo, so that their planes can be part of one value."""
        first = self._root(self.buffers[buffers[0]].group)
        for buffer in buffers[1:]:
            other = self._root(self.buffers[buffer].group)
            if other != first:
                self._parent[other] = first
                if other in self._halos:
                    self._grow(first, self._halos.pop(other))

    def _grow(self, root: int, halo: Halo) -> None:
        self._halos[root] = self._halos.get(root, Halo()) | halo

    def need_halo(self, planes: Planes, halo: Halo) -> None:
        """Ask for at least this many zero rows and columns around a value."""
        self._grow(self._root(self.buffers[planes.planes[0][0]].group), halo)

    def has_gaps(self, node: str, x: Planes, expected: bool) -> bool:
        """Whether there will be a halo beside the rows that a node reads: found before, else as expected."""
        gaps = self.gaps.get(node, expected)
        self._expected[node] = x, gaps
        return gaps

    def surprises(self) -> dict[str, bool]:
        """Whether rows have gaps, for all nodes that asked, where one was told otherwise: a halo is known last."""
        found = {node: self._gap(x) for node, (x, _) in self._expected.items()}
        return found if any(gap != found[node] for node, (_, gap) in self._expected.items()) else {}

    def _gap(self, x: Planes) -> bool:
        return self._halos.get(self._root(self.buffers[x.planes[0][0]].group), Halo()).beside

    def join(self, name: str, parts: Sequence[Planes]) -> Planes:
        """The concatenation of values along their channels: a list of their planes.

        A plane is listed once, unless two channels would then be one: what a consumer writes has a place for each.
        """
        planes = [plane for part in parts for plane in part.planes]
        starts = np.cumsum([0, *(len(part.planes) for part in parts[:-1])])
        places = np.concatenate([p.places + np.array([at, 0]) for p, at in zip(parts, starts, strict=True)])
        distinct = list(dict.fromkeys(planes))
        index = {plane: i for i, plane in enumerate(distinct)}
        once = np.stack([np.array([index[plane] for plane in planes])[places[:, 0]], places[:, 1]], axis=1)
        if len(np.unique(once, axis=0)) == len(once):
            planes, places = distinct, once
        self.unite(*dict.fromkeys(buffer for buffer, _ in planes))
        first = parts[0]
        return Planes(name, first.lanes, first.batch, first.height, first.width, tuple(planes), places)

    # ---- steps and constants -----------------------------------------------------------------------------------

    def step(
        self,
        kernel: tuple[str, str],
        family: str,
        node: str,
        reads: Sequence[Layout],
        writes: Sequence[Layout],
        params: Mapping[str, Any] | None = None,
        *,
        joins: bool = False,
    ) -> None:
        """Append a call of `kernel` (name, source)."""
        self.kernels[kernel[0]] = kernel[1]
        self.steps.append(Step(kernel[0], family, node, tuple(reads), tuple(writes), params or {}, joins))

    def index_copy(
        self,
        node: str,
        x: Plain,
        y: Plain,
        tables: Tables | None = None,
        *,
        fill: Array | None = None,
        part: tuple[Size, Size, Size] | None = None,
        joins: bool = False,
    ) -> None:
        """Append a copy by index. `tables` gives byte offsets by output axis once sizes are known; None copies all.

        Where a table is negative, the element is `fill`. `part` = (outer, start, step) copies x as `outer` runs, to
        `start` elements in y and every `step` elements.
        """
        self._conversions.index_copy(self, node, x, y, tables, fill, part, joins)

    def gather(self, node: str, x: Plain, index: Plain, y: Plain, sizes: tuple[Size, ...]) -> None:
        """Append a look-up by computed indices; `sizes` are (outer, axis, inner, count of indices)."""
        self._conversions.gather(self, node, x, index, y, sizes)

    def pack(self, name: str, array: Array) -> str:
        """Keep a constant under a fresh name and return it."""
        return self.pack_later(name, array.size, lambda: array, array.dtype)

    def pack_later(self, name: str, count: int, make: Callable[[], Array], dtype: Any = np.float32) -> str:
        """Keep `count` elements that `make` computes, unless they were packed before and given."""
        fresh, number = name, 0
        while fresh in self.packed:
            number += 1
            fresh = f"{name}.{number}"
        found = self._given.get(fresh)
        if found is None or found.size != count or found.dtype != np.dtype(dtype):
            self.packed[fresh] = _UNMADE
            self._makers[fresh] = count, make
        else:
            self.packed[fresh] = aligned(found)
        return fresh

    def _make_packed(self) -> None:
        """Constants, side by side; large ones one by one, for the threads share the work of each."""
        large, small = ([n for n, (c, _) in self._makers.items() if (c >= LARGE) == big] for big in (True, False))

        def make(name: str) -> Array:
            return aligned(self._makers[name][1]())

        self.packed.update(zip(large, map(make, large), strict=True))
        self.packed.update(zip(small, each(make, small), strict=True))

    # ---- the end -----------------------------------------------------------------------------------------------

    def finish(self) -> Program:
        """The Program: outputs delivered, results in place, halos cleared before their buffers are written."""
        self._deliver()
        self._write_in_place()
        self._make_packed()
        halos = {b.group: self._halos.get(self._root(b.group), Halo()) for b in self.buffers if b.is_planes}
        steps: list[Step] = []
        cleared: set[int] = set()
        for step in self.steps:
            for index in (i for layout in step.writes for i in buffers_of(layout)):
                buffer = self.buffers[index]
                if buffer.is_planes and halos[buffer.group] and index not in cleared:
                    cleared.add(index)
                    steps.append(self._conversions.clear_halo(self, buffer))
            steps.append(step)
        graph = self.graph
        return Program(
            graph.name, self.target, tuple(steps), tuple(self.buffers), halos, self.kernels, self.packed,
            tuple((n.name, n.type) for n in graph.inputs), tuple((o.name, graph[o.node].type) for o in graph.outputs),
            graph.nominal,
        )  # fmt: skip

    def _deliver(self) -> None:
        for slot, output in enumerate(self.graph.outputs):
            if any(b.place == "output" and b.slot == slot for b in self.buffers):
                continue
            source = self.plain(output.node)
            if self.buffers[source.buffer].place == "output" and self.buffers[source.buffer].slot == slot:
                continue
            index = len(self.buffers)
            self.buffers.append(Buffer(index, output.node, source.type, place="output", slot=slot))
            self.index_copy(output.node, source, Plain(output.node, index, source.type))

    def _write_in_place(self) -> None:
        """Let a step write over the residual that it reads, where nothing reads that again."""
        last_read: dict[int, int] = {}
        writers: dict[int, list[int]] = {}
        for index, step in enumerate(self.steps):
            for layout in step.reads:
                last_read.update(dict.fromkeys(buffers_of(layout), index))
            for layout in step.writes:
                for buffer in buffers_of(layout):
                    writers.setdefault(buffer, []).append(index)
        same: dict[int, int] = {}
        for index, step in enumerate(self.steps):
            position = step.params.get("in_place")
            if position is None:
                continue
            old, new = step.reads[position], step.writes[0]
            if not (isinstance(old, Planes) and isinstance(new, Planes)) or len(new.buffers) != 1:
                continue
            target, source = new.buffers[0], same.get(old.buffers[0], old.buffers[0])
            whole = len(old.buffers) == 1 and old.planes == tuple((old.buffers[0], i) for i in range(len(old.planes)))
            shape = (self.buffers[target].count, self.buffers[target].type, self.buffers[target].lanes)
            if (
                whole
                and shape == (self.buffers[source].count, self.buffers[source].type, self.buffers[source].lanes)
                and np.array_equal(old.places, new.places)
                and all(
                    last_read[b] <= index
                    for b in [source, *(k for k, v in same.items() if v == source)]
                    if b in last_read
                )
                and writers[target] == [index]
                and not any(old.buffers[0] in buffers_of(r) for i, r in enumerate(step.reads) if i != position)
            ):
                self.unite(source, target)
                same[target] = source
        if same:
            self.steps = [_renamed(step, same) for step in self.steps]


def _renamed(step: Step, same: Mapping[int, int]) -> Step:
    def rename(layout: Layout) -> Layout:
        if isinstance(layout, Plain):
            return layout
        if isinstance(layout, Flattened):
            inner = rename(layout.planes)
            assert isinstance(inner, Planes)
            return replace(layout, planes=inner)
        return replace(layout, planes=tuple((same.get(b, b), i) for b, i in layout.planes))

    return replace(step, reads=tuple(map(rename, step.reads)), writes=tuple(map(rename, step.writes)))


def operand(graph: Graph, node: Node, slot: str) -> Node | None:
    """The node in a slot, None where it was left out."""
    name = node.input(slot)
    return graph[name] if name is not None else None
