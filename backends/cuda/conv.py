"""The implicit-GEMM convolution: y[m, n] = sum over k of x[m, k] w[n, k], over pixels m, outputs n, taps and lanes k.

A block takes a tile of pixels x outputs. Asynchronous copies of 16 bytes bring rows of x and w, `bk` of k at a time,
into a ring of `stages` slots in shared memory; rows are 16 bytes longer than their data, which spreads them over the
banks. Where a pixel's factors lie is data: thread t of a row reads entry t of the table of taps (lane, row and column
offset), one step ahead of its use, so kernel size, dilation, padding and transposition cost the same. A copy that would
leave the image, or belongs to no pixel or output, fills zeros. Warps multiply by tensor cores (`mma.sync`, fragments
through `ldmatrix`), or, in strict float32, by fused multiply-adds on 8 x 8 outputs a thread. All sums are float32, and
run in the same order for every pixel. One text serves float32, tf32, float16 and bfloat16: a step of k is 32 bytes.
"""

from __future__ import annotations

from convc.backends.cuda.epilogue import arguments as epilogue_arguments
from convc.backends.cuda.epilogue import name_of as epilogue_name
from convc.backends.cuda.epilogue import parameter_arguments, write_prepare, write_rows
from convc.backends.cuda.machines import Machine
from convc.backends.cuda.spec import ELEMENT, STORAGE, VECTOR, ConvSpec
from convc.backends.cuda.writer import Writer

FAR = -(1 << 20)
"""The row of a pixel that is none: outside of any image, for any tap."""


def name_of(spec: ConvSpec, arch: str = "") -> str:
    """The kernel's name: its facts in order."""
    parts = [spec.math, "conv2d" if spec.window else "conv1x1", str(spec.tile)]
    if spec.scatter:
        parts.append("scatter")
    parts.append("partial" if spec.partial else epilogue_name(spec.math, spec.epilogue))
    return "_".join(p for p in parts if p) + (f"__{arch}" if arch else "")


def row_bytes(spec: ConvSpec) -> int:
    """Bytes from row to row of a slot."""
    return spec.tile.bk * ELEMENT[spec.math] + 16


def slot_bytes(spec: ConvSpec) -> int:
    """Bytes of a slot: bm rows of x, bn rows of w."""
    return (spec.tile.bm + spec.tile.bn) * row_bytes(spec)


def sum_words(spec: ConvSpec) -> int:
    """Words from row to row of the sums in shared memory: 8 or 4 more than a row keep the writes free of conflicts."""
    return spec.tile.bn + (4 if spec.math == "f32" else 8)


def shared_bytes(spec: ConvSpec) -> int:
    """Shared memory of a block: the ring, and, after it, the sums in the same place."""
    return max(spec.tile.stages * slot_bytes(spec), spec.tile.bm * sum_words(spec) * 4)


WINDOW = ("height", "width", "x_image", "x_row", "ow_factor", "ow_shift", "ow", "oh_factor", "oh_shift", "oh",
          "stride_h", "stride_w", "pad_h", "pad_w")  # fmt: skip


def arguments(spec: ConvSpec) -> list[str]:
    """The kernel's arguments, "name: kind"."""
    storage = STORAGE[spec.math]
    found = [f"x: {storage}*", f"w: {storage}*"]
    if spec.window:
        found.append("taps: i32*")
    if spec.partial:
        found.append("work: f32*")
    else:
        found += epilogue_arguments(spec.math, spec.epilogue)
    numbers = ["pixels", "channels", "outputs", "padded_outputs", "x_pixel", "depth", "steps", "tiles_factor",
               "tiles_shift", "tiles"]  # fmt: skip
    numbers += WINDOW if spec.window else ()
    if spec.partial:
        numbers += ["splits", "split_steps", "work_pitch"]
    else:
        numbers.append("y_pixel")
        numbers += ["residual_pixel"] if spec.epilogue.residual else []
        if spec.scatter:
            numbers += [] if spec.window else ["ow_factor", "ow_shift", "ow", "oh_factor", "oh_shift", "oh"]
            numbers += ["y_image", "y_row"]
            numbers += ["residual_image", "residual_row"] if spec.epilogue.residual else []
    params = [] if spec.partial else parameter_arguments(spec.epilogue.activation)
    return [*found, *(f"{n}: i32" for n in numbers), *params]


