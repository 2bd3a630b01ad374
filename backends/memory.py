"""Offsets of buffers in the arena: buffers whose lives overlap never overlap in memory, others may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convc.backends.halo import Sides
from convc.backends.program import Buffer, Program, buffers_of
from convc.dims import concrete

ALIGNMENT = 64
PAGE = 4096
OWN_BYTES = 64 << 10
"""What is written first and takes no more shares its place with nothing. In the last steps' memory it would be written
over what another core holds: 80 us of a network that starts from 100 numbers.
"""


@dataclass(frozen=True, slots=True)
class Strides:
    """Bytes from one row, image and plane of a buffer to the next, and what lies ahead of its first pixel.

    What is to the right of a row is to the left of the next, and what is below an image is above the next: zeros that
    are shared are cleared once, and take less of the caches.
    """

    row: int
    image: int
    plane: int
    ahead: int


def strides_of(buffer: Buffer, sides: Sides, sizes: Mapping[str, int]) -> Strides:
    """Of planes with so many rows and columns of zeros around them.

    Planes start a multiple of 64 bytes apart that is no multiple of 4096, which would make them fall into the same sets
    of the first-level cache.
    """
    images, _, height, width = buffer.type.concrete(sizes)
    top, left, bottom, right = sides
    pixel = buffer.lanes * buffer.element
    row = (width + max(left, right)) * pixel
    image = (height + max(top, bottom)) * row
    plane = -(-images * image // ALIGNMENT) * ALIGNMENT
    plane += ALIGNMENT if plane % PAGE == 0 and plane else 0
    return Strides(row, image, plane, -(-(top * row + left * pixel) // ALIGNMENT) * ALIGNMENT)


def buffer_bytes(buffer: Buffer, sides: Sides, sizes: Mapping[str, int]) -> int:
    """Bytes of a buffer, halo included."""
    if buffer.is_planes:
        strides = strides_of(buffer, sides, sizes)
        return strides.ahead + buffer.count * strides.plane
    total = buffer.type.dtype.bytes
    for size in buffer.type.shape:
        total *= concrete(size, sizes)
    return -(-total // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Byte offset of every arena buffer, the arena's size, and each buffer's first and last step."""

    offsets: Mapping[int, int]
    total: int
    lives: Mapping[int, tuple[int, int]]


def lifetimes(program: Program) -> dict[int, tuple[int, int]]:
    """First and last step that touch each arena buffer. Steps that run together with the next count as one moment."""
    lives: dict[int, tuple[int, int]] = {}
    moment = 0
    for step in program.steps:
        for layout in (*step.reads, *step.writes):
            for index in buffers_of(layout):
                if program.buffers[index].place == "arena":
                    first, _ = lives.get(index, (moment, moment))
                    lives[index] = (first, moment)
        moment += not step.joins
    return lives


def plan_memory(program: Program, sizes: Mapping[str, int], alignment: int = ALIGNMENT) -> MemoryPlan:
    """Place the largest buffers first, each at the lowest free offset among those that live at the same time.

    Offsets are multiples of `alignment`.
    """
    lives = lifetimes(program)
    need = {
        index: -(-buffer_bytes(b, program.sides(index, sizes), sizes) // alignment) * alignment
        for index, b in enumerate(program.buffers)
        if index in lives
    }
    end = max((last for _, last in lives.values()), default=0)
    lives = {i: (first, end if not first and need[i] <= OWN_BYTES else last) for i, (first, last) in lives.items()}
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    offsets: dict[int, int] = {}
    total = 0
    for index in sorted(need, key=lambda i: (-need[i], i)):
        first, last = lives[index]
        at = 0
        for start, end, begins, ends in placed:  # sorted by offset
            if begins <= last and first <= ends:
                if at + need[index] <= start:
                    break
                at = max(at, end)
        offsets[index] = at
        placed.append((at, at + need[index], first, last))
        placed.sort()
        total = max(total, at + need[index])
    return MemoryPlan(offsets, total, lives)


def clean_halos(program: Program, sizes: Mapping[str, int], plan: MemoryPlan) -> frozenset[int]:
    """Steps that clear a halo which is zero already, by index, if the arena starts as zero and inferences follow each
    other: nothing was there since but buffers of the same place and shape, which leave their halo alone.
    """
    spans: dict[int, tuple[int, int]] = {}
    shapes: dict[int, tuple[object, ...]] = {}
    for index, offset in plan.offsets.items():
        buffer = program.buffers[index]
        halo = program.sides(index, sizes)
        spans[index] = offset, offset + buffer_bytes(buffer, halo, sizes)
        shapes[index] = offset, halo, buffer.count, buffer.lanes, buffer.element, *buffer.type.concrete(sizes)
    clears: dict[tuple[object, ...], list[int]] = {}
    writers: dict[int, list[int]] = {}
    for at, step in enumerate(program.steps):
        written = {index for layout in step.writes for index in buffers_of(layout) if index in spans}
        for index in written:
            writers.setdefault(index, []).append(at)
        if step.family == "clear_halo":
            (index,) = written
            clears.setdefault(shapes[index], []).append(at)
    clean: set[int] = set()
    for shape, steps in clears.items():
        begin, end = next(spans[index] for index in spans if shapes[index] == shape)
        others = [
            at
            for index, (start, stop) in spans.items()
            if shapes[index] != shape and start < end and begin < stop
            for at in writers.get(index, ())
        ]
        for at, before in zip(steps, (steps[-1], *steps[:-1]), strict=True):
            since = [one for one in others if (before < one < at if before < at else one > before or one < at)]
            if not since:
                clean.add(at)
    return frozenset(clean)
