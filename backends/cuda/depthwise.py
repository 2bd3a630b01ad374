"""The depthwise convolution: a thread takes V neighbouring channels of a few outputs that follow each other in a row.

Neighbouring threads take neighbouring channels, so every access is 16 bytes of a run. Each row of the window is read
once and serves all the thread's outputs from registers; what rows have in common comes from the L1 cache. The rows are
a loop, whose length arrives at run time: written out, all their loads would be hoisted and spill. Sums are float32 and
run over the window in order.
"""

from __future__ import annotations

import numpy as np

from convc.backends.cuda.conv_launch import to_storage, words
from convc.backends.cuda.epilogue import arguments as epilogue_arguments
from convc.backends.cuda.epilogue import name_of as epilogue_name
from convc.backends.cuda.epilogue import parameter_arguments, write_constants, write_residual, write_values
from convc.backends.cuda.spec import STORAGE, VECTOR, DepthwiseSizes, DepthwiseSpec, Launch, padded
from convc.backends.cuda.vocabulary import magic
from convc.backends.cuda.writer import Writer
from convc.types import Array

THREADS = 128


def name_of(spec: DepthwiseSpec, arch: str = "") -> str:
    """The kernel's name: its facts in order."""
    shape = f"{spec.kernel[1]}wide_s{spec.stride[1]}" + (f"d{spec.dilation[1]}" if spec.dilation[1] != 1 else "")
    parts = [spec.math, "depthwise", shape, f"x{spec.columns}", epilogue_name(spec.math, spec.epilogue)]
    return "_".join(p for p in parts if p) + (f"__{arch}" if arch else "")


def arguments(spec: DepthwiseSpec) -> list[str]:
    """The kernel's arguments, "name: kind"."""
    storage = STORAGE[spec.math]
    numbers = ["height", "width", "x_image", "x_row", "x_pixel", "oh", "oh_factor", "oh_shift", "ow", "parts",
               "parts_factor", "parts_shift", "lane_items", "lanes_factor", "lanes_shift", "items", "pad_h", "pad_w",
               "kernel_h", "stride_h", "dilation_h", "outputs", "w_pitch", "y_pixel"]  # fmt: skip
    numbers += ["residual_pixel"] if spec.epilogue.residual else []
    pointers = [f"x: {storage}*", f"w: {storage}*", *epilogue_arguments(spec.math, spec.epilogue)]
    return [*pointers, *(f"{n}: i32" for n in numbers), *parameter_arguments(spec.epilogue.activation)]


def emit(spec: DepthwiseSpec, arch: str = "") -> tuple[str, str]:
    """Name and source."""
    width = VECTOR[spec.math]
    about = f"{width} channels x {spec.columns} outputs of a row a thread"
    out = Writer(name_of(spec, arch), arguments(spec), about, THREADS)
    out(f"item = block_x() * {THREADS} + thread()", "some = item < items", "item = select(some, item, 0)")
    out("q = fastdiv(item, lanes_factor, lanes_shift)", f"col = (item - q * lane_items) * {width}")
    out("m = fastdiv(q, parts_factor, parts_shift)", f"ox = (q - m * parts) * {spec.columns}")
    out("n = fastdiv(m, oh_factor, oh_shift)", "oy = m - n * oh")
    out("ih = oy * stride_h - pad_h", f"iw = ox * {spec.stride[1]} - pad_w")
    out("at = n * x_image + ih * x_row + iw * x_pixel + col", "wat = col", "first = col")
    columns = sorted({q * spec.stride[1] + s * spec.dilation[1] for q in range(spec.columns) for s in _taps(spec)})
    out(*(f"in{c} = some & inside(iw + {c}, width)" for c in columns))
    out(*(f"v{q}_{j} = f32(0.0)" for q in range(spec.columns) for j in range(width)))
    out("r = i32(0)")
    with out.block("while r < kernel_h"):
        _row(out, spec, columns)
        out("ih = ih + dilation_h", "at = at + x_row * dilation_h", "r = r + 1")
    write_constants(out, spec.epilogue, width)
    lane = "" if spec.epilogue.lanes else " + col"
    for q in range(spec.columns):
        out(f"ok{q} = some & inside(ox + {q}, ow)", f"p{q}_ = m * ow + ox + {q}", f"y{q} = p{q}_ * y_pixel{lane}")
        if spec.epilogue.residual:
            out(f"n = p{q}_ * residual_pixel{lane}")
            write_residual(out, spec.math, spec.epilogue, f"r{q}", "n", f"ok{q}", width)
    for q in range(spec.columns):
        write_values(out, spec.epilogue, [f"v{q}_{j}" for j in range(width)], f"ok{q}", f"y{q}", f"r{q}")
    return out.finish()


