"""Winograd's convolution F(m x m, 3 x 3), fused by blocks of tiles so that transformed inputs stay in the second cache.

Y = A^T [(G g G^T) * (B^T d B)] A + bias: 16 multiplications for 4 outputs where the direct sum takes 36 (m = 2).
For each block of tiles: transform the inputs of all planes, multiply point by point with the register tile that direct
convolutions use, transform the products of one tile of output blocks and store them. Few blocks are split among threads
by output channels; each thread then transforms the inputs for itself, which is a few percent of its work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convc.backends.aligned import aligned_empty
from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Word, offsets_table
from convc.backends.cpu import conv
from convc.backends.cpu.activations import float_word, write_parameters
from convc.backends.cpu.channels import Channels, Taps
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.winograd_points import transform_kernels
from convc.backends.cpu.writer import Writer
from convc.backends.program import Ints, Planes, Step
from convc.ir.graph import Node
from convc.types import Array

M = 2
POINTS = (M + 2) ** 2
WORDS = 5
"""Facts about a tile in the scratch memory: offsets in x, y and the residual, rows and columns to store."""
CACHE_BYTES = 768 << 10
"""What the transformed inputs of a block may take of the second-level cache."""

ARGUMENTS = [
    "x", "u", "bias", "y", "r", "x_planes", "y_planes", "r_planes", "offsets", "planes", "K", "images", "tile_rows",
    "tile_cols", "height", "width", "x_image", "x_row", "y_image", "y_row", "r_image", "r_row", "full_tiles", "T",
    "parts", "scratch", "scratch_step",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class WinogradSpec:
    """What changes the instructions."""

    rows: int
    cols: int
    rest: int
    residual: bool
    activation: str
    params: int

    def name(self, isa: Isa) -> str:
        """The kernel's name: its facts in order."""
        facts = ["f32", "winograd", f"f{M}3", f"{self.rows}x{self.cols}" + (f"r{self.rest}" if self.rest else "")]
        facts += ["add"] * self.residual + ([self.activation] if self.activation else [])
        return "_".join(facts) + f"__{isa.name}"


def emit(spec: WinogradSpec, isa: Isa) -> tuple[str, str]:
    """Name and source of the kernel."""
    out = Writer(
        spec.name(isa), ARGUMENTS, "*_planes, offsets: tables; T: tiles in a block; the rest: sizes, byte strides"
    )
    parameters = write_parameters(out, spec.params, len(ARGUMENTS), isa.lanes)
    vector = isa.lanes * 4
    out("per_image = tile_rows * tile_cols", "total = images * per_image", "blocks = (total + T - 1) // T")
    out("tiles = full_tiles + 1" if spec.rest else "tiles = full_tiles", f"v_point = planes * T * {vector}")
    out("facts = scratch + thread * scratch_step", f"v = facts + (T * {WORDS * 8} + 63) // 64 * 64")
    out(f"products = v + {POINTS} * v_point")
    with out.share("blocks * parts", "item"):
        out("block = item // parts", "part = item - block * parts", "first = block * T", "count = total - first")
        out("if count > T: count = T", f"strips = (count + {spec.rows - 1}) // {spec.rows}")
        with out.block("for t in range(count)"):
            out("image = (first + t) // per_image", "j = first + t - image * per_image", "ty = j // tile_cols")
            out("tx = j - ty * tile_cols", f"at = t * {WORDS}")
            for index, letter in enumerate("xyr"):
                offset = f"image * {letter}_image + ty * {M} * {letter}_row + tx * {M * vector}"
                out(f"store_i64(facts, at + {index}, {offset})")
            out(f"store_i64(facts, at + 3, height - ty * {M})", f"store_i64(facts, at + 4, width - tx * {M})")
        with out.block("for plane in range(planes)"):
            out("source = x + load_i64(x_planes, plane)", f"to = v + plane * T * {vector}")
            with out.block("for t in range(count)"):
                out(f"xp = source + load_i64(facts, t * {WORDS})")
                out(f"winograd_input(xp, x_row, to + t * {vector}, v_point, {M}, {isa.lanes})")
        with out.block("for tile in range(tiles * part // parts, tiles * (part + 1) // parts)"):
            if spec.rest:
                with out.block("if tile < full_tiles"):
                    _tile(out, spec, isa, spec.cols, parameters)
                with out.block("else"):
                    _tile(out, spec, isa, spec.rest, parameters)
            else:
                _tile(out, spec, isa, spec.cols, parameters)
    return out.finish()


