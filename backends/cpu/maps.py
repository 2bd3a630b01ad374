"""Elementwise kernels: on planes, on plain float32 tensors, and scalar by scalar on other element types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.backends.axes import broadcast_strides, merge_axes
from convc.backends.binding import Binding, Word
from convc.backends.calls import Call, Operand, named, reference
from convc.backends.cpu.activations import float_word, write_parameters
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.writer import Writer
from convc.backends.program import Plain, Planes, Step
from convc.dims import Size
from convc.errors import TargetError

RANK = 5
SCALAR: dict[str, str] = {
    "add": "x0 + x1", "sub": "x0 - x1", "mul": "x0 * x1", "min": "x0 if x0 < x1 or x0 != x0 else x1",
    "max": "x0 if x0 > x1 or x0 != x0 else x1", "equal": "1 if x0 == x1 else 0", "less": "1 if x0 < x1 else 0",
    "less_or_equal": "1 if x0 <= x1 else 0", "greater": "1 if x0 > x1 else 0",
    "greater_or_equal": "1 if x0 >= x1 else 0", "logical_and": "1 if x0 != 0 and x1 != 0 else 0",
    "logical_or": "1 if x0 != 0 or x1 != 0 else 0", "logical_not": "1 if x0 == 0 else 0",
    "where": "x1 if x0 != 0 else x2", "neg": "-x0", "abs": "-x0 if x0 < 0 else x0", "cast": "x0",
    "to_bool": "1 if x0 != 0 else 0", "to_int": "whole(x0)",
    "div": "-x0 if x1 == -1 else floor_quotient(x0, x1) + (0 if (x0 < 0) == (x1 < 0) or x0 % x1 == 0 else 1)",
    "true_div": "x0 / x1", "floor_div": "floor_quotient(x0, x1)", "mod": "x0 % x1",
    "fmod": "x0 % x1 if (x0 < 0) == (x1 < 0) or x0 % x1 == 0 else x0 % x1 - x1",
    "float_fmod": "x0 % x1 if (x0 < 0) == (x1 < 0) else -(-x0 % x1)",
}  # fmt: skip
"""Expressions over scalars, for element types other than float32 and for results other than float32."""


def _write_calls(out: Writer, calls: Sequence[Call]) -> str:
    """The calls, but for the last, whose text is returned."""
    first, text = 0, ""
    for index, call in enumerate(calls):
        parameters = "".join(f", p{first + i}" for i in range(call.params))
        text = f"v_{call.function}({', '.join(map(reference, call.args))}{parameters})"
        first += call.params
        if index < len(calls) - 1:
            out(f"r{index} = {text}")
    return text


# ---- emitters ------------------------------------------------------------------------------------------------------


def emit_planes(isa: Isa, calls: Sequence[Call], ways: str) -> tuple[str, str]:
    """The last of the calls on x0, x1, ... in planes. `ways`: v, an operand is read by vectors, or s, one
    float serves all lanes.
    """
    letters = [f"{letter}{i}" for i in range(len(ways)) for letter in ("x", "planes", "image", "row", "pixel")]
    arguments = ["y", "y_planes", "count", "images", "rows", "width", "y_image", "y_row", *letters]
    out = Writer(
        f"f32_map_{named(calls, ways)}__{isa.name}",
        arguments,
        "x, y: bases; planes: tables; the rest: sizes, byte strides",
    )
    write_parameters(out, sum(call.params for call in calls), len(arguments), isa.lanes)
    with out.share_lines("rows", "n", "h"):
        out("to = y + load_i64(y_planes, plane) + n * y_image + h * y_row")
        for i in range(len(ways)):
            out(f"at{i} = x{i} + load_i64(planes{i}, plane) + n * image{i} + h * row{i}")
        with out.block("for w in range(width)"):
            for i, way in enumerate(ways):
                out(f"v{i} = vec_{'splat' if way == 's' else 'load'}(at{i} + w * pixel{i}, {isa.lanes})")
            out(f"vec_store(to + w * {isa.lanes * 4}, {_write_calls(out, calls)})")
    return out.finish()


def emit_plain(isa: Isa, calls: Sequence[Call], ways: str) -> tuple[str, str]:
    """The last of the calls on x0, x1, ..., plain tensors of up to 5 axes over a run of `n` contiguous elements."""
    letters = [f"{letter}{i}" for i in range(len(ways)) for letter in ("x", *(f"s{d}_" for d in range(RANK)))]
    arguments = ["y", "n", *(f"d{d}" for d in range(RANK)), *letters]
    out = Writer(
        f"f32_map_plain_{named(calls, ways)}__{isa.name}", arguments, "d: sizes; s: byte strides by axis and operand"
    )
    write_parameters(out, sum(call.params for call in calls), len(arguments), isa.lanes)
    lanes = isa.lanes
    out(f"blocks = (n + {lanes - 1}) // {lanes}", "total = d0 * d1 * d2 * d3 * d4 * blocks")
    out("item = total * thread // threads", "stop = total * (thread + 1) // threads")
    with out.block("while item < stop"):  # a run, or a part of one
        out("j = item // blocks", "first = item - j * blocks", "end = first + stop - item")
        out("if end > blocks: end = blocks", "item += end - first", "to = y + j * n * 4")
        _strided(out, len(ways))
        for i, way in enumerate(ways):
            if way == "s":
                out(f"v{i} = vec_splat(at{i}, {lanes})")
        out(f"whole = n // {lanes}", "if whole > end: whole = end")
        with out.block("for block in range(first, whole)"):
            for i, way in enumerate(ways):
                if way != "s":
                    out(f"v{i} = vec_load(at{i} + block * {lanes * 4}, {lanes})")
            out(f"vec_store(to + block * {lanes * 4}, {_write_calls(out, calls)})")
        with out.block("if end > whole"):
            out(f"at = whole * {lanes * 4}", f"count = n - whole * {lanes}")
            for i, way in enumerate(ways):
                if way != "s":
                    out(f"v{i} = vec_load_first(at{i} + at, count, {lanes})")
            out(f"vec_store_first(to + at, {_write_calls(out, calls)}, count)")
    return out.finish()


def emit_scalar(isa: Isa, op: str, inputs: Sequence[str], output: str) -> tuple[str, str]:
    """Y = expression(x0, x1, ...), element by element, for any element types."""
    letters = [f"{letter}{i}" for i in range(len(inputs)) for letter in ("a", *(f"s{d}_" for d in range(RANK)), "step")]
    out = Writer(
        f"{output}_scalar_{op}_{'_'.join(inputs)}__{isa.name}",
        ["y", "n", *(f"d{d}" for d in range(RANK)), *letters],
        "plain",
    )
    width = {"8": 1, "6": 2, "2": 4, "4": 8}[output[-1]]
    with out.share("d0 * d1 * d2 * d3 * d4", "item"):
        out("j = item")
        _strided(out, len(inputs), base="a")
        with out.block("for i in range(n)"):
            for i, kind in enumerate(inputs):
                out(f"x{i} = get_{kind}(at{i} + i * step{i})")
            out(f"put_{output}(y + (item * n + i) * {width}, {SCALAR[op]})")
    return out.finish()


def _strided(out: Writer, count: int, base: str = "x") -> None:
    """Addresses at0, at1, ... of operands at the flat outer index j."""
    for i in range(count):
        out(f"at{i} = {base}{i}")
    out("k = j")
    for axis in reversed(range(RANK)):
        out(f"q = k // d{axis}", f"o = k - q * d{axis}", "k = q")
        for i in range(count):
            out(f"at{i} += o * s{axis}_{i}")


# ---- arguments -----------------------------------------------------------------------------------------------------


def planes_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_planes`."""
    y = step.writes[0]
    assert isinstance(y, Planes)
    g = bound.geometry(y)
    words: list[Word] = [
        bound.arena, bound.table(g.planes), len(g.planes), g.images, g.height, g.width, g.image, g.row,
    ]  # fmt: skip
    for operand, way in zip(step.params["operands"], step.params["ways"], strict=True):
        if isinstance(operand, Operand):
            planes, height, width, lanes = operand.shape
            pixel = lanes * 4
            table = np.arange(planes, dtype=np.int64) * (height * width * pixel)
            row = width * pixel if height > 1 else 0
            words += [bound.constant(operand.packed), bound.table(table), 0, row, pixel if width > 1 else 0]
            continue
        source = step.reads[operand]
        assert isinstance(source, Planes)
        x = bound.geometry(source)
        table = x.planes + (int(source.places[0, 1]) * 4 if way == "s" else 0)
        words += [
            bound.arena, bound.table(table), x.image if x.images > 1 else 0, x.row if x.height > 1 else 0,
            x.pixel if x.width > 1 else 0,
        ]  # fmt: skip
    return [*words, *(float_word(p) for p in step.params["floats"])]


