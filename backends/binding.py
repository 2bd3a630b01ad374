"""A Program at given sizes: where everything lies, and the argument block of every step.

Argument blocks hold int64 words. A word is a number or an address; addresses are kept as (segment, offset) until a run
supplies the segments' base addresses: the arena, tables of offsets, packed constants, inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convc.backends.memory import ALIGNMENT, MemoryPlan, clean_halos, plan_memory, strides_of
from convc.backends.program import Flattened, Ints, Plain, Planes, Program, Step
from convc.dims import Size, concrete
from convc.errors import LimitError
from convc.limits import Limits
from convc.types import Array

NUMBER, ARENA, TABLES, SCRATCH, FIRST_PACKED = 0, 1, 2, 3, 4
SLACK = 1 << 16
"""Bytes around the arena that a register tile at a row's end may read, and ignores."""


@dataclass(frozen=True, slots=True)
class Address:
    """A byte offset in a segment."""

    segment: int
    offset: int

    def __add__(self, more: int) -> Address:
        return Address(self.segment, self.offset + more)


Word = int | Address


@dataclass(frozen=True, slots=True)
class Geometry:
    """Byte strides of a pixel, a row and an image, and byte offsets of the planes' first interior pixels."""

    images: int
    height: int
    width: int
    pixel: int
    row: int
    image: int
    planes: Ints

    @property
    def flat_rows(self) -> bool:
        """Whether the rows of an image follow each other without a gap."""
        return self.row == self.width * self.pixel

    @property
    def flat_images(self) -> bool:
        """Whether the images of a plane follow each other without a gap."""
        return self.image == self.height * self.row

    @property
    def bytes(self) -> int:
        """Bytes of all pixels of all planes."""
        return len(self.planes) * self.images * self.height * self.width * self.pixel