def _tile(out: Writer, spec: WinogradSpec, isa: Isa, cols: int, parameters: str) -> None:
    vector = isa.lanes * 4
    acc = f"acc{cols}"
    out(
        f"block0 = tile * {spec.cols}",
        f"weights = u + block0 * K * {POINTS * vector}",
        f"p_point = T * {cols * vector}",
    )
    with out.block(f"for point in range({POINTS})"), out.block("for strip in range(strips)"):
        out(f"{acc} = tile_zero({spec.rows}, {cols}, {isa.lanes})", f"wp = weights + point * K * {cols * vector}")
        out(f"ahead = K * {cols * vector} + strip * 64 if strip < {cols * vector // 64} else 0")
        out(f"xp = v + point * v_point + strip * {spec.rows * vector}")
        with out.block("for k in range(K)"):
            out(
                f"{acc} = tile_fma({acc}, xp + load_i32(offsets, k) * 4, {vector}, wp, ahead)", f"wp += {cols * vector}"
            )
        out(f"points_store({acc}, products + point * p_point + strip * {spec.rows * vector}, T * {vector})")
    with out.block(f"for q in range({cols})"):
        out(f"b = bias + (block0 + q) * {vector}", "yp = y + load_i64(y_planes, block0 + q)")
        if spec.residual:
            out("rp = r + load_i64(r_planes, block0 + q)")
        with out.block("for t in range(count)"):
            out(
                f"at = t * {WORDS}",
                f"o = winograd_output(products + (q * T + t) * {vector}, p_point, b, {M}, {isa.lanes})",
            )
            if spec.residual:
                out("o = grid_add(o, rp + load_i64(facts, at + 2), r_row)")
            if spec.activation:
                out(f"o = v_{spec.activation}(o{parameters})")
            out("rows = load_i64(facts, at + 3)", "columns = load_i64(facts, at + 4)")
            out("grid_store(o, yp + load_i64(facts, at + 1), y_row, rows, columns)")


def tile_for(isa: Isa) -> tuple[int, int]:
    """The register tile of the products: the instruction set's first, with the most multiply-adds a load."""
    return isa.tiles[0]


def pays(isa: Isa, channels: int, out: int, pixels: int) -> bool:
    """Whether Winograd is expected to beat the direct kernel.

    Few channels leave the transforms unpaid; on maps of few pixels the weights, 16/9 of the direct ones, are read from
    memory for hardly any work.
    """
    wide = min(channels, out) >= 2 * isa.lanes
    return wide and pixels >= 100 and channels * out * 16 * 4 <= pixels * 64 * 1024


def eligible(node: Node, kernel: tuple[int, ...], groups: int) -> bool:
    """3x3, stride 1, no dilation, no groups."""
    return kernel == (3, 3) and node.attrs["stride"] == (1, 1) and node.attrs["dilation"] == (1, 1) and groups == 1


@dataclass(frozen=True, eq=False)
class WinogradCall:
    """One call of the kernel, before sizes are known."""

    spec: WinogradSpec
    plane: Ints
    lane: Ints
    padding: tuple[int, int]
    group_blocks: int
    weights: str
    bias: str
    params: tuple[float, ...]


