"""The convolution kernel: one register tile over a table of offsets.

y[p, o] = activation(bias[o] + residual[p, o] + sum over k of x[p * step + offset[k]] * w[k, o])

A tile is `rows` pixels x `cols` blocks of lanes. The table lists, for every k = (input channel, tap), how far its
float lies from the pixel; so kernel size, dilation, groups, the order and the place of input channels are data, and
a channel shuffle costs nothing. `dense` broadcasts one float a pixel; `lanes` multiplies lane by lane (depthwise, and
grouped with a group a lane). Rows that end within a tile are handled by a tile of half the pixels, or by a tile that
computes beyond the row and does not store. The sum runs over k in the table's order, whatever the tile or thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from convc.backends.cpu.activations import name_end, write_parameters
from convc.backends.cpu.isa import TYPICAL, Isa, Speed, one_stream
from convc.backends.cpu.writer import Writer

ARGUMENTS = [
    "x", "w", "bias", "y", "y_planes", "r", "r_planes", "offsets", "K", "images", "rows", "width", "wrap",
    "x_image", "x_row", "x_wrap", "x_step", "y_image", "y_row", "y_wrap", "y_step",
    "r_image", "r_row", "r_wrap", "r_step", "groups", "group_blocks", "full_tiles", "panels", "chunk", "scratch",
    "scratch_step",
]  # fmt: skip

AHEAD = ["x_planes", "x_count", "scale", "shift", "stage_at", "stage_plane"]
"""More arguments, of a kernel with a prologue (`conv_ahead.py`)."""

L1_BYTES = 28 << 10
"""Weights of a tile that stay in the first-level cache, beside the pixels."""
FAR_BYTES = 128 << 10
"""Weights of a tile above which they are cut into chunks that stay there: 10 % on 512 channels of 7x7, measured. Below,
loading and storing the sums costs as much as it saves.
"""


@dataclass(frozen=True, slots=True)
class ConvSpec:
    """What changes a convolution kernel's instructions. `step`: bytes between input pixels, 0 if given at run time.
    `unroll`: k-steps a turn of the loop, of which the number of steps is a multiple. `gap`: see `conv_window.py`;
    `outputs`: see `conv_dot.py`. `soon`: there is one tap, and the pixels of the next tile are fetched. `ahead`: the
    activation of a prologue, "" for scale and shift alone; the pixels of a panel then lie in the thread's memory.
    `streams`: in which the next weights are fetched; `lines`: how many of them a turn asks for at most.
    """

    mode: str
    step: int
    rows: int
    cols: int
    rest: int
    unroll: int
    residual: bool
    activation: str
    params: int
    gap: int = 0
    outputs: int = 0
    soon: bool = False
    ahead: str | None = None
    streams: int = 2
    lines: int = 1

    @property
    def pixel(self) -> str:
        """The variable that says where a tile's first pixel is read."""
        return "xp" if self.ahead is None else "staged_at"

    @property
    def entry(self) -> int:
        """Bytes of an entry of the table: an offset and, with `soon`, that of the float to be fetched."""
        return 8 if self.soon else 4

    def name(self, isa: Isa) -> str:
        """The kernel's name: its facts in order."""
        facts = ["f32", "conv" if self.mode == "dense" else f"conv_{self.mode}", f"step{self.step or 'n'}"]
        facts += [f"after_{self.ahead or 'scale'}"] * (self.ahead is not None)
        facts += [f"gap{self.gap}"] * (self.gap > 0) + [f"to{self.outputs}"] * (self.outputs > 0)
        tile = f"{self.rows}x{self.cols}" + (f"r{self.rest}" if self.rest else "")
        facts.append(tile + f"k{self.unroll}" + "p" * self.soon + "s1" * (self.streams == 1))
        facts += [f"l{self.lines}"] * (self.lines > 1)
        return "_".join(facts + name_end(self.residual, self.activation)) + f"__{isa.name}"


Panel = Callable[[Writer, ConvSpec, Isa, int, str], None]
Stage = Callable[[Writer, ConvSpec, Isa], None]