class Binding:
    """Sizes, memory plan, tables and argument words of one Program at one set of sizes."""

    def __init__(
        self,
        program: Program,
        sizes: Mapping[str, int],
        arguments: Mapping[str, Callable[[Step, Binding], Sequence[Word]]],
        limits: Limits,
        threads: int = 1,
        alignment: int = ALIGNMENT,
    ) -> None:
        self.program = program
        self.threads = threads
        self.scratch_bytes = 0
        self._scratch_start = self._scratch_end = 0
        self.sizes = dict(sizes)
        self.memory: MemoryPlan = plan_memory(program, sizes, alignment)
        if self.memory.total > limits.arena_bytes:
            raise LimitError(
                f"{program.name} needs {self.memory.total} bytes for activations at {dict(sizes)}, "
                f"more than limits.arena_bytes={limits.arena_bytes}",
                hint="use a smaller batch or image, or raise the limit",
            )
        self._packed = {name: FIRST_PACKED + i for i, name in enumerate(program.packed)}
        self._first_input = FIRST_PACKED + len(self._packed)
        self._first_output = self._first_input + len(program.inputs)
        self.segments = self._first_output + len(program.outputs)
        self._tables: list[Array] = []
        self._table_index: dict[tuple[str, bytes], int] = {}
        self._table_bytes = 0
        self._geometries: dict[int, Geometry] = {}
        self.clean = clean_halos(program, self.sizes, self.memory)
        """Indices of steps that clear what is zero already, in an arena that starts as zero."""
        self._clean_steps = {id(program.steps[index]) for index in self.clean}
        self._bind(arguments)
        self.tables = self._collect_tables()

    def _bind(self, arguments: Mapping[str, Callable[[Step, Binding], Sequence[Word]]]) -> None:
        """Argument words of every step, one block after the other."""
        words: list[int] = []
        kinds: list[int] = []
        starts: list[int] = []
        joined = False
        for step in self.program.steps:
            # threads may be in different steps of those that run together: each has scratch memory of its own
            self._scratch_start = self._scratch_end if joined else 0
            self._scratch_end, joined = self._scratch_start, step.joins
            starts.append(len(words))
            for word in arguments[step.family](step, self):
                if isinstance(word, Address):
                    words.append(word.offset)
                    kinds.append(word.segment)
                else:
                    words.append(int(word))
                    kinds.append(NUMBER)
        self.words = np.array(words, np.int64)
        self.kinds = np.array(kinds, np.int64)
        self.starts = np.array(starts, np.int64)

    # ---- what families ask -------------------------------------------------------------------------------------

    def size(self, size: Size) -> int:
        """A size as an int."""
        return concrete(size, self.sizes)

    def shape(self, plain: Plain) -> tuple[int, ...]:
        """The shape of a plain value."""
        return plain.type.concrete(self.sizes)

    @property
    def arena(self) -> Address:
        """The start of the arena: what plane offsets count from."""
        return Address(ARENA, SLACK)

    def address(self, plain: Plain) -> Address:
        """Where a plain value starts."""
        buffer = self.program.buffers[plain.buffer]
        if buffer.place == "input":
            return Address(self._first_input + buffer.slot, 0)
        if buffer.place == "output":
            return Address(self._first_output + buffer.slot, 0)
        if buffer.place == "constant":
            return self.constant(buffer.packed)
        return Address(ARENA, SLACK + self.memory.offsets[plain.buffer])

    def is_clean(self, step: Step) -> bool:
        """Whether a step clears what is zero already."""
        return id(step) in self._clean_steps

    def scratch(self, count: int) -> tuple[Address, int]:
        """Memory of `count` bytes for each thread during one step, and the bytes from a thread's to the next one's."""
        every = -(-count // ALIGNMENT) * ALIGNMENT
        self._scratch_end = self._scratch_start + every * self.threads
        self.scratch_bytes = max(self.scratch_bytes, self._scratch_end)
        return Address(SCRATCH, self._scratch_start), every

    def constant(self, name: str) -> Address:
        """Where a packed constant starts."""
        return Address(self._packed[name], 0)

    def table(self, numbers: Array) -> Address:
        """Where a table of numbers lies for this binding; equal tables are kept once."""
        data = np.ascontiguousarray(numbers)
        key = (data.dtype.str, data.tobytes())
        if key not in self._table_index:
            self._table_index[key] = self._table_bytes
            self._tables.append(data)
            self._table_bytes += -(-data.nbytes // ALIGNMENT) * ALIGNMENT
        return Address(TABLES, self._table_index[key])

    def geometry(self, layout: Planes | Flattened) -> Geometry:
        """Strides and plane offsets (from `arena`) of a value in planes."""
        planes = layout.planes if isinstance(layout, Flattened) else layout
        key = id(planes)
        if key in self._geometries:
            return self._geometries[key]
        buffers = self.program.buffers
        first = planes.planes[0][0]
        sides = self.program.sides(first, self.sizes)
        images, height, width = self.size(planes.batch), self.size(planes.height), self.size(planes.width)
        strides = {b: strides_of(buffers[b], sides, self.sizes) for b in planes.buffers}
        offsets = [self.memory.offsets[b] + strides[b].ahead + i * strides[b].plane for b, i in planes.planes]
        pixel, row, image = planes.lanes * buffers[first].element, strides[first].row, strides[first].image
        found = Geometry(images, height, width, pixel, row, image, np.array(offsets, np.int64))
        self._geometries[key] = found
        return found

    def _collect_tables(self) -> Array:
        blob = np.zeros(self._table_bytes, np.uint8)
        for data, start in zip(self._tables, self._table_index.values(), strict=True):
            blob[start : start + data.nbytes] = data.reshape(-1).view(np.uint8)
        return blob

    # ---- what the runtime asks ---------------------------------------------------------------------------------

    @property
    def arena_bytes(self) -> int:
        """Size of the arena, slack included."""
        return self.memory.total + 2 * SLACK

    def packed_segments(self) -> list[tuple[int, str]]:
        """Segment and name of every packed constant."""
        return [(segment, name) for name, segment in self._packed.items()]

    def input_segment(self, slot: int) -> int:
        return self._first_input + slot

    def output_segment(self, slot: int) -> int:
        return self._first_output + slot


def offsets_table(bytes_: Ints, what: str) -> Any:
    """Byte offsets as int32 counts of floats. Raises LimitError where they do not fit."""
    counts = bytes_ // 4
    if counts.size and max(abs(int(counts.min())), int(counts.max())) >= 2**31:
        raise LimitError(f"{what}: activations take more than 8 GiB", hint="use a smaller batch or image")
    return counts.astype(np.int32)
