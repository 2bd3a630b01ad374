"""What elementwise kernels of every target compute: functions of operands, and of each other's results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Operand:
    """A constant operand: packed as the target's kernels read planes, or plain with its shape."""

    packed: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A function of operands (0, 1, ...) and of what earlier calls gave (-1 for the first, -2 for the second, ...)."""

    function: str
    args: tuple[int, ...]
    params: int = 0


def call_of(function: str, operands: int, params: int) -> tuple[Call, ...]:
    """One function of all operands."""
    return (Call(function, tuple(range(operands)), params),)


def named(calls: Sequence[Call], ways: str) -> str:
    """The calls and how operands are read, a letter each, as part of a kernel's name."""
    if len(calls) == 1 and calls[0].args == tuple(range(len(ways))):
        return f"{calls[0].function}_{ways}"
    return "_".join([*(call.function + "".join(map(reference, call.args)) for call in calls), ways])


def reference(arg: int) -> str:
    """The name of an operand, v0, or of a result, r0."""
    return f"v{arg}" if arg >= 0 else f"r{-1 - arg}"
