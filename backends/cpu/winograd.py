"""Winograd's convolution F(m x n, r x s), fused by blocks of tiles so that what it transforms stays in the caches.

Y = A^T [(G g G^T) * (B^T d B)] A + bias: F(4 x 4, 3 x 3) takes 36 multiplications for 16 outputs where the direct sum
takes 144, F(1 x 4, 1 x 7) 10 for 4 where it takes 28. For each block of tiles: transform the inputs of all planes; at
each point, multiply by all weights of that point, which are read once a block, with the register tile that direct
convolutions use; transform the products and store them. Blocks may be split by output channels too (`parts`); each
thread then transforms the inputs for itself. A dilated convolution is one of the same kind on each of dilation x
dilation interleaved maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from convc.backends.cpu import conv
from convc.backends.cpu.activations import name_end, write_parameters
from convc.backends.cpu.isa import Isa, one_stream
from convc.backends.cpu.winograd_points import Form
from convc.backends.cpu.winograd_tiles import (
    WORDS,
    Kind,
    Placed,
    add_facts,
    add_mixed_facts,
    begin_mixed,
    choose_tiles,
    kinds_of,
    whole,
)
from convc.backends.cpu.writer import Writer

L1_BYTES = 20 << 10
"""Weights of a tile at one point that stay in the first-level cache beside the inputs."""
FEW_STRIPS = 4
"""Of tiles, up to which reading the weights takes longer than multiplying by them."""
SIZES = [
    "x", "u", "bias", "y", "r", "x_planes", "y_planes", "r_planes", "offsets", "planes", "K", "images", "tile_rows",
    "tile_cols", "height", "width", "x_image", "x_row", "y_image", "y_row", "y_side", "r_image", "r_row", "blocks_out",
    "T", "parts",
]  # fmt: skip
ARGUMENTS = [*SIZES, "v_point", "p_point", "scratch", "scratch_step"]
MIXED = ["maps", "bands", "full_rows", "full_cols"]
"""More arguments, where tiles are mixed."""
SUMS = ["sums"]
"""Where points have sums of their own: of each, the bytes of its first offset and weights, and how many there are."""


def streams_of(isa: Isa, processor: str, channels: int, cols: int, strips: int) -> int:
    """Xeons follow each stream of weights by itself: with 4, 10 % over one where weights are many and strips of tiles
    to multiply them by are few. Elsewhere one is 1 to 3 % over 4, measured: its next line takes one addition.
    """
    many = channels * cols * isa.lanes * 4 > L1_BYTES
    return 4 if strips <= FEW_STRIPS and many and not one_stream(processor) else 1


def lines_of(isa: Isa, cols: int, unroll: int, strips: int, mixed: bool) -> int:
    """Lines of the next weights that a turn asks for: so many that all of them have been when each strip of tiles has
    been multiplied by these; of `mixed` tiles about half the strips have some points. A single strip takes one line,
    for it gets its own no sooner.
    """
    if strips <= 1:
        return 1
    return -(-cols * unroll * isa.lanes * 4 // (64 * (strips // 2 if mixed else strips)))


class Epilogue(Placed, Protocol):
    """What the end of a kernel depends on."""

    @property
    def residual(self) -> bool: ...
    @property
    def activation(self) -> str: ...


@dataclass(frozen=True, slots=True)
class WinogradSpec:
    """What changes the instructions: the form, `apart` pixels between taps, the register tile, the epilogue. `unroll`:
    as in ConvSpec; `streams`, `lines`: in how many the next weights are fetched, and how many lines a turn; `pool`:
    "max" or "average" of 2 x 2 outputs, where a call asks for it; `every`: pixels from one output to the next of its
    row, as of a transposed convolution's phase; `mixed`: whether there are smaller tiles among the whole ones;
    `stride`: pixels from one input to the next of its row, as of a strided convolution's phase; `sums`: whether points
    sum over channels of their own.
    """

    form: Form
    apart: int
    rows: int
    cols: int
    rest: int
    unroll: int
    streams: int
    lines: int
    residual: bool
    activation: str
    params: int
    pool: str = ""
    every: int = 1
    mixed: bool = False
    stride: int = 1
    sums: bool = False

    def name(self, isa: Isa) -> str:
        """The kernel's name: its facts in order."""
        facts = ["f32", "winograd", str(self.form), *placed(self)]
        facts.append(f"{self.rows}x{self.cols}" + (f"r{self.rest}" if self.rest else "") + f"k{self.unroll}")
        facts += [f"s{self.streams}"] * (self.streams > 1) + [f"l{self.lines}"] * (self.lines > 1)
        facts += [f"pool_{self.pool}"] * bool(self.pool) + ["mixed"] * self.mixed + ["sums"] * self.sums
        return "_".join(facts + name_end(self.residual, self.activation)) + f"__{isa.name}"


def placed(spec: Placed) -> list[str]:
    """Parts of a kernel's name: pixels between its taps, its outputs, its inputs, where they are not 1."""
    parts = [("d", spec.apart), ("every", spec.every), ("step", spec.stride)]
    return [f"{word}{pixels}" for word, pixels in parts if pixels > 1]