def _taps(spec: DepthwiseSpec) -> range:
    return range(spec.kernel[1])


def _row(out: Writer, spec: DepthwiseSpec, columns: list[int]) -> None:
    """Add one row of the window."""
    storage, width = STORAGE[spec.math], VECTOR[spec.math]
    out("on = inside(ih, height)")
    out(*(f"x{c} = load_{storage}x{width}(on & in{c}, x, at + x_pixel * {c})" for c in columns))
    for s in _taps(spec):
        out(f"k = load_{storage}x{width}(some, w, wat)", "wat = wat + w_pitch")
        for q in range(spec.columns):
            c = q * spec.stride[1] + s * spec.dilation[1]
            out(*(f"v{q}_{j} = fma(x{c}[{j}], k[{j}], v{q}_{j})" for j in range(width)))


def columns_for(math: str, kernel: tuple[int, int], stride: tuple[int, int]) -> int:
    """Outputs a thread: as many as registers hold without spilling or emptying the multiprocessor."""
    wide = VECTOR[math] // 4 * (kernel[1] + 3 * stride[1])
    return 4 if wide <= 14 else 2 if wide <= 24 else 1


def launch(spec: DepthwiseSpec, sizes: DepthwiseSizes) -> Launch:
    """Grid, threads and arguments."""
    s, width = sizes, VECTOR[spec.math]
    assert VECTOR[spec.epilogue.output] <= width, "lanes of the output are the input's"
    lane_items, parts = padded(s.channels, width) // width, -(-s.out_width // spec.columns)
    items = s.batch * s.out_height * parts * lane_items
    numbers = {
        "height": s.height, "width": s.width, "x_image": s.height * s.width * s.x_pitch, "x_row": s.width * s.x_pitch,
        "x_pixel": s.x_pitch, "oh": s.out_height, "ow": s.out_width, "parts": parts, "lane_items": lane_items,
        "items": items, "pad_h": s.padding[0], "pad_w": s.padding[1], "outputs": s.channels,
        "kernel_h": spec.kernel[0], "stride_h": spec.stride[0], "dilation_h": spec.dilation[0],
        "w_pitch": padded(s.channels, width), "y_pixel": s.y_pitch, "residual_pixel": s.residual_pitch,
    }  # fmt: skip
    for name, divisor in (("oh", s.out_height), ("parts", parts), ("lanes", lane_items)):
        numbers[f"{name}_factor"], numbers[f"{name}_shift"] = magic(divisor)
    return Launch((max(-(-items // THREADS), 1), 1, 1), THREADS, 0, words(arguments(spec), numbers, s.params))


def pack_weights(spec: DepthwiseSpec, weights: Array) -> Array:
    """[lanes, R, S] in float32 as the kernel reads it: [R, S, lanes up to a multiple of V] of the storage type."""
    lanes = weights.shape[0]
    whole = np.zeros((*weights.shape[1:], padded(lanes, VECTOR[spec.math])), np.float32)
    whole[:, :, :lanes] = np.asarray(weights, np.float32).transpose(1, 2, 0)
    return to_storage(whole, spec.math)
