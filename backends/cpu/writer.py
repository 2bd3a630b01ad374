"""Writing emitted source: lines with indentation, arguments by name, and the split of work among threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from convc.backends.writer import Lines


class Writer(Lines):
    """Collects the lines of one kernel: `def name(a, thread, threads)`, where `a` is the address of its arguments."""

    def __init__(self, name: str, arguments: Sequence[str], about: str) -> None:
        self.name = name
        super().__init__([f"def {name}(a, thread, threads):", *(f"    # {line}" for line in about.splitlines())])
        for index, argument in enumerate(arguments):
            self(f"{argument} = load_i64(a, {index})")

    @contextmanager
    def share(self, total: str, item: str) -> Iterator[None]:
        """Loop over this thread's contiguous share of `total` items."""
        with self.block(f"for {item} in range({total} * thread // threads, {total} * (thread + 1) // threads)"):
            yield

    def finish(self) -> tuple[str, str]:
        """Name and source."""
        return self.name, "\n".join(self._lines) + "\n"