def emit(spec: WinogradSpec, isa: Isa) -> tuple[str, str]:
    """Name and source of the kernel."""
    about = (
        "*_planes, offsets: tables; T: tiles in a block; *_point: bytes from point to point; the rest: sizes, strides"
    )
    arguments = [*ARGUMENTS, *(MIXED if spec.mixed else ()), *(SUMS if spec.sums else ())]
    out = Writer(spec.name(isa), arguments, about)
    parameters = write_parameters(out, spec.params, len(arguments), isa.lanes)
    vector, d, form = isa.lanes * 4, spec.apart, spec.form
    if spec.mixed:
        out(f"blocks = (images * {d * d} + maps - 1) // maps * bands")
    else:
        out("per_map = tile_rows * tile_cols", f"per_image = per_map * {d * d}", "total = images * per_image")
        out("blocks = (total + T - 1) // T")
    kinds = kinds_of(form) if spec.mixed else whole(form)
    out(f"tiles = (blocks_out + {spec.cols - 1}) // {spec.cols}", "facts = scratch + thread * scratch_step")
    out(f"v = facts + (T * {WORDS * 8} + 63) // 64 * 64", f"products = v + {form.points} * v_point")
    with out.share("blocks * parts", "item"):
        out("block = item // parts", "part = item - block * parts")
        if spec.mixed:
            begin_mixed(out, spec)
            add_mixed_facts(out, spec, vector)
        else:
            out("first = block * T", "count = total - first", "if count > T: count = T")
            out(f"strips = (count + {spec.rows - 1}) // {spec.rows}")
            with out.block("for t in range(count)"):
                add_facts(out, spec, vector)
        with out.block("for plane in range(planes)"):
            out("source = x + load_i64(x_planes, plane)", f"to = v + plane * T * {vector}", "follows = source")
            out("if plane + 1 < planes: follows = x + load_i64(x_planes, plane + 1)")
            for kind in kinds:
                with kind.each(out):
                    out(f"place = load_i64(facts, t * {WORDS})", "xp = source + place", "later = follows + place")
                    _ask_inputs(out, kind.form, d, d * spec.stride * vector)
                    sizes = f"{kind.form.rows}, {kind.form.columns}, {d * spec.stride}, {isa.lanes}"
                    point = f"{form.columns} * v_point, v_point"
                    out(f"winograd_input(xp, x_row * {d}, to + t * {vector}, {point}, {sizes})")
        out("begin = tiles * part // parts", "end = tiles * (part + 1) // parts", f"base = begin * {spec.cols}")
        with out.block(f"for point in range({form.points})"):
            if spec.sums:
                out("first_k = offsets + load_i64(sums, point * 3)", "K = load_i64(sums, point * 3 + 2)")
            if spec.mixed:
                choose_tiles(out, form)
                out(f"strips = (high - low + {spec.rows - 1}) // {spec.rows}")
            with out.block("for tile in range(begin, end)"):
                _multiply_tile(out, spec, isa)
        out(f"stop = end * {spec.cols}", "if stop > blocks_out: stop = blocks_out")
        with out.block("for q in range(base, stop)"):
            at = f"products + ((q - base) * T + t) * {vector}"
            finish(out, spec, isa, parameters, f"{at}, {form.columns} * p_point, p_point", kinds)
    return out.finish()


def _multiply_tile(out: Writer, spec: WinogradSpec, isa: Isa) -> None:
    vector = isa.lanes * 4
    out(f"block0 = tile * {spec.cols}")
    if spec.sums:
        out(f"weights = u + load_i64(sums, point * 3 + 1) + block0 * K * {vector}")
    else:
        out(f"weights = u + (point * blocks_out + block0) * K * {vector}")
    out(f"to = products + point * p_point + (block0 - base) * T * {vector}")
    if spec.mixed:
        out(f"to += low * {vector}")
    if spec.rest:
        with out.block(f"if block0 + {spec.cols} <= blocks_out"):
            _multiply(out, spec, isa, spec.cols)
        with out.block("else"):
            _multiply(out, spec, isa, spec.rest)
    else:
        _multiply(out, spec, isa, spec.cols)