def run_axes(shape: Sequence[Size]) -> int:
    """How many axes are left of a result's shape, once those of size 1 at its end are left out."""
    count = len(shape)
    while count and isinstance(shape[count - 1], int) and shape[count - 1] == 1:
        count -= 1
    return count


def _axes(
    step: Step, bound: Binding, widths: Sequence[int]
) -> tuple[Word, int, list[int], list[tuple[Word, list[int], int]]]:
    y = step.writes[0]
    assert isinstance(y, Plain)
    whole = bound.shape(y)
    shape = whole[: run_axes(y.type.shape)]
    bases: list[Word] = []
    strides: list[list[int]] = []
    for operand, width in zip(step.params["operands"], widths, strict=True):
        if isinstance(operand, Operand):
            bases.append(bound.constant(operand.packed))
            strides.append(broadcast_strides(operand.shape, whole, width)[: len(shape)])
            continue
        source = step.reads[operand]
        assert isinstance(source, Plain)
        bases.append(bound.address(source))
        strides.append(broadcast_strides(bound.shape(source), whole, width)[: len(shape)])
    inner = shape[-1] if shape else 1
    last = [s[-1] if len(s) else 0 for s in strides]
    sizes, merged = merge_axes(shape[:-1], [s[:-1] for s in strides])
    if sizes and all(m[-1] == t * inner for m, t in zip(merged, last, strict=True)) and all(last):
        inner *= sizes.pop()
        for m in merged:
            m.pop()
    if len(sizes) > RANK:
        raise TargetError(f"%{step.node}: broadcasting over {len(sizes)} separate axes", hint=f"at most {RANK + 1}")
    pad = RANK - len(sizes)
    operands = [(base, [0] * pad + list(m), int(t)) for base, m, t in zip(bases, merged, last, strict=True)]
    return bound.address(y), int(inner), [1] * pad + sizes, operands


def plain_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_plain`."""
    y, inner, sizes, operands = _axes(step, bound, [4] * len(step.params["operands"]))
    words: list[Word] = [y, inner, *sizes]
    for base, strides, _ in operands:
        words += [base, *strides]
    return [*words, *(float_word(p) for p in step.params["floats"])]


def scalar_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_scalar`."""
    y, inner, sizes, operands = _axes(step, bound, step.params["bytes"])
    words: list[Word] = [y, inner, *sizes]
    for base, strides, last in operands:
        words += [base, *strides, last]
    return words
