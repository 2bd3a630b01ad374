"""Winograd's convolution of 3 x 3 kernels for few tiles: kernels are transformed in registers, on their way.

Where tiles are few, weights are read for few multiplications, and transformed ones are 16 / 9 or 36 / 9 times as many.
Here they stay as they are in memory. A step takes one input channel of a group of tiles and one block of output
channels: of one row of points, it combines the kernel's rows, then the points of that row, and multiplies each by all
tiles of the group. A chunk of input channels passes through all rows of points while its kernels lie in the first-level
cache; sums wait in scratch memory between chunks. Transforms of inputs and outputs are those of `winograd.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from convc.backends.cpu.activations import name_end, write_parameters
from convc.backends.cpu.isa import Isa, one_stream
from convc.backends.cpu.winograd import SIZES, finish, placed
from convc.backends.cpu.winograd_points import Form
from convc.backends.cpu.winograd_tiles import WORDS, add_facts, add_pair_facts, begin_pairs, kinds_of_pairs, whole
from convc.backends.cpu.writer import Writer

ARGUMENTS = [*SIZES, "v_row", "v_group", "scratch", "scratch_step"]
PAIRS = ["pairs"]
"""One more argument where tiles may be mixed: 1 where they are, else 0."""

KERNEL = (3, 3)
CHUNK = 32
"""Input channels of a chunk: 18 KB of kernels of 16 lanes."""


@dataclass(frozen=True, slots=True)
class FewSpec:
    """What changes the instructions: the form, `apart` pixels between taps, `every` and `stride` as in WinogradSpec,
    tiles of a group, in how many streams the next kernels are fetched, the epilogue; `mixed`: whether a call may say
    that each group is a map of 2 x 2 tiles, smaller ones among them.
    """

    form: Form
    apart: int
    together: int
    streams: int
    residual: bool
    activation: str
    params: int
    pool: str = ""
    every: int = 1
    stride: int = 1
    mixed: bool = False

    def name(self, isa: Isa) -> str:
        """The kernel's name: its facts in order."""
        facts = ["f32", "winograd", str(self.form), "few", *placed(self)]
        facts += [f"pool_{self.pool}"] * bool(self.pool)
        facts += [f"{self.form.rows}x{self.together}s{self.streams}"] + ["mixed"] * self.mixed
        return "_".join(facts + name_end(self.residual, self.activation)) + f"__{isa.name}"


def streams_of(processor: str) -> int:
    """Of the next kernels. Xeons follow each by itself: two are 20 % over one and 2 to 3 over three. Zen seems to drop
    what it is asked for while it waits for as much as it can: in four streams, lines are asked for two or three times,
    and 512 channels of 7x7 with cold weights take 0.76 ms in the place of 0.89.
    """
    return 4 if one_stream(processor) else 2