def emit(spec: ConvSpec, isa: Isa, panel: Panel | None = None, stage: Stage | None = None) -> tuple[str, str]:
    """Name and source of the kernel. `panel` writes what is done with the tiles `first` to `end` of one panel, `stage`
    what is done first with their pixels, once for all tiles of outputs that a thread computes of them.
    """
    write = panel or _panel
    arguments = [*ARGUMENTS, *(AHEAD if stage else ())]
    out = Writer(spec.name(isa), arguments, "*_planes, offsets: tables; the rest: addresses, sizes, byte strides")
    parameters = write_parameters(out, spec.params, len(arguments), isa.lanes)
    out(
        f"per_row = (width + {spec.rows - 1}) // {spec.rows}",
        "per_image = rows * per_row",
        "total = images * per_image",
    )
    out("tiles = full_tiles + 1" if spec.rest else "tiles = full_tiles")
    if stage:
        out("stage = scratch + thread * scratch_step + stage_at", "staged = -1")
    with out.share("panels * groups * tiles", "item"):
        out("part = item // (groups * tiles)", "tile = item - part * (groups * tiles)")
        out("group = tile // tiles", f"block = group * group_blocks + (tile - group * tiles) * {spec.cols}")
        out(f"table = offsets + group * K * {spec.entry}", f"weights = w + block * K * {isa.lanes * 4}")
        out(f"b = bias + block * {isa.lanes * 4}", "yt = y_planes + block * 8")
        if spec.residual:
            out("rt = r_planes + block * 8")
        out(
            "first = total * part // panels",
            "end = total * (part + 1) // panels",
            "sums = scratch + thread * scratch_step",
        )
        if stage:
            with out.block("if part != staged"):
                stage(out, spec, isa)
                out("staged = part")
        if spec.rest:
            with out.block("if tile - group * tiles < full_tiles"):
                write(out, spec, isa, spec.cols, parameters)
            with out.block("else"):
                write(out, spec, isa, spec.rest, parameters)
        else:
            write(out, spec, isa, spec.cols, parameters)
    return out.finish()


def _panel(out: Writer, spec: ConvSpec, isa: Isa, cols: int, parameters: str) -> None:
    # Weights of `chunk` steps stay in the first-level cache while they meet all pixels of the panel.
    out("begin = 0")
    with out.block("while begin < K or begin == 0"):
        out("stop = begin + chunk", "if stop > K: stop = K")
        _chunk(out, spec, isa, cols, parameters)
        out("begin = begin + chunk")


def _chunk(out: Writer, spec: ConvSpec, isa: Isa, cols: int, parameters: str) -> None:
    size = cols * isa.lanes * 4
    # each tile of pixels fetches a share of the next weights, which follow these: `rate` bytes a turn in each stream
    lines, streams = spec.lines, min(spec.unroll, spec.streams)
    out("span = end - first", "if span < 1: span = 1", f"rate = {size * spec.unroll // streams} // span + 1")
    out(f"if rate > {lines * 64}: rate = {lines * 64}", f"share = (stop - begin) // {spec.unroll} * rate")
    out(f"stream = (stop - begin) // {streams} * {size}")
    begin_tiles(out, spec, isa)
    out(f"sum = sums - {spec.rows * spec.cols * isa.lanes * 4}")
    if spec.ahead is not None:
        out("staged_at = stage")
    with out.block("for i in range(first, end)"):
        out(f"wp = weights + begin * {size}", f"end_w = weights + stop * {size}")
        out(f"entry = table + begin * {spec.entry}", "later = end_w + (i - first) * share")
        out(f"sum += {spec.rows * spec.cols * isa.lanes * 4}")
        if spec.soon:
            out("xn = xp + x_along", f"if count <= {spec.rows}: xn = x_next")
        for rows in tile_rows(out, "count", spec.rows, cols == spec.cols):
            _tile(out, spec, isa, rows, cols, parameters)
        next_tile(out, spec)
        if spec.ahead is not None:
            out(f"staged_at += {spec.rows * isa.lanes * 4}")


def begin_tiles(out: Writer, spec: ConvSpec, isa: Isa) -> None:
    """Where the panel's first tile lies: image, row, and pixel of a row, which are lines of `wrap` pixels; `col`: in
    its line. Its first pixel is read at xp, written at yp, added to at rp; `count`: pixels to the end of the row.
    """
    out("image = first // per_image", "j = first - image * per_image", "row = j // per_row")
    out(f"at = (j - row * per_row) * {spec.rows}", "line = at // wrap", "col = at - line * wrap", "count = width - at")
    out(f"x_along = {spec.step or 'x_step'} * {spec.rows}", f"x_gap = x_wrap - wrap * {spec.step or 'x_step'}")
    out(f"y_along = y_step * {spec.rows}", "y_gap = y_wrap - wrap * y_step")
    steps = f"y_step == {isa.lanes * 4}"
    if spec.residual:
        out(f"r_along = r_step * {spec.rows}", "r_gap = r_wrap - wrap * r_step")
        steps += f" and (r_planes == 0 or r_step == {isa.lanes * 4})"
    out(f"edge = wrap if {steps} else -1")  # of the columns up to which pixels lie one after the other
    _place_row(out, spec)
    out(f"xp += line * x_wrap + col * {spec.step or 'x_step'}", "yp += line * y_wrap + col * y_step")
    if spec.residual:
        out("rp += line * r_wrap + col * r_step")


