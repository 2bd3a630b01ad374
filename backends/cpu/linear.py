"""The kernel of linear layers: products with weights that are read once, from memory, in several streams.

y[n, o] = activation(bias[o] + residual[n, o] + sum over k of x[n, k] w[k, o])

One image multiplies every weight once, so it takes as long as reading them. In how many streams they arrive soonest is
the processor's affair: on one core of a Xeon one stream gets 12.8 GB/s where eight get 15.8; on Zen 4 eight get 17.8
where one gets 22.6, and AlexNet takes 0.82 of the time. So the sum runs over `streams` equal parts of k at the same
time, added in pairs, then over what is left; where there are several images, a register tile of them takes the parts
one after another, and the sums are the same to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from convc.backends.cpu.activations import write_parameters
from convc.backends.cpu.isa import Isa, one_stream
from convc.backends.cpu.writer import Writer

MOST_ROWS = 4
"""Images that share a read of the weights."""

ARGUMENTS = [
    "x", "w", "bias", "y", "y_planes", "r", "r_planes", "offsets", "K", "images", "x_image", "y_image", "r_image",
    "blocks_out", "scratch", "scratch_step",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """What changes the instructions: parts of k at a time, blocks of output channels in a tile, the epilogue."""

    streams: int
    cols: int
    rest: int
    residual: bool
    activation: str
    params: int

    def name(self, isa: Isa) -> str:
        """The kernel's name: its facts in order."""
        facts = ["f32", "linear", f"{self.streams}x{self.cols}" + (f"r{self.rest}" if self.rest else "")]
        facts += ["add"] * self.residual + ([self.activation] if self.activation else [])
        return "_".join(facts) + f"__{isa.name}"


def tile_for(isa: Isa, processor: str) -> tuple[int, int]:
    """Streams and blocks of a tile, for a processor by LLVM's name: at most as many sums as half of the registers."""
    if one_stream(processor):
        return 1, 4
    return (8, 2) if isa.registers >= 32 else (4, 2)


def rows_of(isa: Isa, cols: int) -> int:
    """Images of a tile that has so many blocks: their sums take half of the registers at most."""
    return max(1, min(MOST_ROWS, isa.registers // 2 // cols))


def scratch_bytes(spec: LinearSpec, isa: Isa) -> int:
    """Sums of all parts of one tile of images."""
    return spec.streams * rows_of(isa, spec.cols) * spec.cols * isa.lanes * 4


def emit(spec: LinearSpec, isa: Isa) -> tuple[str, str]:
    """Name and source of the kernel."""
    out = Writer(spec.name(isa), ARGUMENTS, "*_planes, offsets: tables; the rest: addresses, sizes, byte strides")
    parameters = write_parameters(out, spec.params, len(ARGUMENTS), isa.lanes)
    vector = isa.lanes * 4
    out(f"tiles = (blocks_out + {spec.cols - 1}) // {spec.cols}", f"part = K // {spec.streams}")
    out(f"left = part * {spec.streams}", "sums = scratch + thread * scratch_step")
    with out.share("tiles", "tile"):
        out(f"block = tile * {spec.cols}", f"weights = w + block * K * {vector}")
        out(f"b = bias + block * {vector}", "yt = y_planes + block * 8", "image = 0")
        if spec.residual:
            out("rt = r_planes + block * 8")
        if spec.rest:
            with out.block(f"if block + {spec.cols} <= blocks_out"):
                _images(out, spec, isa, spec.cols, parameters)
            with out.block("else"):
                _images(out, spec, isa, spec.rest, parameters)
        else:
            _images(out, spec, isa, spec.cols, parameters)
    return out.finish()


def _images(out: Writer, spec: LinearSpec, isa: Isa, cols: int, parameters: str) -> None:
    vector, rows = isa.lanes * 4, rows_of(isa, spec.cols)
    with out.block(f"while image + {rows} <= images"):
        acc = f"acc{rows}x{cols}"
        out("xp = x + image * x_image")
        with out.block(f"for s in range({spec.streams})"):
            out(f"{acc} = tile_zero({rows}, {cols}, {isa.lanes})", f"wp = weights + s * part * {cols * vector}")
            with out.block("for k in range(s * part, s * part + part)"):
                _step(out, acc, cols, vector)
            out(f"points_store({acc}, sums + s * {rows * cols * vector}, {rows * vector})")
        loads = [
            f"tile_load(sums + {s * rows * cols * vector}, {rows}, {cols}, {isa.lanes})" for s in range(spec.streams)
        ]
        out(f"{acc} = {_in_pairs(loads)}")
        _finish(out, spec, isa, rows, cols, parameters)
        out(f"image += {rows}")
    with out.block("while image < images"):
        acc = f"acc1x{cols}"
        out("xp = x + image * x_image", f"all{cols} = tile_zero({spec.streams}, {cols}, {isa.lanes})", "wp = weights")
        with out.block("for k in range(part)"):
            out(f"all{cols} = streams_fma(all{cols}, xp, offsets + k * 4, part * 4, wp, part * {cols * vector})")
            out(f"wp += {cols * vector}")
        out(f"{acc} = tile_fold(all{cols})")
        _finish(out, spec, isa, 1, cols, parameters)
        out("image += 1")


def _step(out: Writer, acc: str, cols: int, vector: int) -> None:
    out(f"{acc} = tile_fma({acc}, xp + load_i32(offsets, k) * 4, x_image, wp, wp, None)", f"wp += {cols * vector}")


def _in_pairs(terms: list[str]) -> str:
    """The sum of the terms, added as `tile_fold` adds rows."""
    while len(terms) > 1:
        terms = [f"tile_sum({a}, {b})" for a, b in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]


def _finish(out: Writer, spec: LinearSpec, isa: Isa, rows: int, cols: int, parameters: str) -> None:
    """What the parts left over, bias, residual, activation, store."""
    vector, acc = isa.lanes * 4, f"acc{rows}x{cols}"
    out(f"wp = weights + left * {cols * vector}")
    with out.block("for k in range(left, K)"):
        _step(out, acc, cols, vector)
    out(f"{acc} = tile_sum({acc}, tile_bias(b, {rows}, {cols}, {isa.lanes}))")
    if spec.residual:
        out(f"{acc} = tile_add({acc}, r, rt, image * r_image, r_image, 0, images + 1, 0)")
    if spec.activation:
        out(f"{acc} = v_{spec.activation}({acc}{parameters})")
    out(f"tile_store({acc}, y, yt, image * y_image, y_image, 0, images + 1, 0, {rows})")
