"""Elementwise steps that follow each other become one: what lies between stays in registers.

x * s + t + x, a gate, an activation that an exporter wrote out: step by step each reads and writes whole maps, which
takes as long as memory does. Computed together they are the same operations in the same order, so the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.calls import Operand
from convc.backends.flows import delivered, touching
from convc.backends.program import Layout, Plain, Planes, Step, buffers_of

MOST_OPERANDS = 8
MOST_CALLS = 8
"""Of one kernel: names and compile times grow with them."""


def fuse_maps(asm: Assembler, emit: Callable[[Step], tuple[str, str]]) -> None:
    """Let elementwise steps compute what they alone read, where another elementwise step computes it.

    Elementwise steps have params `operands` (constants, or positions among what is read), `ways` (a letter each, v for
    one element an element of the result), `calls` and `floats`, the calls' parameters. `emit`: their kernel.
    """
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
    emitted = {step.kernel for step in asm.steps if "calls" in step.params}
    for index, step in enumerate(asm.steps):
        if index not in gone and len(step.params.get("calls", ())) > 1:
            name, source = emit(step)
            asm.kernels[name] = source
            asm.steps[index] = replace(step, kernel=name)
    asm.steps = [step for index, step in enumerate(asm.steps) if index not in gone]
    for name in emitted - {step.kernel for step in asm.steps}:
        del asm.kernels[name]


def _ahead(
    steps: list[Step], index: int, writers: dict[int, list[int]], readers: dict[int, list[int]], kept: set[int]
) -> int | None:
    """An elementwise step whose result the one at `index` alone reads, whole, element by element; None for none."""
    step = steps[index]
    if "calls" not in step.params:
        return None
    for operand, way in zip(step.params["operands"], step.params["ways"], strict=True):
        if isinstance(operand, Operand) or way != "v":
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
        way == "v" and _is_whole(written, step.reads[operand], step.writes[0])
        for operand, way in zip(step.params["operands"], step.params["ways"], strict=True)
        if not isinstance(operand, Operand) and touched.intersection(buffers_of(step.reads[operand]))
    )


def _is_whole(written: Layout, read: Layout, result: Layout) -> bool:
    """Whether a value is read as it was written, one element for each of the result."""
    if isinstance(written, Planes) and isinstance(read, Planes) and isinstance(result, Planes):
        size = (written.batch, written.height, written.width) == (result.batch, result.height, result.width)
        same = written.planes == read.planes and len(read.planes) == len(result.planes)
        return size and same and np.array_equal(written.places[: read.channels], read.places)
    if isinstance(written, Plain) and isinstance(read, Plain) and isinstance(result, Plain):
        return written.buffer == read.buffer and written.type == read.type == result.type
    return False


def _fused(first: Step, second: Step) -> Step:
    """Both as one step, whose kernel is still to be emitted."""
    reads: list[Layout] = []
    operands: list[Any] = []
    ways: list[str] = []

    def place(step: Step, at: int) -> int:
        """The operand's index among all, each listed once."""
        operand, way = step.params["operands"][at], step.params["ways"][at]
        layout = None if isinstance(operand, Operand) else step.reads[operand]
        for index, known in enumerate(operands):
            same = known is operand if layout is None else not isinstance(known, Operand) and reads[known] is layout
            if same:
                return index
        if layout is not None:
            reads.append(layout)
        operands.append(operand if layout is None else len(reads) - 1)
        ways.append(way)
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
        if not isinstance(operand, Operand) and way == "v" and buffers_of(second.reads[operand]) == whole
        else place(second, at)
        for at, (operand, way) in enumerate(zip(second.params["operands"], second.params["ways"], strict=True))
    ]
    for call in second.params["calls"]:
        calls.append(replace(call, args=tuple(outer[arg] if arg >= 0 else arg + result for arg in call.args)))
    params = {
        "operands": operands, "ways": "".join(ways), "calls": tuple(calls),
        "floats": (*first.params["floats"], *second.params["floats"]),
    }  # fmt: skip
    return replace(second, reads=tuple(reads), params=params)
