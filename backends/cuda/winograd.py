"""Winograd's convolution F(2x2, 3x3) in strict float32: 16 products where the direct sum takes 36.

y = A^T [(G g G^T) . (B^T d B)] A for every 4x4 square d of the input and its 2x2 outputs, two pixels apart. Three
kernels: `spread` makes B^T d B of every square, 16 values a channel; the pointwise kernel of `conv`, a group for each
of the 16, multiplies by the transformed weights; `gather` makes A^T m A and finishes it. With these matrices every
factor is 0, 1 or 1/2, and the rounding error about twice that of the direct sum. Source: Lavin & Gray 2016.
"""

from __future__ import annotations

import numpy as np

from convc.backends.cuda import choice
from convc.backends.cuda.conv_launch import launch, words
from convc.backends.cuda.conv_launch import pack_weights as pack_products
from convc.backends.cuda.epilogue import arguments as epilogue_arguments
from convc.backends.cuda.epilogue import name_of as epilogue_name
from convc.backends.cuda.epilogue import parameter_arguments, write_constants, write_residual, write_values
from convc.backends.cuda.machines import Machine, machine
from convc.backends.cuda.spec import ConvSizes, ConvSpec, Epilogue, Launch, Tile, WinogradSizes, padded
from convc.backends.cuda.vocabulary import magic
from convc.backends.cuda.writer import Writer
from convc.types import Array

THREADS = 128
V = 4
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def product_spec(tile: Tile) -> ConvSpec:
    """The pointwise kernel that multiplies, a group for each of the 16 products."""
    return ConvSpec("f32", tile, window=False, epilogue=Epilogue(bias=False))


def product_sizes(s: WinogradSizes) -> ConvSizes:
    """Its sizes: squares are pixels, and outputs are padded, so that every group stores whole vectors."""
    channels, outputs = padded(s.channels, V), padded(s.outputs, V)
    return ConvSizes(1, s.tiles, 1, channels, outputs, s.tiles, 1, 16 * channels, 16 * outputs, 16)


def launch_products(tile: Tile, s: WinogradSizes) -> Launch:
    """The launch between `spread` and `gather`; its x is "spread", its y "products"."""
    made = launch(product_spec(tile), product_sizes(s))
    names = {"x": "spread", "y": "products"}
    return Launch(made.grid, made.threads, made.shared, tuple(names.get(a, a) for a in made.args))  # type: ignore[arg-type, misc]


def pack_weights(tile: Tile, weights: Array) -> Array:
    """[O, 3, 3, lanes] as the products need them: G g G^T, computed in float64, [16, padded O, K]."""
    w = np.asarray(weights, np.float64)
    spread = np.einsum("ar,orsc,bs->aboc", G, w, G).reshape(16, w.shape[0], -1)
    whole = np.zeros((16, padded(w.shape[0], V), padded(w.shape[3], V)))
    whole[:, : w.shape[0], : w.shape[3]] = spread
    return pack_products(product_spec(tile), whole[:, :, None])


def spread_bytes(s: WinogradSizes) -> int:
    """Workspace between `spread` and the products."""
    return s.tiles * 16 * padded(s.channels, V) * 4


def products_bytes(s: WinogradSizes) -> int:
    """Workspace between the products and `gather`."""
    return s.tiles * 16 * padded(s.outputs, V) * 4


def choose_tile(s: WinogradSizes, arch: str) -> Tile:
    """The tile of the products that the model prefers."""
    return choice.choose("f32", s.tiles, s.outputs, padded(s.channels, V), 16, arch, split=False).tile


def product_clocks(tile: Tile, s: WinogradSizes, where: Machine) -> float:
    """The model's time of the products."""
    return choice.clocks(tile, "f32", s.tiles, s.outputs, padded(s.channels, V), 16, 1, where)