def _ask_inputs(out: Writer, form: Form, d: int, pixel: int) -> None:
    """Ask for a tile's inputs in the next plane, those that the tiles before have not asked for: processors do not
    follow so many short rows by themselves. `pixel`: bytes from one to the next.
    """
    first = form.rows - form.down, form.columns - form.across
    across = -(-form.across // max(64 // pixel, 1))
    at = f"later + x_row * {first[0] * d} + {first[1] * pixel}"
    out(f"grid_fetch({at}, x_row * {d}, {form.down}, {across}, {max(pixel, 64)})")


def _ask_outputs(out: Writer, spec: WinogradSpec, vector: int, cols: int) -> None:
    """Ask for where a strip of tiles will be stored, at each point for a line of each tile: memory rests meanwhile."""
    form, pixel = spec.form, spec.apart * spec.every * vector
    step = max(64 // pixel, 1)
    lines = -(-form.across // step)
    with out.block(f"if point < y_side * {lines}"):
        out(f"i = point // {lines}", f"line = y + i * y_row * {spec.apart} + (point - i * {lines}) * {step * pixel}")
        out(*(f"at{q} = line + load_i64(y_planes, block0 + {q})" for q in range(cols)))
        first, last = ("low + ", "high") if spec.mixed else ("", "count")
        out(f"stop = {first}(strip + 1) * {spec.rows}", f"if stop > {last}: stop = {last}")
        with out.block(f"for t in range({first}strip * {spec.rows}, stop)"):
            out(f"later = load_i64(facts, t * {WORDS} + 1)")
            out(*(f"fetch(at{q} + later)" for q in range(cols)))


def _multiply(out: Writer, spec: WinogradSpec, isa: Isa, cols: int) -> None:
    """Products of one point: all tiles of the block by `cols` blocks of output channels."""
    vector = isa.lanes * 4
    with out.block("for strip in range(strips)"):
        out("wp = weights")
        # each strip fetches a share of the next weights, which follow these: `rate` bytes a turn, the streams in turn
        most = 64 * spec.lines
        out(f"rate = {cols * vector * spec.unroll} // strips + 1", f"if rate > {most}: rate = {most}")
        out(f"end_w = weights + K * {cols * vector}", f"stream = K * {cols * vector // spec.streams}")
        out(f"later0 = end_w + strip * (K // {spec.unroll * spec.streams}) * rate")
        out(*(f"later{i + 1} = later{i} + stream" for i in range(spec.streams - 1)))
        out(f"xp = v + point * v_point + strip * {spec.rows * vector}" + (f" + low * {vector}" if spec.mixed else ""))
        _ask_outputs(out, spec, vector, cols)
        count = "high - low" if spec.mixed else "count"
        for rows in conv.tile_rows(out, f"{count} - strip * {spec.rows}", spec.rows, cols == spec.cols):
            _strip(out, spec, isa, rows, cols)


def _strip(out: Writer, spec: WinogradSpec, isa: Isa, rows: int, cols: int) -> None:
    vector, acc = isa.lanes * 4, f"acc{rows}x{cols}"
    out(f"{acc} = tile_zero({rows}, {cols}, {isa.lanes})", "entry = first_k" if spec.sums else "entry = offsets")
    with out.block("while wp < end_w"):  # pointers alone, as in conv.py
        out(*(f"fetch(later0 + {64 * line})" if line else "fetch(later0)" for line in range(spec.lines)))
        for turn in range(spec.unroll):
            at_k, at_w = f"xp + load_i32(entry, {turn}) * 4", f"wp + {turn * cols * vector}"
            out(f"{acc} = tile_fma({acc}, {at_k}, {vector}, {at_w}, None, None)")
        out(f"wp += {spec.unroll * cols * vector}", f"entry += {4 * spec.unroll}")
        names = [f"later{i}" for i in range(spec.streams)]
        out(f"{', '.join(names)} = {', '.join([*names[1:], 'later0 + rate'])}")
    out(f"points_store({acc}, to + strip * {spec.rows * vector}, T * {vector})")


def finish(out: Writer, spec: Epilogue, isa: Isa, parameters: str, source: str, kinds: Sequence[Kind]) -> None:
    """Outputs of one block of channels q. `source`: where the products of tile t are, the bytes from one row of points
    to the next, and from one point to the next.
    """
    vector, d, gap = isa.lanes * 4, spec.apart, spec.apart * spec.every
    out(f"b = bias + q * {vector}", "yp = y + load_i64(y_planes, q)")
    if spec.residual:
        out("rp = r")
        with out.block("if r_planes != 0"):
            out("rp += load_i64(r_planes, q)")
    for kind in kinds:
        form = kind.form
        o = f"o{form.down}x{form.across}"  # one variable per shape: Numba gives a variable one type
        with kind.each(out):
            sizes = f"{form.down}, {form.across}, {form.rows}, {form.columns}, {isa.lanes}"
            out(f"at = t * {WORDS}", f"{o} = winograd_output({source}, b, {sizes})")
            if spec.residual:
                with out.block("if r_planes != 0"):
                    out(f"{o} = grid_add({o}, rp + load_i64(facts, at + 2), r_row * {d}, {form.across}, {gap})")
            if spec.activation:
                out(f"{o} = v_{spec.activation}({o}{parameters})")
            out("rows = load_i64(facts, at + 3)", "columns = load_i64(facts, at + 4)")
            place = f"yp + load_i64(facts, at + 1), y_row * {d}, {form.across}, {gap}"
            all_of_it = f"grid_store({o}, {place}, rows, columns)"
            if spec.pool:
                with out.block(f"if y_side < {form.down}"):
                    out(f"pooled = grid_pool({o}, {spec.pool == 'max'})")
                    place = f"yp + load_i64(facts, at + 1), y_row, {form.across // 2}, 1"
                    out(f"grid_store(pooled, {place}, rows // 2, columns // 2)")
                with out.block("else"):
                    out(all_of_it)
            else:
                out(all_of_it)
