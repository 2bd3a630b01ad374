"""Lines of emitted source with indentation; the part of a kernel's writer that every target shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Lines:
    """Collects lines, the first ones as they are, the others at the current indentation."""

    def __init__(self, first: Sequence[str] = ()) -> None:
        self._lines = list(first)
        self._depth = 1

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