def pays(s: WinogradSizes, arch: str) -> bool:
    """Whether the model expects it to be faster than the direct sum. Not fitted on a GPU."""
    where = machine(arch)
    pixels, channels = s.batch * s.out_height * s.out_width, padded(s.channels, V)
    direct = choice.choose("f32", pixels, s.outputs, 9 * channels, 1, arch).clocks
    products = product_clocks(choose_tile(s, arch), s, where)
    moved = 2.0 * (spread_bytes(s) + products_bytes(s)) + pixels * (channels + s.outputs) * 4
    return products + moved / where.bytes_memory / where.processors + 2 * where.launch < direct


def _transform(rows: list[list[str]]) -> list[list[str]]:
    """B^T d B as sums of two: rows first, then columns."""

    def half(a: str, b: str, c: str, d: str) -> list[str]:
        return [f"{a} - {c}", f"{b} + {c}", f"{c} - {b}", f"{b} - {d}"]

    return [half(*row) for row in rows]


SPREAD = ["height", "width", "x_image", "x_row", "x_pixel", "tiles_h", "th_factor", "th_shift", "tiles_w", "tw_factor",
          "tw_shift", "lane_items", "lanes_factor", "lanes_shift", "items", "pad_h", "pad_w", "channels"]  # fmt: skip


def _place(out: Writer) -> None:
    """The square and the channels of this thread."""
    out(f"item = block_x() * {THREADS} + thread()", "some = item < items", "item = select(some, item, 0)")
    out("tile = fastdiv(item, lanes_factor, lanes_shift)", f"col = (item - tile * lane_items) * {V}")
    out("q = fastdiv(tile, tw_factor, tw_shift)", "tx = tile - q * tiles_w")
    out("n = fastdiv(q, th_factor, th_shift)", "ty = q - n * tiles_h")


def emit_spread(arch: str = "") -> tuple[str, str]:
    """The kernel that transforms the input: a thread takes V channels of a square."""
    name = "f32_winograd_f22_spread" + (f"__{arch}" if arch else "")
    arguments = ["x: f32*", "spread: f32*", *(f"{n}: i32" for n in SPREAD)]
    out = Writer(name, arguments, "B^T d B of a 4x4 square, 4 channels a thread", THREADS)
    _place(out)
    out("ih = ty * 2 - pad_h", "iw = tx * 2 - pad_w", "at = n * x_image + ih * x_row + iw * x_pixel + col")
    for r in range(4):
        out(f"on = some & inside(ih + {r}, height)")
        for c in range(4):
            out(f"d{r}{c} = load_f32x4(on & inside(iw + {c}, width), x, at + x_row * {r} + x_pixel * {c})")
    out("at = tile * (channels * 16) + col")
    for j in range(V):
        for r, row in enumerate(_transform([[f"d{k}{c}[{j}]" for k in range(4)] for c in range(4)])):
            out(*(f"t{k}{r} = {text}" for k, text in enumerate(row)))
        for r, row in enumerate(_transform([[f"t{r}{c}" for c in range(4)] for r in range(4)])):
            out(*(f"u{r}{c}_{j} = {text}" for c, text in enumerate(row)))
    for r in range(4):
        for c in range(4):
            values = ", ".join(f"u{r}{c}_{j}" for j in range(V))
            out(f"store_f32x4(some, spread, at + channels * {r * 4 + c}, ({values}))")
    return out.finish()


GATHER = ["tiles_h", "th_factor", "th_shift", "tiles_w", "tw_factor", "tw_shift", "lane_items", "lanes_factor",
          "lanes_shift", "items", "outputs", "padded_outputs", "oh", "ow", "y_pixel"]  # fmt: skip


def gather_arguments(epilogue: Epilogue) -> list[str]:
    """Arguments of the kernel that `emit_gather` makes."""
    numbers = [*GATHER, *(["residual_pixel"] if epilogue.residual else [])]
    pointers = ["products: f32*", *epilogue_arguments("f32", epilogue)]
    return [*pointers, *(f"{n}: i32" for n in numbers), *parameter_arguments(epilogue.activation)]


