"""The end of a convolution: bias, residual, activation, conversion, and stores of 16 bytes or lane by lane.

A thread keeps to V neighbouring outputs, so bias, lanes and masks are read once; it takes every `stride`-th row of the
tile. Outputs beyond the last are stored as zeros, up to a multiple of V. Also the kernel that adds the parts of a K
that was split among blocks, in order, so that a result never depends on which block came first.
"""

from __future__ import annotations

from convc.backends.cuda.formulas import WITH_PARAMETERS, apply, parameters
from convc.backends.cuda.spec import ELEMENT, STORAGE, VECTOR, ConvSpec, Epilogue
from convc.backends.cuda.writer import THREADS, Writer

IN_FLIGHT = 16
"""Outputs of a thread whose loads are in flight together."""


def name_of(math: str, epilogue: Epilogue) -> str:
    """The facts of an epilogue, as part of a kernel's name."""
    parts = ["bias" if epilogue.bias else "", "residual" if epilogue.residual else "", epilogue.activation]
    parts += ["lanes" if epilogue.lanes else "", f"to_{epilogue.output}" if epilogue.output != math else ""]
    return "_".join(p for p in parts if p)


def arguments(math: str, epilogue: Epilogue) -> list[str]:
    """Pointer arguments, "name: kind"."""
    found = ["bias: f32*"] if epilogue.bias else []
    found += [f"residual: {STORAGE[math]}*"] if epilogue.residual else []
    found += ["lanes: i32*"] if epilogue.lanes else []
    return [*found, f"y: {STORAGE[epilogue.output]}*"]


def parameter_arguments(activation: str) -> list[str]:
    """Float arguments of an activation."""
    return parameters(WITH_PARAMETERS.get(activation, 0))


def width_of(spec: ConvSpec) -> int:
    """Outputs a thread."""
    return 4 if spec.partial else VECTOR[spec.epilogue.output]


def write_prepare(out: Writer, spec: ConvSpec) -> None:
    """This thread's outputs: `col`, whether there are any (`some`), their bias, lanes and masks."""
    width = width_of(spec)
    columns = spec.tile.bn // width
    out(f"er = tid >> {columns.bit_length() - 1}", f"ec = (tid & {columns - 1}) * {width}", "col = n0 + ec")
    out("some = inside(col, padded_outputs)")
    if not spec.partial:
        out("first = group * padded_outputs + col")
        write_constants(out, spec.epilogue, width)


def write_constants(out: Writer, epilogue: Epilogue, width: int) -> None:
    """Bias, lanes and masks of the outputs from `col`, which are entries `first` of their tables."""
    for start in range(0, width, 4):
        if epilogue.bias:
            out(f"t = load_f32x4(some, bias, first + {start})", *(f"b{start + j} = t[{j}]" for j in range(4)))
        if epilogue.lanes:
            out(f"u = load_i32x4(some, lanes, first + {start})", *(f"l{start + j} = u[{j}]" for j in range(4)))
    out(*(f"real{j} = col + {j} < outputs" for j in range(width)))


