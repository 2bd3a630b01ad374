"""Runs emitted source in NumPy, all threads of many blocks in lock step: the very text that is compiled for the GPU.

Branches and loops must be the same for all threads, which emitted source keeps to. What is found wrong is raised as
LockstepError; `primitives_numpy` says what is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any

import numpy as np

from convc.backends.cuda.primitives_numpy import Lanes, Memory
from convc.backends.cuda.shared_memory import LockstepError
from convc.backends.cuda.writer import interface
from convc.types import Array

__all__ = ["LockstepError", "Ran", "execute"]

LANES_AT_ONCE = 16384
"""Threads that run together: enough to hide NumPy's cost of a call, few enough for the caches."""


@dataclass(frozen=True)
class Ran:
    """What a launch did."""

    conflicts: Mapping[str, int]
    """Most shared-memory transactions that one request of a primitive took; 1 where none conflict."""
    unwritten: Mapping[str, int]
    """Half-words of each pointer argument that no thread stored."""


@lru_cache(maxsize=256)
def _code(source: str) -> CodeType:
    return compile(source, f"<lock step {interface(source).name}>", "exec")


def execute(
    source: str,
    grid: tuple[int, int, int],
    shared: int,
    args: Sequence[Array | int | float],
    *,
    races: bool = True,
    lanes: int = LANES_AT_ONCE,
) -> Ran:
    """Run a kernel. Pointer arguments are contiguous arrays (views of one arena, too), bfloat16 as uint16.

    `races=False` leaves out the bookkeeping of barriers, for whole networks.
    """
    facts = interface(source)
    if len(args) != len(facts.kinds):
        raise LockstepError(f"{facts.name}: {len(args)} arguments where {len(facts.kinds)} belong")
    function = next(c for c in _code(source).co_consts if isinstance(c, CodeType))
    names = function.co_varnames[: function.co_argcount]
    values: list[Any] = []
    for name, kind, value in zip(names, facts.kinds, args, strict=True):
        if kind.endswith("*"):
            values.append(Memory(name, np.asarray(value)))
        else:
            values.append(np.full(1, value, np.int32 if kind == "i32" else np.float32))
    conflicts: dict[str, int] = {}
    blocks = np.arange(grid[0] * grid[1])
    together = max(lanes // facts.threads, 1)
    for z in range(grid[2]):
        for first in range(0, len(blocks), together):
            some = blocks[first : first + together]
            group = Lanes(
                facts.threads,
                (some % grid[0], some // grid[0], z),
                shared,
                races=races and shared > 0,
                conflicts=conflicts,
            )
            _run(facts.name, source, group, values)
    return Ran(conflicts, {v.name: v.unwritten() for v in values if isinstance(v, Memory)})


def _run(name: str, source: str, group: Lanes, values: Sequence[Any]) -> None:
    space = dict(group.vocabulary)
    exec(_code(source), space)
    try:
        with np.errstate(all="ignore"):
            space[name](*values)
    except ValueError as error:
        if "ambiguous" not in str(error):
            raise
        raise LockstepError(f"{name}: branches on what differs by thread") from error
    if group.memory.current or (group.memory.groups and any(group.memory.groups)):
        raise LockstepError(f"{name}: ends with copies that were not waited for")
