"""Text for terminals and for pipes: tables, figures, progress. Strings from models never reach a terminal unescaped."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from convc.files import finite

WIDTH = 100
ProgressCallback = Callable[[str, int, int], None]


def clean(text: object) -> str:
    """The text with control, format and surrogate characters shown as escapes; line breaks stay."""
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn"} else ascii(c)[1:-1]
        for c in str(text)
    )


def in_options(hint: str) -> str:
    """A hint that speaks of Python's arguments, in the words of the command line."""
    shaped = re.sub(r'input_shapes=\{"([^"]+)": \((.*?),?\)\}', _shape_option, hint)
    named = re.sub(r"\b(target|precision)='([^']*)'", r"--\1 \2", shaped)
    return re.sub(r"\binput_shapes=(\{[^}]*\})?", "--input-shape NAME:SIZES", named)


def _shape_option(found: re.Match[str]) -> str:
    """Each size that may be anything, or is not known, becomes a letter."""
    sizes = [part.strip().strip('"') for part in found[2].split(",")]
    letters = iter("ABCDEFGH")
    return f"--input-shape {found[1]}:" + "x".join(next(letters) if size == "None" else size for size in sizes)


def say(text: object = "") -> None:
    """Print one cleaned line, or several."""
    print(clean(text))


def note(text: str) -> None:
    """Tell what was assumed or done, on stderr."""
    print(f"convc: {clean(text)}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print strict JSON; figures that are not finite become null."""
    print(json.dumps(finite(value), indent=2))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: as wide as the terminal, with the names in bold, or plain text of at most 100 columns.

    A column whose name starts with > is set to the right. Where there is no room, the widest column is cut, but not one
    whose name starts with !, and the last one wraps.
    """
    terminal = sys.stdout.isatty()
    room = min(shutil.get_terminal_size().columns, 160) if terminal else WIDTH
    names = [name.lstrip(">!") for name in columns]
    right = [name.startswith(">") for name in columns]
    may_cut = [index for index, name in enumerate(columns) if not name.startswith("!")]
    cells = [[clean(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > room and max(widths[i] for i in may_cut) > 8:
        widths[max(may_cut, key=widths.__getitem__)] -= 1

    def lines(row: Sequence[str]) -> Iterator[str]:
        wrapped = textwrap.wrap(row[-1], max(widths[-1], 1)) or [""]
        fitted = [_fit(cell, width, at_right) for cell, width, at_right in zip(row, widths, right, strict=True)]
        yield "  ".join([*fitted[:-1], _fit(wrapped[0], widths[-1], right[-1])]).rstrip()
        yield from (" " * (sum(widths[:-1]) + 2 * (len(widths) - 1)) + more for more in wrapped[1:])

    if any(names):
        for line in lines(names):
            _print_bold(line) if terminal else print(line)
    for row in cells:
        print("\n".join(lines(row)))


def _fit(cell: str, width: int, right: bool) -> str:
    if len(cell) > width:
        cell = cell[: width - 3] + "..."
    return cell.rjust(width) if right else cell.ljust(width)


def _print_bold(line: str) -> None:
    say_styled(line, "bold")


def say_styled(text: str, style: str) -> None:
    """Print one cleaned line, in a style of rich's where that shows."""
    if not sys.stdout.isatty():
        say(text)
        return
    from rich.console import Console

    Console().print(clean(text), style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)


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
def progress(label: str) -> Iterator[ProgressCallback | None]:
    """A callback that shows stage and share done on stderr, or None where that is no terminal.

    The bar appears with the first call, so what is quick shows none, and it is gone in the end.
    """
    if not sys.stderr.isatty():
        yield None
        return
    with ExitStack() as stack:
        bars: list[Any] = []

        def report(stage: str, done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(_bar()))
                bars[0].add_task("")
            text = f"{clean(label)}: {clean(stage)} {done}/{total}"
            bars[0].update(bars[0].task_ids[0], description=text, completed=done, total=total)

        yield report


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


__all__ = ["ProgressCallback", "clean", "count", "note", "print_json", "progress", "say", "say_styled", "size", "table"]