def registers(spec: ConvSpec) -> int:
    """Registers that a thread gets along with: its sums, a step of factors, and addresses."""
    tile = spec.tile
    sums, rows, columns = tile.wm * tile.wn // 32, tile.wm // 8, tile.wn // 8
    need = sums + (4 * rows + 8 + 64 if spec.math == "f32" else 2 * rows + 2 * columns + 40)
    return min(-(-need // 8) * 8, 255)


def resident(spec: ConvSpec, where: Machine) -> int:
    """Blocks that a multiprocessor holds at once; 0 where one does not fit."""
    return where.resident(spec.tile.threads, registers(spec), shared_bytes(spec))


def emit(spec: ConvSpec, arch: str = "") -> tuple[str, str]:
    """Name and source. The text says how many registers are enough, so that a compiler for a GPU can bound them."""
    tile = spec.tile
    about = (
        f"{tile.bm} pixels x {tile.bn} outputs a block, {tile.bk} of k a step, {tile.stages} slots of "
        f"{slot_bytes(spec)} bytes; {tile.threads // 32} warps of {tile.wm} x {tile.wn}"
    )
    out = Writer(name_of(spec, arch), arguments(spec), about, tile.threads)
    _Emitter(spec, out).write()
    name, source = out.finish()
    needs = f"{tile.threads} threads, {registers(spec)} registers, {shared_bytes(spec)} bytes"
    return name, source.replace(f'"{tile.threads} threads"', f'"{needs}"', 1)


class _Emitter:
    """Writes one kernel, in the order in which it runs."""

    def __init__(self, spec: ConvSpec, out: Writer) -> None:
        self.spec, self.out, self.tile = spec, out, spec.tile
        self.row = row_bytes(spec)
        self.slot = slot_bytes(spec)
        self.vector = VECTOR[spec.math]
        self.chunks = spec.tile.bk // self.vector
        self.rows = spec.tile.threads // self.chunks
        """Rows that all threads copy at once."""
        self.lanes = (8, 4) if spec.math == "f32" else (16, 8)
        """Rows and columns of a warp's tile that its lanes hold one sum each of, or four."""
        self.copy = f"copy_b32x{self.vector}" if ELEMENT[spec.math] == 4 else f"copy_b16x{self.vector}"
        assert spec.tile.bm % self.rows == 0 and spec.tile.bn % self.rows == 0, f"{tile_text(spec)}: too many threads"

    def write(self) -> None:
        out, tile = self.out, self.tile
        self._place()
        self._rows_of_x()
        self._rows_of_w()
        self._fragments()
        out("kg = start", f"wr = i32({(tile.stages - 1) * self.slot})", "rd = i32(0)")
        if self.spec.window:
            self._next_tap("kg")
        for stage in range(tile.stages - 1):
            self._copies(str(stage * self.slot))
        out("step = start")
        with out.block("while step < end"):
            out(f"wait({tile.stages - 2})", "barrier()")
            self._copies("wr")
            self._multiply()
            for at in ("rd", "wr"):
                out(f"{at} = select({at} == {(tile.stages - 1) * self.slot}, 0, {at} + {self.slot})")
            out("step = step + 1")
        out("wait(0)", "barrier()")
        self._keep_sums()
        out("barrier()")
        write_prepare(out, self.spec)
        write_rows(out, self.spec, sum_words(self.spec))

    def _place(self) -> None:
        """Which tile, group and part of k this block has; which warp, lane, row and chunk this thread."""
        out, tile = self.out, self.tile
        across = tile.bn // tile.wn
        out("tid = thread()", "lane = tid & 31", "warp = tid >> 5", "base = shared()")
        out("tile_m = fastdiv(block_x(), tiles_factor, tiles_shift)", "tile_n = block_x() - tile_m * tiles")
        out(f"m0 = tile_m * {tile.bm}", f"n0 = tile_n * {tile.bn}")
        out(f"wm = (warp >> {_log2(across)}) * {tile.wm}", f"wn = (warp & {across - 1}) * {tile.wn}")
        out(f"lr = tid >> {_log2(self.chunks)}", f"lc = tid & {self.chunks - 1}")
        if self.spec.partial:
            out("group = udiv(block_z(), splits)", "split = block_z() - group * splits", "start = split * split_steps",
                "end = select(start + split_steps < steps, start + split_steps, steps)")  # fmt: skip
        else:
            out("group = block_z()", "start = i32(0)", "end = steps")

    def _rows_of_x(self) -> None:
        out = self.out
        out(f"sa = base + lr * {self.row} + lc * 16")
        for i in range(self.tile.bm // self.rows):
            out(f"m = m0 + lr + {i * self.rows}", f"live{i} = inside(m, pixels)")
            if not self.spec.window:
                out(f"x{i} = m * x_pixel + group * channels + lc * {self.vector}")
                continue
            out("q = fastdiv(m, ow_factor, ow_shift)", "n = fastdiv(q, oh_factor, oh_shift)")
            out(f"ih{i} = (q - n * oh) * stride_h - pad_h", f"iw{i} = (m - q * ow) * stride_w - pad_w")
            out(f"x{i} = n * x_image + ih{i} * x_row + iw{i} * x_pixel + group * channels")
            out(f"ih{i} = select(live{i}, ih{i}, {FAR})")

    def _rows_of_w(self) -> None:
        out = self.out
        out(f"sb = base + {self.tile.bm * self.row} + lr * {self.row} + lc * 16")
        for i in range(self.tile.bn // self.rows):
            out(f"n = n0 + lr + {i * self.rows}", f"wanted{i} = inside(n, outputs)")
            out(f"w{i} = (group * outputs + n) * depth + lc * {self.vector}")

    def _fragments(self) -> None:
        """Where this lane's part of its warp's rows begins, and the sums at zero."""
        out, tile = self.out, self.tile
        b = tile.bm * self.row
        if self.spec.math == "f32":
            out(f"fa = base + (wm + (lane & 7)) * {self.row}", f"fb = base + {b} + (wn + (lane >> 3)) * {self.row}")
        else:
            out(f"fa = base + (wm + (lane & 15)) * {self.row} + (lane >> 4) * 16")
            out(f"fb = base + {b} + (wn + (lane & 7) + (lane >> 4) * 8) * {self.row} + ((lane >> 3) & 1) * 16")
        out(f"sums = zeros({tile.wm * tile.wn // 32})")

    def _next_tap(self, at: str) -> None:
        """Read the entry of the table for step `at`: lane, and row and column offsets in the halves of a word."""
        self.out(f"tap = load_i32x2({at} < end, taps, ({at} * {self.chunks} + lc) * 2)")

    def _copies(self, slot: str) -> None:
        """Begin the copies of step kg into a slot, and read the table's entry of the next."""
        out, spec = self.out, self.spec
        out("more = kg < end", f"ka = kg * {self.tile.bk}")
        if spec.window:
            out("dh = tap[1] >> 16", "dw = (tap[1] << 16) >> 16", "off = dh * x_row + dw * x_pixel + tap[0]")
        else:
            out(f"deep = more & inside(ka + lc * {self.vector}, channels)")
        for i in range(self.tile.bm // self.rows):
            place = f"sa + {slot} + {i * self.rows * self.row}"
            if spec.window:
                inside = f"more & inside(ih{i} + dh, height) & inside(iw{i} + dw, width)"
                out(f"{self.copy}({inside}, {place}, x, x{i} + off)")
            else:
                out(f"{self.copy}(live{i} & deep, {place}, x, x{i} + ka)")
        for i in range(self.tile.bn // self.rows):
            place = f"sb + {slot} + {i * self.rows * self.row}"
            out(f"{self.copy}(more & wanted{i}, {place}, w, w{i} + ka)")
        out("commit()", "kg = kg + 1")
        if spec.window:
            self._next_tap("kg")

    def _multiply(self) -> None:
        """Add the products of the slot at `rd`."""
        out, tile = self.out, self.tile
        out("at_a = fa + rd", "at_b = fb + rd")
        shape = f"{tile.wm // self.lanes[0]}, {tile.wn // self.lanes[1]}, {self.row}"
        if self.spec.math == "f32":
            out("part = i32(0)")
            with out.block(f"while part < {tile.bk // 8}"):
                out(*(f"sums = multiply_f32(sums, at_a + {k}, at_b + {k}, {shape})" for k in (0, 16)))
                out("at_a = at_a + 32", "at_b = at_b + 32", "part = part + 1")
            return
        for k in range(0, tile.bk * ELEMENT[self.spec.math], 32):
            out(f"sums = multiply_{self.spec.math}(sums, at_a + {k}, at_b + {k}, {shape})")

    def _keep_sums(self) -> None:
        """Lay the sums down as rows of pixels in shared memory."""
        out, tile, pitch = self.out, self.tile, sum_words(self.spec) * 4
        shape = f"{tile.wm // self.lanes[0]}, {tile.wn // self.lanes[1]}, {pitch}"
        if self.spec.math == "f32":
            out(f"sc = base + (wm + (lane & 7)) * {pitch} + (wn + (lane >> 3)) * 4", f"lay_f32(sums, sc, {shape})")
        else:
            out(f"sc = base + (wm + (lane >> 2)) * {pitch} + (wn + (lane & 3) * 2) * 4")
            out(f"lay_fragments(sums, sc, {shape})")


def tile_text(spec: ConvSpec) -> str:
    """The spec's tile, for errors."""
    return f"tile {spec.tile} for {spec.math}"


def _log2(value: int) -> int:
    assert value > 0 and value & (value - 1) == 0, f"{value} is no power of two"
    return value.bit_length() - 1
