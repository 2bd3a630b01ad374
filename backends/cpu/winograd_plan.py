"""How the work of Winograd's convolution is cut, and how many cycles it is predicted to take.

An item is one block of tiles and one part of the output channels. It takes its multiplications, reading its weights
from memory, the transforms, and what does not stay in the second-level cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from convc.backends.cpu import conv
from convc.backends.cpu.isa import TYPICAL, Isa, Speed
from convc.backends.cpu.split import APART_BYTES_A_CYCLE, crossing_cycles, misplaced
from convc.backends.cpu.winograd_points import PAIR, Form, shrinks

CACHE_BYTES = 1280 << 10
"""Of the second-level cache: what transformed inputs and products may take before they are read from farther away."""
THIRD_BYTES = 16 << 20
"""Of the third-level cache: weights that stay there from one block of tiles to the next."""
MOST_BYTES = 48 << 20
"""Scratch memory of a thread at most."""
FAR_BYTES_A_CYCLE = 8.0
"""Beyond the second-level cache, in the third."""
INPUT_CYCLES = 4.5
"""Of a point of a tile of a plane of inputs: to load, to store. With OUTPUT_CYCLES fitted to F(2 x 2) and F(4 x 4),
which take 80 and 250 cycles for inputs, 70 and 150 for outputs, measured with 32 registers.
"""
OUTPUT_CYCLES = (25.0, 1.2)
"""Of a tile of a block of outputs: of all, and of each point and output."""
SUM_CYCLES = 0.5
"""Of an addition or multiply-add of the transforms."""
STRIP_CYCLES = 12.0
"""Of a register tile at a point: to begin and to end it. Its sums are stored, one a cycle."""
FEW_REGISTERS = 1.5
"""Times as long with 16, where the transforms spill."""


MIXED_GAIN = 1.03
"""Times fewer cycles from which smaller tiles are mixed in: one kernel more to compile."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Tiles of a convolution: `rows` x `columns` on each of `maps` interleaved maps. Where tiles are mixed, only the
    first `full_rows` and `full_columns` are whole; the others are one output smaller.
    """

    maps: int
    rows: int
    columns: int
    full_rows: int
    full_columns: int

    @staticmethod
    def of(form: Form, images: int, height: int, width: int, apart: int) -> Grid:
        """For outputs of height x width, `apart` pixels between taps."""
        (rows, full_rows), (columns, full_columns) = (
            _tiles_along(ceil_div(size, apart), outputs, taps)
            for size, outputs, taps in ((height, form.down, form.height), (width, form.across, form.breadth))
        )
        return Grid(images * apart * apart, rows, columns, full_rows, full_columns)

    @property
    def total(self) -> int:
        """Tiles of all maps; 1 where there is none."""
        return max(self.maps * self.rows * self.columns, 1)

    @property
    def uneven(self) -> bool:
        """Whether smaller tiles cover the maps, too."""
        return (self.full_rows, self.full_columns) != (self.rows, self.columns) and self.maps > 0

    @property
    def paired(self) -> bool:
        """Whether a map is 2 x 2 tiles, one of each kind."""
        return (self.rows, self.columns, self.full_rows, self.full_columns) == (2, 2, 1, 1)


def _tiles_along(size: int, outputs: int, taps: int) -> tuple[int, int]:
    tiles = ceil_div(size, outputs)
    spare = tiles * outputs - size if shrinks(outputs, taps) else 0
    return tiles, max(tiles - spare, 0)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a convolution is cut: tiles in a block, at most; parts of the channels; its cycles. Where tiles are mixed, a
    block is `maps` whole maps, or one of `bands` of a map.
    """

    tiles: int
    parts: int
    cycles: float
    mixed: bool = False
    maps: int = 1
    bands: int = 1


def ceil_div(a: int, b: int) -> int:
    """A / b, rounded up."""
    return (a + b - 1) // b


def part_blocks(blocks_out: int, cols: int, parts: int) -> int:
    """Blocks of output channels in the largest part, in whole tiles of `cols`."""
    return min(ceil_div(ceil_div(blocks_out, cols), parts) * cols, blocks_out)


