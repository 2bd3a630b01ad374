"""Runs a Program in lock step on NumPy: a machine without a GPU executes every launch of the plan, text by text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convc.backends.binding import ARENA, SCRATCH, TABLES
from convc.backends.cuda.lockstep import execute
from convc.backends.cuda.lower import LAUNCHES
from convc.backends.cuda.plan import LaunchPlan, Pointer
from convc.backends.cuda.writer import interface
from convc.backends.program import Program
from convc.limits import Limits
from convc.types import Array

POISON = 0xFF
"""What the arena and the outputs hold at first: NaN in every floating type."""
POINTED: dict[str, Any] = {
    "f32": np.float32,
    "tf32": np.float32, "f16": np.float16, "bf16": np.uint16, "i32": np.int32, "f64": np.float64, "bool": np.uint8,
    **{f"{sign}{bits}": np.dtype(f"{sign}{bits // 8}") for sign in "iu" for bits in (8, 16, 32, 64)},
    **{f"b{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
}  # fmt: skip


class Lockstep:
    """A Program as a target: NumPy in, NumPy out, every kernel in lock step."""

    def __init__(self, program: Program, limits: Limits | None = None, *, races: bool = False) -> None:
        self.program = program
        self.limits = limits or Limits()
        self.races = races

    def run(self, inputs: Sequence[Array], sizes: Mapping[str, int]) -> list[Array]:
        """Outputs in order. Raises LockstepError where a kernel does what a GPU would not tell."""
        plan = LaunchPlan(self.program, sizes, LAUNCHES, self.limits)
        outputs = [np.empty(t.concrete(plan.sizes), t.dtype.numpy) for _, t in self.program.outputs]
        segments: dict[int, Array] = {
            ARENA: np.full(plan.arena_bytes, POISON, np.uint8), TABLES: plan.tables,
        }  # fmt: skip
        segments[SCRATCH] = np.full(plan.scratch_bytes, POISON, np.uint8)
        for segment, name in plan.packed_segments():
            segments[segment] = _bytes(self.program.packed[name])
        for slot, array in enumerate(inputs):
            segments[plan.input_segment(slot)] = _bytes(array)
        for slot, array in enumerate(outputs):
            segments[plan.output_segment(slot)] = _bytes(array)
            segments[plan.output_segment(slot)][:] = POISON
        for launch in plan.launches:
            source = self.program.kernels[launch.kernel]
            kinds = interface(source).kinds
            arguments: list[Array | int | float] = []
            for kind, argument in zip(kinds, launch.arguments, strict=True):
                if isinstance(argument, Pointer):
                    part = segments[argument.segment][argument.offset : argument.offset + argument.bytes]
                    dtype = np.dtype(POINTED[kind.rstrip("*")])
                    arguments.append(part[: len(part) // dtype.itemsize * dtype.itemsize].view(dtype))
                else:
                    arguments.append(argument)
            execute(source, launch.grid, launch.shared, arguments, races=self.races)
        return outputs


def _bytes(array: Array) -> Array:
    flat: Array = np.ascontiguousarray(array).reshape(-1).view(np.uint8) if array.size else np.zeros(0, np.uint8)
    return flat