def _place_row(out: Writer, spec: ConvSpec) -> None:
    out("xp = x + image * x_image + row * x_row", "yp = image * y_image + row * y_row")
    if spec.residual:
        out("rp = image * r_image + row * r_row")
    if spec.soon:
        out("x_next = x + image * x_image + (row + 1) * x_row")
        out("if row + 1 == rows: x_next = x + (image + 1) * x_image")


def next_tile(out: Writer, spec: ConvSpec) -> None:
    """The next tile's place, by additions within a row: what lies between two tiles costs as much as multiplying."""
    out(f"count -= {spec.rows}", f"col += {spec.rows}", "xp += x_along", "yp += y_along")
    if spec.residual:
        out("rp += r_along")
    with out.block("if count <= 0"):
        out("count = width", "col = 0", "row += 1")
        with out.block("if row == rows"):
            out("row = 0", "image += 1")
        _place_row(out, spec)
    with out.block("while col >= wrap"):
        out("col -= wrap", "xp += x_gap", "yp += y_gap")
        if spec.residual:
            out("rp += r_gap")


def finish_tile(out: Writer, spec: ConvSpec, isa: Isa, acc: str, rows: int, parameters: str) -> None:
    """Residual, activation, and the outputs of a tile stored: plainly, where its pixels follow each other."""
    out(f"even = col + {rows} <= edge and count >= {rows}")
    evenly = f"{isa.lanes * 4}, None, None, None"
    if spec.residual:
        with out.block("if r_planes != 0"):
            with out.block("if even"):
                out(f"{acc} = tile_add({acc}, r, rt, rp, {evenly})")
            with out.block("else"):
                out(f"{acc} = tile_add({acc}, r, rt, rp, r_step, col, wrap, r_gap)")
    if spec.activation:
        out(f"{acc} = v_{spec.activation}({acc}{parameters})")
    with out.block("if even"):
        out(f"tile_store({acc}, y, yt, yp, {evenly}, {rows})")
    with out.block("else"):
        out(f"tile_store({acc}, y, yt, yp, y_step, col, wrap, y_gap, count)")


