"""A Program at given sizes, for the GPU: the arena, and every launch with its grid and arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from convc.backends.binding import Address, Binding, Word
from convc.backends.cuda.writer import THREADS, items
from convc.backends.memory import buffer_bytes
from convc.backends.program import Flattened, Layout, Plain, Planes, Program, Step
from convc.errors import LimitError
from convc.limits import Limits
from convc.types import Array

ALIGNMENT = 256
MOST_ITEMS = 2**31 - 1
"""Indices are of 32 bits."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """A byte offset in a segment, and how many bytes the kernel may touch from there on."""

    segment: int
    offset: int
    bytes: int

    def moved(self, by: int) -> Pointer:
        """The pointer `by` bytes further on."""
        return Pointer(self.segment, self.offset + by, self.bytes - by)


Argument = Pointer | int | float


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a kernel: grid in blocks, threads of a block, bytes of dynamic shared memory, arguments."""

    kernel: str
    grid: tuple[int, int, int]
    arguments: tuple[Argument, ...]
    threads: int = THREADS
    shared: int = 0
    step: int = 0
    """Index of its step in the Program."""


@dataclass(frozen=True, slots=True)
class View:
    """A value in planes as a kernel sees it: where lane `first` of the first pixel lies, and sizes in elements."""

    pointer: Pointer
    pitch: int
    images: int
    height: int
    width: int
    channels: int

    @property
    def area(self) -> int:
        return self.height * self.width

    @property
    def pixels(self) -> int:
        return self.images * self.area


class LaunchPlan(Binding):
    """Sizes, memory and launches of one Program at one set of sizes."""

    def __init__(
        self,
        program: Program,
        sizes: Mapping[str, int],
        families: Mapping[str, Callable[[Step, LaunchPlan], Sequence[Launch]]],
        limits: Limits,
    ) -> None:
        self._families = families
        self.launches: list[Launch] = []
        super().__init__(program, sizes, {}, limits, alignment=ALIGNMENT)

    def _bind(self, arguments: Mapping[str, Callable[[Step, Binding], Sequence[Word]]]) -> None:
        for index, step in enumerate(self.program.steps):
            for one in self._families[step.family](step, self):
                if 0 in one.grid:
                    continue
                threads = one.grid[0] * one.grid[1] * one.grid[2] * one.threads
                if one.grid[0] * one.threads > MOST_ITEMS or max(one.grid[1:]) > 65535:
                    raise LimitError(
                        f"%{step.node} takes {threads} threads at {self.sizes}", hint="use a smaller batch or image"
                    )
                self.launches.append(Launch(one.kernel, one.grid, one.arguments, one.threads, one.shared, index))

    def items(self, step: Step, total: int, arguments: Sequence[Argument]) -> Sequence[Launch]:
        """One launch with an item a thread; none for no items."""
        if total == 0:
            return ()
        return (Launch(step.kernel, items(total), tuple(arguments)),)

    # ---- what families ask -------------------------------------------------------------------------------------

    def at(self, plain: Plain) -> Pointer:
        """Where a plain value lies."""
        where = self.address(plain)
        count = int(np.prod(self.shape(plain), dtype=np.int64))
        return Pointer(where.segment, where.offset, count * plain.type.dtype.bytes)

    def packed(self, name: str) -> Pointer:
        """Where a packed constant lies."""
        where = self.constant(name)
        return Pointer(where.segment, 0, self.program.packed[name].nbytes)

    def numbers(self, numbers: Array) -> Pointer:
        """Where a table lies."""
        data = np.ascontiguousarray(numbers)
        where = self.table(data)
        return Pointer(where.segment, where.offset, data.nbytes)

    def workspace(self, count: int) -> Pointer:
        """Memory of `count` bytes during one step."""
        where, _ = self.scratch(count)
        return Pointer(where.segment, where.offset, count)

    def lanes(self, numbers: Array) -> Pointer:
        """A table of int32."""
        return self.numbers(np.asarray(numbers).astype(np.int32))

    def view(self, layout: Layout, first: int | None = None) -> View:
        """A value in planes from lane `first` on, by default that of its first channel."""
        planes = layout.planes if isinstance(layout, Flattened) else layout
        assert isinstance(planes, Planes)
        index = planes.planes[0][0]
        buffer = self.program.buffers[index]
        g = self.geometry(planes)
        lane = int(planes.places[0, 1]) if first is None and len(planes.places) else first or 0
        start: Address = self.arena + int(g.planes[0])
        total = buffer_bytes(buffer, (0, 0, 0, 0), self.sizes)
        images, _, height, width = buffer.type.concrete(self.sizes)
        exact = images * height * width * buffer.lanes * buffer.element
        assert exact <= total
        pointer = Pointer(start.segment, start.offset, exact).moved(lane * buffer.element)
        if g.images * g.height * g.width * planes.lanes > MOST_ITEMS:
            raise LimitError(f"%{planes.name} has more than 2^31 elements", hint="use a smaller batch or image")
        return View(pointer, planes.lanes, g.images, g.height, g.width, planes.channels)


def elements(shape: Sequence[int]) -> int:
    """The number of elements of a concrete shape."""
    return int(np.prod(np.array(shape, np.int64), dtype=np.int64)) if len(shape) else 1


__all__ = ["Argument", "Launch", "LaunchPlan", "Pointer", "View", "elements"]
