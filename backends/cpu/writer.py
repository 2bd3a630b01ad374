"""Writing emitted source: lines with indentation, arguments by name, and the split of work among threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Writer:
    """Collects the lines of one kernel: `def name(a, thread, threads)`, where `a` is the address of its arguments."""

    def __init__(self, name: str, arguments: Sequence[str], about: str) -> None:
        self.name = name
        self._lines = [f"def {name}(a, thread, threads):", *(f"    # {line}" for line in about.splitlines())]
        self._depth = 1
        for index, argument in enumerate(arguments):
            self(f"{argument} = load_i64(a, {index})")

    def __call__(self, *lines: str) -> None:
        """Add lines at the current indentation."""
        self._lines.extend("    " * self._depth + line for line in lines)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Add `head:` and indent what follows."""
        self(head + ":")
        self._depth += 1
        yield
        self._depth -= 1

    @contextmanager
    def share(self, total: str, item: str) -> Iterator[None]:
        """Loop over this thread's contiguous share of `total` items."""
        with self.block(f"for {item} in range({total} * thread // threads, {total} * (thread + 1) // threads)"):
            yield

    def finish(self) -> tuple[str, str]:
        """Name and source."""
        return self.name, "\n".join(self._lines) + "\n"