def _tile(out: Writer, spec: ConvSpec, isa: Isa, rows: int, cols: int, parameters: str) -> None:
    # one register variable per tile shape: Numba gives a variable one type
    acc, vector, step = f"acc{rows}x{cols}", isa.lanes * 4, spec.step or "x_step"
    with out.block("if begin == 0"):
        out(f"{acc} = tile_bias(b, {rows}, {cols}, {isa.lanes})")
    with out.block("else"):
        out(f"{acc} = tile_load(sum, {rows}, {cols}, {isa.lanes})")
    if spec.residual:  # 2 to 5 % where it comes from beyond the second-level cache
        with out.block("if r_planes != 0"):
            out(f"tile_fetch(r, rt, rp, r_step, {rows}, {cols})")
    size, streams = cols * vector, min(spec.unroll, spec.streams)
    fetching = {-(-stream * spec.unroll // streams): f"later + {stream} * stream" for stream in range(streams)}
    with out.block("while wp < end_w"):  # pointers alone: additions for anything else take places of multiply-adds
        for turn in range(spec.unroll):
            at_later = fetching.get(turn, "None")
            for line in range(1, spec.lines if turn in fetching else 0):
                out(f"fetch({at_later} + {64 * line})")
            at_k, at_w = f"{spec.pixel} + load_i32(entry, {turn * spec.entry // 4}) * 4", f"wp + {turn * size}"
            if spec.mode == "dense":
                new_line = spec.step >= 64 or turn * (spec.step or 64) % 64 == 0  # else the pixel before is in it, too
                at_soon = f"xn + load_i32(entry, {2 * turn + 1}) * 4" if spec.soon and new_line else "None"
                out(f"{acc} = tile_fma({acc}, {at_k}, {step}, {at_w}, {at_later}, {at_soon})")
            else:
                out(f"{acc} = tile_fma_lanes({acc}, {at_k}, {step}, {at_w}, {at_later})")
        out(f"wp += {spec.unroll * size}", f"entry += {spec.unroll * spec.entry}", "later += rate")
    with out.block("if stop < K"):
        out(f"points_store({acc}, sum, {rows * vector})")
    with out.block("else"):
        finish_tile(out, spec, isa, acc, rows, parameters)


def half_rows(rows: int, whole: bool) -> int:
    """Rows of the smaller tile that ends a row of pixels. The blocks of channels that are left over, not a `whole`
    tile's, have none, to save compiling it; but a tile of 2 rows must read no pixel that is not there.
    """
    return (rows + 1) // 2 if whole or rows <= 2 else rows


def tile_rows(out: Writer, left: str, rows: int, whole: bool) -> Iterator[int]:
    """Rows of the tile to write: of the one for `rows` pixels, and of the smaller one where `left` pixels fit it."""
    half = half_rows(rows, whole)
    if half == rows:
        yield rows
        return
    with out.block(f"if {left} > {half}"):
        yield rows
    with out.block("else"):
        yield half


def unroll_of(isa: Isa, mode: str, count: int) -> int:
    """How many of `count` k-steps one turn of the loop takes: their addresses cost what multiply-adds could use."""
    wanted = (isa.unroll, 2, 3) if mode == "dense" else (3, 5, 7, 2)
    return next((steps for steps in wanted if count and count % steps == 0), 1)


def lines_of(turn: int, streams: int, tiles: int) -> int:
    """Lines of the next weights that a turn, which multiplies by so many bytes, asks for at most in each stream: a
    quarter, or as many as few tiles of pixels must ask for to have asked for all.
    """
    usual = max(turn // 256 // streams, 1)
    return max(-(-turn // (64 * tiles * streams)), usual) if 1 < tiles <= 4 else usual


def streams_for(processor: str) -> int:
    """In how many streams a processor, by LLVM's name, is asked for weights. Xeons follow each by itself, and take two
    sooner than one; on Zen 4 one is 1.02 of the speed of Inception v3, 1.11 of DCGAN's.
    """
    return 1 if one_stream(processor) else 2


def chunk_steps(count: int, step_bytes: int, unroll: int = 1) -> int:
    """Of `count` k-steps, how many pass before the next pixels: all, unless their weights are too many to be read from
    the second-level cache for each tile of pixels. A multiple of `unroll`.
    """
    if count * step_bytes <= FAR_BYTES:
        return max(count, 1)
    chunks = -(-count * step_bytes // L1_BYTES)
    return -(-count // (chunks * unroll)) * unroll


def step_cycles(
    rows: int, cols: int, count: int, vector: int, speed: Speed = TYPICAL, *, chunked: bool = True
) -> float:
    """Estimated cycles of one of `count` k-steps of one tile, of vectors of so many bytes.

    The larger of the multiply-adds' and rows / 2 + cols + 1 (loads, and weights asked for ahead, two of each starting
    in a cycle), at least the latency of 4, and half a cycle for the loop. Weights that do not stay in the first-level
    cache take as long as reading them from the second; where they are cut into chunks, sums are loaded and stored for
    each. `chunked`: whether a kernel may cut them.
    """
    chunk = chunk_steps(count, cols * vector) if chunked else count
    far = cols * vector / speed.near if chunk * cols * vector > L1_BYTES else 0.0
    sums = 1.5 * rows * cols / chunk if chunk < count else 0.0
    return max(rows * cols / speed.multiply_adds, rows / 2 + cols + 1, 4.0, far) + 0.5 + sums


def tile_cycles(
    isa: Isa, tile: tuple[int, int], group_blocks: int, count: int, width: int, lines: int, speed: Speed = TYPICAL
) -> float:
    """Estimated cycles of a k-step, one of `count`, over `lines` rows of `width` pixels and one group's blocks."""
    rows, cols = tile
    vector = isa.lanes * 4
    full, left = divmod(width, rows)
    whole, rest = divmod(group_blocks, cols)
    total = 0.0
    for blocks, times in ((cols, whole), (rest, 1)):
        half = half_rows(rows, blocks == cols)
        if blocks and times:
            total += times * full * step_cycles(rows, blocks, count, vector, speed)
            if left:
                some = rows if left > half else half
                total += times * step_cycles(some, blocks, count, vector, speed)
    return total * lines


def choose_tile(isa: Isa, group_blocks: int, count: int, width: int, lines: int) -> tuple[int, int]:
    """The register tile with the fewest estimated cycles for `lines` rows of `width` pixels and one group's blocks."""
    fitting = [t for t in isa.tiles if t[1] <= group_blocks] or [(isa.tiles[-1][0], 1)]
    return min(fitting, key=lambda tile: (tile_cycles(isa, tile, group_blocks, count, width, lines), tile[0]))


def tiles_of(group_blocks: int, cols: int) -> Sequence[int]:
    """Blocks in each tile of a group: full ones, then the rest."""
    full, rest = divmod(group_blocks, cols)
    return [cols] * full + ([rest] if rest else [])