def emit_gather(epilogue: Epilogue, arch: str = "") -> tuple[str, str]:
    """The kernel that transforms the products and finishes the outputs: V outputs of a 2x2 square a thread."""
    name = "_".join(p for p in ("f32_winograd_f22_gather", epilogue_name("f32", epilogue)) if p)
    about = "A^T m A of 16 products, 4 outputs of a 2x2 square a thread"
    out = Writer(name + (f"__{arch}" if arch else ""), gather_arguments(epilogue), about, THREADS)
    _place(out)
    out("at = tile * (padded_outputs * 16) + col", "first = col")
    out(
        *(
            f"m{r}{c} = load_f32x4(some, products, at + padded_outputs * {r * 4 + c})"
            for r in range(4)
            for c in range(4)
        )
    )
    write_constants(out, epilogue, V)
    lane = "" if epilogue.lanes else " + col"
    for a in range(2):
        for b in range(2):
            out(f"p = (n * oh + ty * 2 + {a}) * ow + tx * 2 + {b}", f"y{a}{b} = p * y_pixel{lane}")
            out(f"ok{a}{b} = some & inside(ty * 2 + {a}, oh) & inside(tx * 2 + {b}, ow)")
            if epilogue.residual:
                out(f"r = p * residual_pixel{lane}")
                write_residual(out, "f32", epilogue, f"r{a}{b}", "r", f"ok{a}{b}", V)
    for j in range(V):
        for c in range(4):
            out(f"s0{c} = m0{c}[{j}] + m1{c}[{j}] + m2{c}[{j}]", f"s1{c} = m1{c}[{j}] - m2{c}[{j}] - m3{c}[{j}]")
        for a in range(2):
            out(f"v{a}0_{j} = s{a}0 + s{a}1 + s{a}2", f"v{a}1_{j} = s{a}1 - s{a}2 - s{a}3")
    for a in range(2):
        for b in range(2):
            values = [f"v{a}{b}_{j}" for j in range(V)]
            write_values(out, epilogue, values, f"ok{a}{b}", f"y{a}{b}", f"r{a}{b}")
    return out.finish()


def _numbers(s: WinogradSizes, lanes: int) -> dict[str, int]:
    tiles_h, tiles_w = -(-s.out_height // 2), -(-s.out_width // 2)
    numbers = {
        "height": s.height, "width": s.width, "x_image": s.height * s.width * s.x_pitch, "x_row": s.width * s.x_pitch,
        "x_pixel": s.x_pitch, "tiles_h": tiles_h, "tiles_w": tiles_w, "lane_items": lanes // V,
        "items": s.tiles * (lanes // V), "pad_h": s.padding[0], "pad_w": s.padding[1],
        "channels": padded(s.channels, V),
        "outputs": s.outputs, "padded_outputs": padded(s.outputs, V), "oh": s.out_height, "ow": s.out_width,
        "y_pixel": s.y_pitch, "residual_pixel": s.residual_pitch,
    }  # fmt: skip
    for name, divisor in (("th", tiles_h), ("tw", tiles_w), ("lanes", lanes // V)):
        numbers[f"{name}_factor"], numbers[f"{name}_shift"] = magic(divisor)
    return numbers


def launch_spread(s: WinogradSizes) -> Launch:
    """The first launch: "x" to "spread"."""
    numbers = _numbers(s, padded(s.channels, V))
    given = ["x: f32*", "spread: f32*", *(f"{n}: i32" for n in SPREAD)]
    return Launch((-(-numbers["items"] // THREADS), 1, 1), THREADS, 0, words(given, numbers, ()))


def launch_gather(epilogue: Epilogue, s: WinogradSizes) -> Launch:
    """The last launch: "products" to "y"."""
    numbers = _numbers(s, padded(s.outputs, V))
    args = words(gather_arguments(epilogue), numbers, s.params)
    return Launch((-(-numbers["items"] // THREADS), 1, 1), THREADS, 0, args)