def append(
    asm: Assembler, node: Node, isa: Isa, x: Planes, y: Planes, residual: Planes | None, channels: Channels,
    taps: Taps, order: Ints, weights: Array, bias: Array, activation: str, params: tuple[float, ...],
) -> None:  # fmt: skip
    """Append the call. `taps` and `order` are those of a 1x1 convolution on x; `weights` is [out, in, 3, 3]."""
    top, left, bottom, right = node.attrs["padding"]
    asm.need_halo(x, (top, left, bottom + M - 1, right + M - 1))
    rows, cols = tile_for(isa)
    cols = min(cols, channels.group_blocks)
    spec = WinogradSpec(rows, cols, channels.group_blocks % cols, residual is not None, activation, len(params))
    inputs = order[0, :, 0]
    count = channels.slots.size * len(inputs) * POINTS

    def pack() -> Array:
        return pack_points(transform_kernels(weights, M), channels, inputs, cols)

    call = WinogradCall(
        spec, taps.plane[0], taps.lane[0], (top, left), channels.group_blocks,
        asm.pack_later(f"{node.name}.u", count, pack), asm.pack(f"{node.name}.b", bias), params,
    )  # fmt: skip
    facts: dict[str, Any] = {"call": call}
    if residual is not None:
        facts["in_place"] = 1
    reads = (x, residual) if residual is not None else (x,)
    asm.step(emit(spec, isa), "winograd", node.name, reads, (y,), facts)


def pack_points(points: Array, channels: Channels, inputs: Ints, cols: int) -> Array:
    """Transformed weights [points, out, in] in the kernel's order: [tile][point][k][block of the tile][lane], flat."""
    lanes = channels.slots.shape[1]
    packed: Array = aligned_empty(channels.slots.size * len(inputs) * len(points), np.float32)
    start = block = 0
    for width in conv.tiles_of(channels.group_blocks, cols):
        slots = channels.slots[block : block + width].reshape(-1)
        chosen = points[:, np.maximum(slots, 0)][:, :, inputs]
        chosen[:, slots < 0] = 0.0
        size = chosen.size
        packed[start : start + size].reshape(len(points), len(inputs), width * lanes)[...] = chosen.transpose(0, 2, 1)
        start += size
        block += width
    return packed


def arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Argument words, in the order of ARGUMENTS."""
    call: WinogradCall = step.params["call"]
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y = bound.geometry(source), bound.geometry(target)
    r = bound.geometry(step.reads[1]) if call.spec.residual else y  # type: ignore[arg-type]
    spec, lanes = call.spec, source.lanes
    tile_rows, tile_cols = -(-y.height // M), -(-y.width // M)
    total = max(x.images * tile_rows * tile_cols, 1)
    fitting = CACHE_BYTES // (POINTS * len(x.planes) * lanes * 4)
    wanted = min(max(fitting, spec.rows), -(-total // bound.threads))
    tiles = -(-wanted // spec.rows) * spec.rows
    blocks = -(-total // tiles)
    parts = 1 if blocks >= 4 * bound.threads else bound.threads
    need = -(-tiles * WORDS * 8 // 64) * 64 + POINTS * tiles * (len(x.planes) + spec.cols) * lanes * 4
    scratch, every = bound.scratch(need)
    top, left = call.padding
    offsets = call.plane * (tiles * lanes * 4) + call.lane * 4
    residual: Sequence[Word] = (bound.arena, bound.table(r.planes)) if spec.residual else (0, 0)
    return [
        bound.arena + (-top * x.row - left * x.pixel), bound.constant(call.weights), bound.constant(call.bias),
        bound.arena, residual[0], bound.table(x.planes), bound.table(y.planes), residual[1],
        bound.table(offsets_table(offsets, step.node)), len(x.planes), len(offsets), x.images, tile_rows, tile_cols,
        y.height, y.width, x.image, x.row, y.image, y.row, r.image, r.row, call.group_blocks // spec.cols, tiles, parts,
        scratch, every, *(float_word(p) for p in call.params),
    ]  # fmt: skip