def together(isa: Isa, form: Form) -> int:
    """Tiles of a group: as many as leave registers for three rows of a kernel and the points that come of them."""
    return max((isa.registers - 4) // form.rows, 1)


def emit(spec: FewSpec, isa: Isa) -> tuple[str, str]:
    """Name and source of the kernel."""
    about = "*_planes, offsets: tables; T: tiles in a block; v_row: bytes from one row of points to the next; v_group: "
    about += "from one\ngroup of tiles to the next; the rest: sizes, strides"
    arguments = [*ARGUMENTS, *(PAIRS if spec.mixed else ())]
    out = Writer(spec.name(isa), arguments, about)
    parameters = write_parameters(out, spec.params, len(arguments), isa.lanes)
    vector, d, g, n = isa.lanes * 4, spec.apart, spec.together, spec.form.rows
    kinds = kinds_of_pairs(spec.form) if spec.mixed else whole(spec.form)
    out("per_map = tile_rows * tile_cols", f"per_image = per_map * {d * d}", "total = images * per_image")
    out("blocks = (total + T - 1) // T", "facts = scratch + thread * scratch_step")
    out(f"v = facts + (T * {WORDS * 8} + 63) // 64 * 64", f"products = v + (T + {g - 1}) // {g} * v_group")
    with out.share("blocks * parts", "item"):
        out("block = item // parts", "part = item - block * parts", "first = block * T", "count = total - first")
        out("if count > T: count = T", f"groups = (count + {g - 1}) // {g}")
        if spec.mixed:
            with out.block("if pairs == 1"), out.block("for t in range(count)"):
                add_pair_facts(out, spec, vector)
            with out.block("if pairs == 0"), out.block("for t in range(count)"):
                add_facts(out, spec, vector)
            begin_pairs(out)
        else:
            with out.block("for t in range(count)"):
                add_facts(out, spec, vector)
        with out.block("for plane in range(planes)"):
            out("source = x + load_i64(x_planes, plane)")
            for kind in kinds:
                with kind.each(out):
                    out(f"group = t // {g}", f"to = v + group * v_group + plane * {n * g * vector}")
                    out(f"xp = source + load_i64(facts, t * {WORDS})", f"to += (t - group * {g}) * {vector}")
                    sizes = f"{kind.form.rows}, {kind.form.columns}, {d * spec.stride}, {isa.lanes}"
                    out(f"winograd_input(xp, x_row * {d}, to, v_row, {g * vector}, {sizes})")
        out("begin = blocks_out * part // parts", "end = blocks_out * (part + 1) // parts")
        with out.block("for q in range(begin, end)"):
            _multiply(out, spec, isa)
            at = f"products + (t // {g}) * {n * n * g * vector} + (t - t // {g} * {g}) * {n * vector}"
            finish(out, spec, isa, parameters, f"{at}, {n * g * vector}, {vector}", kinds)
    return out.finish()


def _multiply(out: Writer, spec: FewSpec, isa: Isa) -> None:
    """Products of all tiles of the block and one block of output channels, summed over all input channels."""
    vector, g, n = isa.lanes * 4, spec.together, spec.form.rows
    line = n * g * vector
    out(f"weights = u + q * K * {9 * vector}", "start = 0")
    with out.block("while start < K"):
        out(f"stop = start + {CHUNK}", "if stop > K: stop = K", f"ahead = weights + stop * {9 * vector}")
        # the first group fetches the kernels of the next chunk, which follow these, in streams
        out(f"rate = {9 * vector // n // spec.streams + 1}", "later = ahead")
        with out.block("for group in range(groups)"), out.block(f"for row in range({n})"):
            out("xp = v + group * v_group + row * v_row")
            out(f"sum = products + (group * {n} + row) * {line}", f"wp = weights + start * {9 * vector}")
            out("end_w = ahead", "entry = offsets + start * 4")
            with out.block("if start == 0"):
                out(f"acc = tile_zero({n}, {g}, {isa.lanes})")
            with out.block("else"):
                out(f"acc = tile_load(sum, {n}, {g}, {isa.lanes})")
            for row in range(n):  # a loop each, whose factors are known: most are additions
                with out.block(f"if row == {row}"):
                    if spec.mixed:
                        with out.block("if pairs == 1"):
                            _steps(out, spec, isa, row, True)
                        with out.block("else"):
                            _steps(out, spec, isa, row, False)
                    else:
                        _steps(out, spec, isa, row, False)
            out(f"points_store(acc, sum, {n * vector})", f"if row == {n - 1}: rate = 0")
        out("start = stop")


def _steps(out: Writer, spec: FewSpec, isa: Isa, row: int, pairs: bool) -> None:
    vector = isa.lanes * 4
    with out.block("while wp < end_w"):  # one step a turn: with two, LLVM spills accumulators
        out(f"grid_fetch(later, {CHUNK * 9 * vector // spec.streams}, {spec.streams}, 1, 64)")
        out(f"acc = points_fma(acc, xp + load_i32(entry, 0) * 4, wp, {row}, {pairs})")
        out(f"wp += {9 * vector}", "entry += 4", "later += rate")