@cache
def plan_best(
    isa: Isa, form: Form, tile: tuple[int, int], planes: int, channels: float, blocks_out: int, grid: Grid, *,
    few: bool = False, speed: Speed = TYPICAL,
) -> Plan:  # fmt: skip
    """How one thread computes the tiles soonest: as whole ones, or with smaller ones among them. `channels`: of the
    sum at a point, on average.
    """
    ways = (False, True) if (grid.paired and tile[0] == len(PAIR) if few else grid.uneven) else (False,)
    plans = [
        plan_blocks(isa, form, tile, planes, channels, blocks_out, grid, 1, few=few, mixed=mixed, speed=speed)
        for mixed in ways
    ]
    return plans[-1] if plans[-1].cycles * MIXED_GAIN < plans[0].cycles else plans[0]


@cache
def plan_blocks(
    isa: Isa, form: Form, tile: tuple[int, int], planes: int, channels: float, blocks_out: int, grid: Grid,
    threads: int, *, few: bool = False, mixed: bool = False, speed: Speed = TYPICAL,
) -> Plan:  # fmt: skip
    """How tiles are cut for some threads. `few`: of the kernel for few tiles, whose tile is a group by 1."""
    rows, cols = tile
    groups, total = ceil_div(blocks_out, cols), grid.total
    bytes_of_weights = (9 if few else form.points) * channels * blocks_out * isa.lanes * 4
    again = replace(speed, weights=speed.again) if bytes_of_weights <= THIRD_BYTES else speed
    cuts = list(_mixed_cuts(form, grid) if mixed and not few else _cuts(form, total, rows, few, blocks_out % cols == 0))
    best: Plan | None = None
    for parts in _parts(threads, groups):
        part = part_blocks(blocks_out, cols, parts)
        bytes_a_tile = form.points * (planes + (1 if few else part)) * isa.lanes * 4
        for cut in cuts:
            if cut.tiles * bytes_a_tile > MOST_BYTES and cut is not cuts[-1]:
                continue
            read, written = (total * form.down * form.across * count * isa.lanes * 4 for count in (planes, blocks_out))
            cycles = crossing_cycles(read, written, parts, threads)
            if parts == 1:
                cycles += misplaced(cut.pieces, threads) * (read + written) / APART_BYTES_A_CYCLE
            for of_item, times in ((speed, 1), (again, ceil_div(cut.pieces * parts, threads) - 1)):
                if times and few:
                    cycles += times * _item_few(isa, of_item, form, tile, planes, channels, part, cut.tiles, mixed)
                elif times:
                    cycles += times * _item(isa, of_item, form, tile, planes, channels, part, cut.kinds)
            if best is None or cycles < best.cycles:
                best = Plan(cut.tiles, parts, cycles, mixed, cut.maps, cut.bands)
    assert best is not None
    return best


@dataclass(frozen=True, slots=True)
class Cut:
    """Blocks of at most so many tiles, and how many blocks; how many points of how many tiles a block computes."""

    tiles: int
    pieces: int
    kinds: Sequence[tuple[int, int]]
    maps: int = 1
    bands: int = 1


def _cuts(form: Form, total: int, rows: int, few: bool, whole: bool) -> Iterator[Cut]:
    """The largest blocks first."""
    for blocks in _counts(ceil_div(total, rows)):
        size = ceil_div(total, blocks)
        size = ceil_div(size, rows) * rows if few else _in_strips(size, rows, whole)
        yield Cut(size, ceil_div(total, size), ((form.points, size),))


def _mixed_cuts(form: Form, grid: Grid) -> Iterator[Cut]:
    """Blocks of whole maps, the largest first, then bands of a map."""
    all_maps = max(grid.maps, 1)
    cuts = [(ceil_div(all_maps, pieces), 1) for pieces in _counts(all_maps)]
    cuts += [(1, bands) for bands in _counts(grid.rows) if bands > 1]
    fewer = int(shrinks(form.down, form.height)), int(shrinks(form.across, form.breadth))
    for maps, bands in cuts:
        down, full = ceil_div(grid.rows, bands), ceil_div(grid.full_rows, bands)
        rows = (form.rows - fewer[0], down), (fewer[0], full)
        columns = (form.columns - fewer[1], grid.columns), (fewer[1], grid.full_columns)
        kinds = tuple((p * q, maps * r * c) for p, r in rows for q, c in columns if p * q)
        yield Cut(maps * down * grid.columns, ceil_div(all_maps, maps) * bands, kinds, maps, bands)


