"""Writing emitted source: lines with indentation, arguments by name, and the split of work among threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from convc.backends.writer import Lines

FEW_LINES = 4
"""Rows for each thread below which planes are cut instead: the shares would differ too much."""


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

    @contextmanager
    def share_lines(
        self, rows: str = "rows", image: str = "image", row: str = "row", plane: str = "plane"
    ) -> Iterator[None]:
        """Loop over this thread's share of `count` planes of `images` maps: over `plane`, `image` and `row`.

        Rows are cut, of all planes alike, as convolutions cut them, so that what a thread reads is mostly what it wrote
        itself; planes are cut where rows are few.
        """
        self(f"lines = images * {rows}", "plane_from = 0", "plane_to = count")
        self("line_from = lines * thread // threads", "line_to = lines * (thread + 1) // threads")
        with self.block(f"if lines < {FEW_LINES} * threads"):
            self("plane_from = count * thread // threads", "plane_to = count * (thread + 1) // threads")
            self("line_from = 0", "line_to = lines")
        with (
            self.block(f"for {plane} in range(plane_from, plane_to)"),
            self.block("for line in range(line_from, line_to)"),
        ):
            self(f"{image} = line // {rows}", f"{row} = line - {image} * {rows}")
            yield

    def finish(self) -> tuple[str, str]:
        """Name and source."""
        return self.name, "\n".join(self._lines) + "\n"
