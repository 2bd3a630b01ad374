"""Text for terminals and for pipes: tables, figures, progress. Strings from models never reach a terminal unescaped."""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

WIDTH = 100
Progress = Callable[[str, int, int], None]


def clean(text: object) -> str:
    """The text with control, format and surrogate characters shown as escapes; line breaks stay."""
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn"} else ascii(c)[1:-1]
        for c in str(text)
    )


def say(text: object = "") -> None:
    """Print one cleaned line, or several."""
    print(clean(text))


def note(text: str) -> None:
    """Tell what was assumed or done, on stderr."""
    print(f"convc: {clean(text)}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print strict JSON; figures that are not finite become null."""
    print(json.dumps(_finite(value), indent=2))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """Print a table: in colour on a terminal, plain text of at most 100 columns elsewhere.

    A column whose name starts with > is set to the right. Where there is no room, the widest column is cut, but the
    last one wraps.
    """
    names = [name.removeprefix(">") for name in columns]
    right = [name.startswith(">") for name in columns]
    cells = [[clean(cell).replace("\n", " ") for cell in row] for row in rows]
    if sys.stdout.isatty():
        _terminal_table(names, right, cells, title)
        return
    if title:
        say(title)
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > WIDTH and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1
    for line in [names, *cells] if any(names) else cells:
        wrapped = textwrap.wrap(line[-1], widths[-1]) or [""]
        parts = [_fit(cell, width, at_right) for cell, width, at_right in zip(line, widths, right, strict=True)]
        margin = sum(widths[:-1]) + 2 * (len(widths) - 1)
        print("  ".join([*parts[:-1], _fit(wrapped[0], widths[-1], right[-1])]).rstrip())
        print("".join(f"{' ' * margin}{more}\n" for more in wrapped[1:]), end="")


def _fit(cell: str, width: int, right: bool) -> str:
    if len(cell) > width:
        cell = cell[: width - 3] + "..."
    return cell.rjust(width) if right else cell.ljust(width)


def _terminal_table(names: Sequence[str], right: Sequence[bool], cells: Sequence[Sequence[str]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    heading = Text(title) if title else None
    made = Table(
        box=None, show_header=any(names), header_style="bold", title=heading, title_justify="left", pad_edge=False
    )
    for index, (name, at_right) in enumerate(zip(names, right, strict=True)):
        keep = index < len(names) - 1
        made.add_column(name, justify="right" if at_right else "left", overflow="ellipsis", no_wrap=keep)
    for row in cells:
        made.add_row(*map(Text, row))
    Console(width=min(shutil.get_terminal_size().columns, 160)).print(made)


def count(number: float) -> str:
    """A count with a unit: 1.82G, 25.6M, 4096."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number / 1e3:.1f}k" if number >= 1e5 else f"{number:.0f}"


def size(number: float) -> str:
    """Bytes with a unit: 1.5 MB."""
    for unit, whole in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= whole:
            return f"{number / whole:.1f} {unit}"
    return f"{number:.0f} B"


@contextmanager
def progress(label: str) -> Iterator[Progress | None]:
    """A callback that shows stage and share done on stderr, or None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    bar = Bar(*columns, console=console, transient=True)
    with bar:
        task = bar.add_task(clean(label), total=None)

        def report(stage: str, done: int, total: int) -> None:
            bar.update(task, description=f"{clean(label)}: {clean(stage)} {done}/{total}", completed=done, total=total)

        yield report


__all__ = ["Progress", "clean", "count", "note", "print_json", "progress", "say", "size", "table"]