def write_rows(out: Writer, spec: ConvSpec, words: int) -> None:
    """Rows of the tile from shared memory, `words` apart, to y or to the workspace."""
    tile, width = spec.tile, width_of(spec)
    stride = tile.threads // (tile.bn // width)
    count = max(tile.bm // stride, 1)
    together = min(count, IN_FLIGHT // width)
    assert stride * count == tile.bm or count == 1, f"tile {tile}: rows do not divide"
    out(f"se = base + er * {words * 4} + ec * 4", "er = m0 + er", "row = i32(0)")
    with out.block(f"while row < {count}"):
        for u in range(together):
            out(f"m{u} = er + {u * stride}", f"ok{u} = some & inside(m{u}, pixels)")
            if stride > tile.bm:
                out(f"ok{u} = ok{u} & (tid < {tile.bm * (tile.bn // width)})", f"se = select(ok{u}, se, base)")
            _places(out, spec, u)
        for u in range(together):
            for start in range(0, width, 4):
                out(f"t = load_shared_f32x4(se + {u * stride * words * 4 + start * 4})")
                out(*(f"v{u}_{start + j} = t[{j}]" for j in range(4)))
            values = [f"v{u}_{j}" for j in range(width)]
            if spec.partial:
                out(f"store_f32x4(ok{u}, work, y{u}, ({', '.join(values)}))")
            else:
                write_values(out, spec.epilogue, values, f"ok{u}", f"y{u}", f"r{u}")
        out(f"se = se + {together * stride * words * 4}", f"er = er + {together * stride}", f"row = row + {together}")


def _places(out: Writer, spec: ConvSpec, u: int) -> None:
    """`y{u}`, the element of y where the row's outputs go; the residual's values as `r{u}`."""
    epilogue, width = spec.epilogue, width_of(spec)
    if spec.partial:
        out(f"y{u} = (split * pixels + m{u}) * work_pitch + group * padded_outputs + col")
        return
    lane = "" if epilogue.lanes else " + group * outputs + col"
    if spec.scatter:
        out(f"q = fastdiv(m{u}, ow_factor, ow_shift)", "n = fastdiv(q, oh_factor, oh_shift)",
            "oy = q - n * oh", f"ox = m{u} - q * ow",
            f"y{u} = n * y_image + oy * y_row + ox * y_pixel{lane}")  # fmt: skip
    else:
        out(f"y{u} = m{u} * y_pixel{lane}")
    if epilogue.residual:
        if spec.scatter:
            out(f"n = n * residual_image + oy * residual_row + ox * residual_pixel{lane}")
        else:
            out(f"n = m{u} * residual_pixel{lane}")
        write_residual(out, spec.math, epilogue, f"r{u}", "n", f"ok{u}", width)


def write_residual(out: Writer, math: str, epilogue: Epilogue, to: str, at: str, ok: str, width: int) -> None:
    """Read the residual's values `to`_0, `to`_1, ... at element `at`."""
    storage = STORAGE[math]
    if epilogue.lanes:
        out(*(f"{to}_{j} = load_{storage}({ok} & (l{j} >= 0), residual, {at} + l{j})" for j in range(width)))
        return
    most = min(width, 4 if ELEMENT[math] == 4 else 8)
    for start in range(0, width, most):
        out(f"t = load_{storage}x{most}({ok}, residual, {at} + {start})")
        out(*(f"{to}_{start + j} = t[{j}]" for j in range(most)))


def write_values(out: Writer, epilogue: Epilogue, values: list[str], ok: str, at: str, residual: str) -> None:
    """Finish sums and store them."""
    for j, v in enumerate(values):
        if epilogue.bias:
            out(f"{v} = {v} + b{j}")
        if epilogue.residual:
            out(f"{v} = {v} + {residual}_{j}")
        if epilogue.activation:
            out(f"{v} = {apply(epilogue.activation, v)}")
        if epilogue.output == "tf32":
            out(f"{v} = round_tf32({v})")
        out(f"{v} = select(real{j}, {v}, 0.0)")
    storage, most = STORAGE[epilogue.output], VECTOR[epilogue.output]
    if epilogue.lanes:
        out(*(f"store_{storage}({ok} & (l{j} >= 0), y, {at} + l{j}, {v})" for j, v in enumerate(values)))
        return
    for start in range(0, len(values), most):
        some = values[start : start + most]
        out(f"store_{storage}x{len(some)}({ok}, y, {at} + {start}, ({', '.join(some)}))")


def reduce_arguments(math: str, epilogue: Epilogue) -> list[str]:
    """Arguments of the kernel that `emit_reduce` makes."""
    numbers = ["pixels", "outputs", "padded_outputs", "work_pitch", "items", "row_factor", "row_shift", "row_items",
               "group_factor", "group_shift", "group_items", "splits", "y_pixel"]  # fmt: skip
    numbers += ["residual_pixel"] if epilogue.residual else []
    given = ["work: f32*", *arguments(math, epilogue), *(f"{n}: i32" for n in numbers)]
    return [*given, *parameter_arguments(epilogue.activation)]


def emit_reduce(math: str, epilogue: Epilogue, arch: str = "") -> tuple[str, str]:
    """The kernel that adds `splits` parts of every sum and finishes it: a thread takes V outputs of one pixel."""
    width = VECTOR[epilogue.output]
    name = "_".join(p for p in (math, "conv2d_reduce", name_of(math, epilogue)) if p) + (f"__{arch}" if arch else "")
    out = Writer(name, reduce_arguments(math, epilogue), f"{width} outputs of a pixel a thread")
    out(f"item = block_x() * {THREADS} + thread()", "some = item < items", "item = select(some, item, 0)")
    out("m = fastdiv(item, row_factor, row_shift)", "part = item - m * row_items")
    out("group = fastdiv(part, group_factor, group_shift)", f"col = (part - group * group_items) * {width}")
    out("first = group * padded_outputs + col")
    write_constants(out, epilogue, width)
    lane = "" if epilogue.lanes else " + group * outputs + col"
    out(f"at = m * y_pixel{lane}", "from_ = m * work_pitch + first")
    if epilogue.residual:
        out(f"n = m * residual_pixel{lane}")
        write_residual(out, math, epilogue, "r", "n", "some", width)
    values = [f"v{j}" for j in range(width)]
    out(*(f"{v} = f32(0.0)" for v in values), "split = i32(0)")
    with out.block("while split < splits"):
        for start in range(0, width, 4):
            out(f"t = load_f32x4(some, work, from_ + {start})")
            out(*(f"v{start + j} = v{start + j} + t[{j}]" for j in range(4)))
        out("from_ = from_ + pixels * work_pitch", "split = split + 1")
    write_values(out, epilogue, values, "some", "at", "r")
    return out.finish()
