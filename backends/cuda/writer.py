"""Writing emitted source: typed arguments, indentation, and one work item a thread.

A kernel states its own interface: each argument is annotated with its kind, the result with the threads of a block.
`interface` reads that back, so a source is all that compiling or running it takes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from convc.backends.writer import Lines

THREADS = 256
"""Threads of a block, where the family has no reason for another number."""
VECTOR = {"f32": 4, "tf32": 4, "f16": 8, "bf16": 8}
"""Elements of 16 bytes, by storage; tf32 is float32 that is rounded to 10 bits of fraction when it is stored."""
ELEMENT = {"f32": 4, "tf32": 4, "f16": 2, "bf16": 2}
MEMORY = {"f32": "f32", "tf32": "f32", "f16": "f16", "bf16": "bf16"}
"""What loads and stores of a storage are called."""


@dataclass(frozen=True)
class Interface:
    """Name of a kernel, kinds of its arguments in order, threads of a block."""

    name: str
    kinds: tuple[str, ...]
    threads: int


@lru_cache(maxsize=1024)
def interface(source: str) -> Interface:
    """What the annotations of an emitted kernel say."""
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    kinds = []
    for argument in function.args.args:
        assert isinstance(argument.annotation, ast.Constant)
        kinds.append(str(argument.annotation.value))
    assert isinstance(function.returns, ast.Constant)
    return Interface(function.name, tuple(kinds), int(str(function.returns.value).split()[0]))


class Writer(Lines):
    """Collects the lines of one kernel. `arguments` are "name: kind"; kinds are `i32`, `f32`, and
    pointers such as `f32*`.
    """

    def __init__(self, name: str, arguments: Sequence[str], about: str, threads: int = THREADS) -> None:
        super().__init__()
        self.name = name
        self.threads = threads
        self.arguments = list(arguments)
        self._about = about

    @contextmanager
    def loop(self, index: str, count: str) -> Iterator[None]:
        """Run `index` from 0 to below `count`, which is the same for all threads."""
        self(f"{index} = i32(0)")
        with self.block(f"while {index} < {count}"):
            yield
            self(f"{index} = {index} + 1")

    def item(self, name: str, total: str) -> None:
        """`name`: this thread's item of `total`, 0 where there is none, and `ok` whether there is one."""
        self(f"{name} = block_x() * {self.threads} + thread()", f"ok = inside({name}, {total})")
        self(f"{name} = select(ok, {name}, 0)")

    def split(self, of: str, by: str, quotient: str, rest: str) -> None:
        """`quotient`, `rest` = divmod(`of`, `by`), none of them negative."""
        self(f"{quotient} = udiv({of}, {by})", f"{rest} = {of} - {quotient} * {by}")

    def finish(self) -> tuple[str, str]:
        """Name and source."""
        listed = ", ".join(f'{name}: "{kind}"' for name, kind in (a.split(": ") for a in self.arguments))
        head = [f'def {self.name}({listed}) -> "{self.threads} threads":']
        head += [f"    # {line}" for line in self._about.splitlines()]
        return self.name, "\n".join([*head, *self._lines]) + "\n"


def items(total: int, threads: int = THREADS) -> tuple[int, int, int]:
    """The grid of a kernel with an item a thread."""
    return max(-(-total // threads), 1), 1, 1
