"""Elementwise steps that follow each other become one: what lies between stays in registers.

x * s + t + x, a gate, an activation that an exporter wrote out: step by step each reads and writes whole maps, which
takes as long as memory does. Computed together they are the same operations in the same order, so the same bits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from convc.backends.assemble import Assembler
from convc.backends.cpu.flows import delivered, touching
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.maps import Operand, emit_plain, emit_planes
from convc.backends.program import Layout, Plain, Planes, Step, buffers_of

EMIT = {"map_planes": emit_planes, "map_plain": emit_plain}
MOST_OPERANDS = 8
MOST_CALLS = 8
"""Of one kernel: names and compile times grow with them."""


def fuse_maps(asm: Assembler, isa: Isa) -> None:
    """Let elementwise steps compute what they alone read, where another elementwise step computes it."""
    writers, readers = touching(asm.steps)
    kept = delivered(asm)
    gone: set[int] = set()
    for index in range(len(asm.steps)):
        while (before := _ahead(asm.steps, index, writers, readers, kept)) is not None:
            asm.steps[index] = _fused(asm.steps[before], asm.steps[index])
            gone.add(before)
            for layout in asm.steps[before].reads:
                for buffer in buffers_of(layout):
                    readers[buffer] = sorted({*readers[buffer], index} - {before})
    for index, step in enumerate(asm.steps):
        if "calls" in step.params and len(step.params["calls"]) > 1:
            name, source = EMIT[step.family](isa, step.params["calls"], step.params["splats"])
            asm.kernels[name] = source
            asm.steps[index] = replace(step, kernel=name)
    asm.steps = [step for index, step in enumerate(asm.steps) if index not in gone]


def _ahead(
    steps: list[Step], index: int, writers: dict[int, list[int]], readers: dict[int, list[int]], kept: set[int]
) -> int | None:
    """An elementwise step whose result the one at `index` alone reads, whole, element by element; None for none."""
    step = steps[index]
    if "calls" not in step.params:
        return None
    for operand, is_splat in zip(step.params["operands"], step.params["splats"], strict=True):
        if isinstance(operand, Operand) or is_splat:
            continue
        source = step.reads[operand]
        touched = buffers_of(source)
        made = {one for buffer in touched for one in writers.get(buffer, ())}
        if len(made) != 1 or any(readers[buffer] != [index] or buffer in kept for buffer in touched):
            continue
        (before,) = made
        other = steps[before]
        if (
            other.family == step.family
            and "calls" in other.params
            and _reads_whole(step, other.writes[0])
            and len(other.params["calls"]) + len(step.params["calls"]) <= MOST_CALLS
            and len(other.params["operands"]) + len(step.params["operands"]) - 1 <= MOST_OPERANDS
        ):
            return before
    return None


def _reads_whole(step: Step, written: Layout) -> bool:
    """Whether the step reads the value as it was written wherever it reads it: no part of it, in no other order."""
    touched = set(buffers_of(written))
    return all(
        not is_splat and _is_whole(written, step.reads[operand], step.writes[0])
        for operand, is_splat in zip(step.params["operands"], step.params["splats"], strict=True)
        if not isinstance(operand, Operand) and touched.intersection(buffers_of(step.reads[operand]))
    )


def _is_whole(written: Layout, read: Layout, result: Layout) -> bool:
    """Whether a value is read as it was written, one element for each of the result."""
    if isinstance(written, Planes) and isinstance(read, Planes) and isinstance(result, Planes):
        size = (written.batch, written.height, written.width) == (result.batch, result.height, result.width)
        return size and written.planes == read.planes and len(read.planes) == len(result.planes)
    if isinstance(written, Plain) and isinstance(read, Plain) and isinstance(result, Plain):
        return written.buffer == read.buffer and written.type == read.type == result.type
    return False


def _fused(first: Step, second: Step) -> Step:
    """Both as one step, whose kernel is still to be emitted."""
    reads: list[Layout] = []
    operands: list[Any] = []
    splats: list[bool] = []

    def place(step: Step, at: int) -> int:
        """The operand's index among all, each listed once."""
        operand, is_splat = step.params["operands"][at], step.params["splats"][at]
        layout = None if isinstance(operand, Operand) else step.reads[operand]
        for index, known in enumerate(operands):
            same = known is operand if layout is None else not isinstance(known, Operand) and reads[known] is layout
            if same:
                return index
        if layout is not None:
            reads.append(layout)
        operands.append(operand if layout is None else len(reads) - 1)
        splats.append(is_splat)
        return len(operands) - 1

    whole = buffers_of(first.writes[0])
    inner = [place(first, at) for at in range(len(first.params["operands"]))]
    calls = [
        replace(call, args=tuple(inner[arg] if arg >= 0 else arg for arg in call.args))
        for call in first.params["calls"]
    ]
    result = -len(calls)
    outer = [
        result
        if not isinstance(operand, Operand) and not is_splat and buffers_of(second.reads[operand]) == whole
        else place(second, at)
        for at, (operand, is_splat) in enumerate(zip(second.params["operands"], second.params["splats"], strict=True))
    ]
    for call in second.params["calls"]:
        calls.append(replace(call, args=tuple(outer[arg] if arg >= 0 else arg + result for arg in call.args)))
    params = {
        "operands": operands, "splats": tuple(splats), "calls": tuple(calls),
        "floats": (*first.params["floats"], *second.params["floats"]),
    }  # fmt: skip
    return replace(second, reads=tuple(reads), params=params)
