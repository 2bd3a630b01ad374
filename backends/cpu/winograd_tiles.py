"""Where the tiles of Winograd's convolution lie: whole ones in a row, or a block of maps with smaller tiles among them.

Maps that whole tiles do not cover evenly, 14x14 in tiles of 4x4 for one, are covered by tiles of which some are one
output smaller along an axis: 4, 4, 3 and 3. A smaller tile leaves out the last finite point of that axis, so a point is
multiplied by the tiles that have it: 484 products instead of 576 for 14x14, and the kernels are transformed once for
all. In a block, tiles lie in four kinds: fewer rows, whole, fewer columns, fewer of both; so the tiles of each point
lie side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from convc.backends.cpu.winograd_points import PAIR, Form, shrinks
from convc.backends.cpu.writer import Writer

WORDS = 5
"""Facts about a tile in the scratch memory: offsets in x, y and the residual, rows and columns to store."""


class Placed(Protocol):
    """What the place of a tile depends on."""

    @property
    def form(self) -> Form: ...
    @property
    def apart(self) -> int: ...
    @property
    def every(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def pool(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """Tiles `first` to `last` of a block have one form, or so many that lie `gap` apart, as written in a kernel."""

    first: str
    last: str
    form: Form
    gap: str = ""
    many: str = ""

    @contextmanager
    def each(self, out: Writer) -> Iterator[None]:
        """A loop over the tiles t."""
        if self.gap:  # no range with a step: Numba asks whether it is 0
            with out.block(f"for i in range({self.many})"):
                out(f"t = {self.first} + i * {self.gap}")
                yield
        else:
            with out.block(f"for t in range({self.first}, {self.last})"):
                yield


def whole(form: Form) -> list[Kind]:
    """All tiles of a block."""
    return [Kind("0", "count", form)]


def kinds_of(form: Form) -> list[Kind]:
    """The kinds of tiles of a block that `begin_mixed` has counted."""
    low, thin = shrinks(form.down, form.height), shrinks(form.across, form.breadth)
    ends = ("0", "end_low", "end_whole", "end_thin", "count")
    all_kinds = [(first, last, *less) for first, last, less in zip(ends[:-1], ends[1:], PAIR, strict=True)]
    return [
        Kind(first, last, Form(form.down - fewer, form.across - narrower, form.height, form.breadth))
        for first, last, fewer, narrower in all_kinds
        if low >= fewer and thin >= narrower
    ]


def kinds_of_pairs(form: Form) -> list[Kind]:
    """Those of blocks that `begin_pairs` has counted."""
    return [
        Kind(
            f"{index} * pairs", "", Form(form.down - fewer, form.across - narrower, form.height, form.breadth), "gap",
            "smaller" if fewer or narrower else "wholes",
        )
        for index, (fewer, narrower) in enumerate(PAIR)
    ]  # fmt: skip


def begin_pairs(out: Writer) -> None:
    """How many tiles of a block are smaller, of each kind, and how many whole, and how far apart they lie: if `pairs`,
    each of the `groups` is a map of 2 x 2 tiles; if not, all are whole.
    """
    out("smaller = groups * pairs", "wholes = count - (count - groups) * pairs", f"gap = 1 + {len(PAIR) - 1} * pairs")


def add_pair_facts(out: Writer, spec: Placed, vector: int) -> None:
    """Where tile t of a block of maps of 2 x 2 tiles lies, and how much of it there is."""
    form, d = spec.form, spec.apart
    out(f"j = (first + t) // {len(PAIR)}", f"kind = first + t - j * {len(PAIR)}", f"image = j // {d * d}")
    out("down = 0", "along = 0")
    for letter, axis, size in (("down", 0, form.down), ("along", 1, form.across)):
        kinds = " or ".join(f"kind == {index}" for index, less in enumerate(PAIR) if less[axis])
        with out.block(f"if {kinds}"):
            out(f"{letter} = {size * d}")
    if d > 1:
        out(f"phase = j - image * {d * d}", f"down += phase // {d}", f"along += phase - phase // {d} * {d}")
    _write_facts(out, spec, vector, ("down", "along"), ("down", "along"))


def begin_mixed(out: Writer, spec: Placed) -> None:
    """Which maps, or which rows of tiles of one map, a block has; how many tiles of each kind."""
    out("group = block // bands", "band = block - group * bands", "begun = group * maps")
    out(f"some = images * {spec.apart**2} - begun", "if some > maps: some = maps")
    out("top = tile_rows * band // bands", "bottom = tile_rows * (band + 1) // bands", "full = full_rows")
    out("if full < top: full = top", "if full > bottom: full = bottom")
    out("count = some * (bottom - top) * tile_cols", "end_low = some * (bottom - full) * full_cols")
    out("end_whole = some * (bottom - top) * full_cols")
    out("end_thin = end_whole + some * (full - top) * (tile_cols - full_cols)")


def add_mixed_facts(out: Writer, spec: Placed, vector: int) -> None:
    """Where the tiles of a mixed block lie, and how much of them there is, kind by kind."""
    form, d = spec.form, spec.apart
    out("t = 0")
    with out.block("for kind in range(4)"):
        out("ty_from = top", "ty_to = full", "tx_from = 0", "tx_to = full_cols")
        with out.block("if kind == 0 or kind == 3"):
            out("ty_from = full", "ty_to = bottom")
        with out.block("if kind >= 2"):
            out("tx_from = full_cols", "tx_to = tile_cols")
        with out.block("for j in range(begun, begun + some)"):
            out(f"image = j // {d * d}")
            if d > 1:
                out(f"phase = j - image * {d * d}", f"py = phase // {d}", f"px = phase - py * {d}")
            with out.block("for ty in range(ty_from, ty_to)"):
                out(f"down = ty * {form.down}", "if ty > full_rows: down -= ty - full_rows")
                with out.block("for tx in range(tx_from, tx_to)"):
                    out(f"along = tx * {form.across}", "if tx > full_cols: along -= tx - full_cols")
                    corner = (f"(down * {d} + py)", f"(along * {d} + px)") if d > 1 else ("down", "along")
                    _write_facts(out, spec, vector, corner, corner)
                    out("t += 1")


def add_facts(out: Writer, spec: Placed, vector: int) -> None:
    """Where tile t lies, and how much of it there is."""
    form, d = spec.form, spec.apart
    out("image = (first + t) // per_image", "j = first + t - image * per_image")
    if d > 1:
        out("phase = j // per_map", "j -= phase * per_map", f"py = phase // {d}", f"px = phase - py * {d}")
    out("ty = j // tile_cols", "tx = j - ty * tile_cols")
    corner = ("(ty * {} + py)", "(tx * {} + px)") if d > 1 else ("ty * {}", "tx * {}")
    row, col = (place.format(size * d) for place, size in zip(corner, (form.down, form.across), strict=True))
    down, along = (place.format(f"y_side * {d}") for place in corner)  # a pooling halves the side of a tile of outputs
    _write_facts(out, spec, vector, (row, col), (down, along) if spec.pool else (row, col))


def _write_facts(out: Writer, spec: Placed, vector: int, corner: tuple[str, str], written: tuple[str, str]) -> None:
    """The facts of tile t, whose first output is at `corner` and stored at `written`, a row and a column each."""
    d, (row, col) = spec.apart, corner
    out(f"at = t * {WORDS}")
    for index, letter in enumerate("xyr"):
        down, along = written if letter == "y" else corner
        pixel = vector * (spec.stride if letter == "x" else spec.every)
        out(f"store_i64(facts, at + {index}, image * {letter}_image + {down} * {letter}_row + {along} * {pixel})")
    left = f"(height - {row} + {d - 1}) // {d}", f"(width - {col} + {d - 1}) // {d}"
    left = left if d > 1 else (f"height - {row}", f"width - {col}")
    out(f"store_i64(facts, at + 3, {left[0]})", f"store_i64(facts, at + 4, {left[1]})")


def choose_tiles(out: Writer, form: Form) -> None:
    """The tiles `low` to `high` of a mixed block that have a point."""
    out("low = 0", "high = count", f"line = point // {form.columns}")
    if shrinks(form.down, form.height):
        with out.block(f"if line == {form.rows - 2}"):
            out("low = end_low", "high = end_thin")
    if shrinks(form.across, form.breadth):
        out(f"if point - line * {form.columns} == {form.columns - 2}: high = end_whole")
