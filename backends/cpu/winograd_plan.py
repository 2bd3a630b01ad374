"""How the work of Winograd's convolution is cut, and how many cycles it is predicted to take.

An item is one block of tiles and one part of the output channels. It takes its multiplications, reading its weights
from memory, the transforms, and what does not stay in the second-level cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from convc.backends.cpu import conv
from convc.backends.cpu.isa import TYPICAL, Isa, Speed
from convc.backends.cpu.split import APART_BYTES_A_CYCLE, crossing_cycles, misplaced
from convc.backends.cpu.winograd_points import Form

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


@dataclass(frozen=True, slots=True)
class Plan:
    """How a convolution is cut: tiles in a block, parts of the channels; its cycles."""

    tiles: int
    parts: int
    cycles: float


def tiles_in(form: Form, images: int, height: int, width: int, apart: int) -> int:
    """Tiles of all interleaved maps of all images."""
    down, across = tile_grid(form, height, width, apart)
    return images * apart * apart * down * across


def tile_grid(form: Form, height: int, width: int, apart: int) -> tuple[int, int]:
    """Rows and columns of tiles in one of the interleaved maps."""
    return ceil_div(ceil_div(height, apart), form.down), ceil_div(ceil_div(width, apart), form.across)


def ceil_div(a: int, b: int) -> int:
    """A / b, rounded up."""
    return (a + b - 1) // b


def part_blocks(blocks_out: int, cols: int, parts: int) -> int:
    """Blocks of output channels in the largest part, in whole tiles of `cols`."""
    return min(ceil_div(ceil_div(blocks_out, cols), parts) * cols, blocks_out)


def plan_blocks(
    isa: Isa, form: Form, tile: tuple[int, int], planes: int, channels: int, blocks_out: int, total: int, threads: int,
    *, few: bool = False, speed: Speed = TYPICAL,
) -> Plan:  # fmt: skip
    """How `total` tiles are cut for some threads. `few`: of the kernel for few tiles, whose tile is a group by 1."""
    rows, cols = tile
    groups = ceil_div(blocks_out, cols)
    item = _item_few if few else _item
    bytes_of_weights = (9 if few else form.points) * channels * blocks_out * isa.lanes * 4
    again = replace(speed, weights=speed.again) if bytes_of_weights <= THIRD_BYTES else speed
    best: Plan | None = None
    for parts in _parts(threads, groups):
        part = part_blocks(blocks_out, cols, parts)
        bytes_a_tile = form.points * (planes + (1 if few else part)) * isa.lanes * 4
        for blocks in _counts(ceil_div(total, rows)):
            size = ceil_div(total, blocks)
            size = ceil_div(size, rows) * rows if few else _in_strips(size, rows, blocks_out % cols == 0)
            if size * bytes_a_tile > MOST_BYTES and size > rows:
                continue
            pieces = ceil_div(total, size)
            rounds = ceil_div(pieces * parts, threads)
            read, written = (total * form.down * form.across * count * isa.lanes * 4 for count in (planes, blocks_out))
            crossing = crossing_cycles(read, written, parts, threads)
            crossing += misplaced(pieces, threads) * (read + written) / APART_BYTES_A_CYCLE if parts == 1 else 0.0
            cycles = item(isa, speed, form, tile, planes, channels, part, size) + crossing
            cycles += (rounds - 1) * item(isa, again, form, tile, planes, channels, part, size) if rounds > 1 else 0.0
            if best is None or cycles < best.cycles:
                best = Plan(size, parts, cycles)
    assert best is not None
    return best


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
    isa: Isa, speed: Speed, form: Form, tile: tuple[int, int], planes: int, channels: int, blocks_out: int, size: int
) -> float:
    rows, cols = tile
    points, vector = form.points, isa.lanes * 4
    full, rest = divmod(blocks_out, cols)
    strips, left = divmod(size, rows)
    step = full * strips * conv.step_cycles(rows, cols, channels, vector, speed)
    step += full * conv.step_cycles(left, cols, channels, vector, speed) if left else 0.0
    step += ceil_div(size, rows) * conv.step_cycles(rows, rest, channels, vector, speed) if rest else 0.0
    tiles = ceil_div(size, rows) * ceil_div(blocks_out, cols)
    multiply = points * (channels * step + tiles * STRIP_CYCLES + size * blocks_out)
    weights = points * channels * blocks_out * vector / speed.weights
    weights *= speed.waited if size > rows else 1.0  # the next ones are asked for from the second strip on
    held = points * size * (planes + blocks_out) * vector
    far = 2 * max(held - CACHE_BYTES, 0) / FAR_BYTES_A_CYCLE
    return multiply + weights + far + _transforms(isa, form, planes, blocks_out, size)


def _item_few(
    isa: Isa, speed: Speed, form: Form, tile: tuple[int, int], planes: int, channels: int, blocks_out: int, size: int
) -> float:
    rows = form.rows
    step = rows * rows * tile[0] + speed.few_row * rows  # a cycle each: every multiply-add loads its own factor
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