def _parts(threads: int, groups: int) -> Iterator[int]:
    yield from (parts for parts in (1, 2, 3, 4, 6, 8, 12, 16) if parts == 1 or parts <= min(threads, groups))


def _counts(most: int) -> Iterator[int]:
    """Numbers of blocks to try, from 1 to `most`, in steps of about a quarter."""
    count = 1
    while count < most:
        yield count
        count += max(1, count // 4)
    yield max(most, 1)


def _in_strips(size: int, rows: int, whole: bool) -> int:
    """Tiles rounded up to strips of `rows`, of which the last may be the smaller one."""
    strips, left = divmod(size, rows)
    half = conv.half_rows(rows, whole)
    return strips * rows + (0 if not left else half if left <= half else rows)


def _item(
    isa: Isa, speed: Speed, form: Form, tile: tuple[int, int], planes: int, channels: float, blocks_out: int,
    kinds: Sequence[tuple[int, int]],
) -> float:  # fmt: skip
    rows, cols = tile
    vector, size = isa.lanes * 4, kinds[0][1]
    cycles_of = partial(conv.step_cycles, count=round(channels), vector=vector, speed=speed, chunked=False)
    full, rest = divmod(blocks_out, cols)
    multiply = 0.0
    for points, tiles in kinds:
        strips, left = divmod(tiles, rows)
        half = conv.half_rows(rows, True)
        step = full * strips * cycles_of(rows, cols)
        step += full * cycles_of(rows if left > half else half, cols) if left else 0.0
        step += ceil_div(tiles, rows) * cycles_of(rows, rest) if rest else 0.0
        begun = ceil_div(tiles, rows) * ceil_div(blocks_out, cols)
        multiply += points * (channels * step + begun * STRIP_CYCLES + tiles * blocks_out)
    weights = form.points * channels * blocks_out * vector / speed.weights
    weights *= speed.waited if size > rows else 1.0  # the next ones are asked for from the second strip on
    held = form.points * size * (planes + blocks_out) * vector
    far = 2 * max(held - CACHE_BYTES, 0) / FAR_BYTES_A_CYCLE
    return multiply + weights + far + _transforms(isa, form, planes, blocks_out, size)


def _item_few(
    isa: Isa, speed: Speed, form: Form, tile: tuple[int, int], planes: int, channels: float, blocks_out: int, size: int,
    mixed: bool,
) -> float:  # fmt: skip
    rows = form.rows
    products = (2 * rows - 1) ** 2 if mixed else rows * rows * tile[0]
    step = products + speed.few_row * rows  # a cycle each: every multiply-add loads its own factor
    weights = 9 * channels * blocks_out * isa.lanes * 4 / speed.weights
    groups = ceil_div(size, tile[0])
    multiply = blocks_out * groups * (channels * step + rows * (STRIP_CYCLES + rows * tile[0]))
    held = form.points * size * (planes + 1) * isa.lanes * 4
    far = 2 * blocks_out * max(held - CACHE_BYTES, 0) / FAR_BYTES_A_CYCLE
    return max(multiply + weights * speed.few_waited, weights) + far + _transforms(isa, form, planes, blocks_out, size)


def _transforms(isa: Isa, form: Form, planes: int, blocks_out: int, size: int) -> float:
    n, m = (form.rows, form.columns), (form.down, form.across)
    into = n[1] * _sums(n[0], n[0]) + n[0] * _sums(n[1], n[1])
    out_of = n[1] * _sums(m[0], n[0]) + m[0] * _sums(m[1], n[1])
    input_cycles = INPUT_CYCLES * form.points + SUM_CYCLES * into
    output_cycles = OUTPUT_CYCLES[0] + OUTPUT_CYCLES[1] * (form.points + m[0] * m[1]) + SUM_CYCLES * out_of
    cycles = size * (planes * input_cycles + blocks_out * output_cycles)
    return cycles * (1.0 if isa.registers >= 32 else FEW_REGISTERS)


def _sums(rows: int, n: int) -> int:
    """Additions and multiply-adds of a matrix of so many rows by a vector of n points, of which n - 2 are pairs."""
    if n == 1:
        return 0
    return n * (n - 2) // 2 if rows == n else n - 2 + rows * n // 2
