"""Elementwise operators: on planes, on plain float32 tensors, and scalar by scalar on other element types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Word
from convc.backends.cpu.activations import FUNCTION, float32, float_word, function_of, write_parameters
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.writer import Writer
from convc.backends.program import Array, Layout, Plain, Planes, Step
from convc.dims import concrete
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.ops import activation_of
from convc.types import DType

RANK = 5
BINARY = {"add", "sub", "mul", "div", "max", "min", "pow", "mod", "prelu"}
SCALAR: dict[str, str] = {
    "add": "x0 + x1", "sub": "x0 - x1", "mul": "x0 * x1", "min": "x0 if x0 < x1 else x1", "max": "x0 if x0 > x1 else x1",
    "equal": "1 if x0 == x1 else 0", "less": "1 if x0 < x1 else 0", "less_or_equal": "1 if x0 <= x1 else 0",
    "greater": "1 if x0 > x1 else 0", "greater_or_equal": "1 if x0 >= x1 else 0",
    "logical_and": "1 if x0 != 0 and x1 != 0 else 0", "logical_or": "1 if x0 != 0 or x1 != 0 else 0",
    "logical_not": "1 if x0 == 0 else 0", "where": "x1 if x0 != 0 else x2", "neg": "-x0", "abs": "-x0 if x0 < 0 else x0",
    "cast": "x0", "to_bool": "1 if x0 != 0 else 0", "to_int": "int(x0)",
}  # fmt: skip
"""Expressions over scalars, for element types other than float32 and for results other than float32."""


@dataclass(frozen=True, eq=False)
class Operand:
    """A constant operand packed by planes: [planes, height, width, lanes], or plain with its shape."""

    packed: str
    shape: tuple[int, ...]


# ---- emitters ------------------------------------------------------------------------------------------------------


def emit_planes(isa: Isa, function: str, splats: tuple[bool, ...], params: int) -> tuple[str, str]:
    """Y = function(x0, x1, ...) on planes. A splat operand gives one float for all lanes."""
    kinds = "".join("s" if s else "v" for s in splats)
    letters = [f"{letter}{i}" for i in range(len(splats)) for letter in ("x", "planes", "image", "row", "pixel")]
    arguments = ["y", "y_planes", "count", "images", "rows", "width", "y_image", "y_row", *letters]
    out = Writer(
        f"f32_map_{function}_{kinds}__{isa.name}",
        arguments,
        "x, y: bases; planes: tables; the rest: sizes, byte strides",
    )
    names = write_parameters(out, params, len(arguments), isa.lanes)
    with out.share("count * images * rows", "item"):
        out(
            "plane = item // (images * rows)", "j = item - plane * (images * rows)", "n = j // rows", "h = j - n * rows"
        )
        out("to = y + load_i64(y_planes, plane) + n * y_image + h * y_row")
        for i in range(len(splats)):
            out(f"at{i} = x{i} + load_i64(planes{i}, plane) + n * image{i} + h * row{i}")
        with out.block("for w in range(width)"):
            for i, is_splat in enumerate(splats):
                out(f"v{i} = vec_{'splat' if is_splat else 'load'}(at{i} + w * pixel{i}, {isa.lanes})")
            out(f"vec_store(to + w * {isa.lanes * 4}, v_{function}({_listed('v', len(splats))}{names}))")
    return out.finish()


def emit_plain(isa: Isa, function: str, splats: tuple[bool, ...], params: int) -> tuple[str, str]:
    """Y = function(x0, x1, ...) on plain tensors of up to 5 axes over a run of `n` contiguous elements."""
    kinds = "".join("s" if s else "v" for s in splats)
    letters = [f"{letter}{i}" for i in range(len(splats)) for letter in ("x", *(f"s{d}_" for d in range(RANK)))]
    arguments = ["y", "n", *(f"d{d}" for d in range(RANK)), *letters]
    out = Writer(
        f"f32_map_plain_{function}_{kinds}__{isa.name}", arguments, "d: sizes; s: byte strides by axis and operand"
    )
    names = write_parameters(out, params, len(arguments), isa.lanes)
    blocks = f"((n + {isa.lanes - 1}) // {isa.lanes})"
    with out.share(f"d0 * d1 * d2 * d3 * d4 * {blocks}", "item"):
        out(
            f"j = item // {blocks}",
            f"at = (item - j * {blocks}) * {isa.lanes}",
            "count = n - at",
            "to = y + (j * n + at) * 4",
        )
        _strided(out, len(splats), "at * 4", splats)
        with out.block(f"if count >= {isa.lanes}"):
            for i, is_splat in enumerate(splats):
                out(f"v{i} = vec_{'splat' if is_splat else 'load'}(at{i}, {isa.lanes})")
            out(f"vec_store(to, v_{function}({_listed('v', len(splats))}{names}))")
        with out.block("else"):
            for i, is_splat in enumerate(splats):
                out(
                    f"v{i} = vec_splat(at{i}, {isa.lanes})"
                    if is_splat
                    else f"v{i} = vec_load_first(at{i}, count, {isa.lanes})"
                )
            out(f"vec_store_first(to, v_{function}({_listed('v', len(splats))}{names}), count)")
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
        _strided(out, len(inputs), "", (True,) * len(inputs), base="a")
        with out.block("for i in range(n)"):
            for i, kind in enumerate(inputs):
                out(f"x{i} = get_{kind}(at{i} + i * step{i})")
            out(f"put_{output}(y + (item * n + i) * {width}, {SCALAR[op]})")
    return out.finish()


def _listed(letter: str, count: int) -> str:
    return ", ".join(f"{letter}{i}" for i in range(count))


def _strided(out: Writer, count: int, run: str, splats: Sequence[bool], base: str = "x") -> None:
    """Addresses at0, at1, ... of operands at the flat outer index j."""
    for i in range(count):
        out(f"at{i} = {base}{i}" + (f" + {run}" if run and not splats[i] else ""))
    out("k = j")
    for axis in reversed(range(RANK)):
        out(f"q = k // d{axis}", f"o = k - q * d{axis}", "k = q")
        for i in range(count):
            out(f"at{i} += o * s{axis}_{i}")


# ---- lowering ------------------------------------------------------------------------------------------------------


def lower_elementwise(asm: Assembler, node: Node, isa: Isa) -> None:
    """Select a planes kernel where an operand lies in planes, else a plain one."""
    types = [asm.graph[i].type for i in node.operands]
    if node.op == "cast" or node.type.dtype is not DType.F32 or any(t.dtype is not DType.F32 for t in types):
        _lower_scalar(asm, node, isa)
        return
    if node.op in FUNCTION or node.op == "gelu":
        function, params = function_of(activation_of(node.op, node.attrs))
    elif node.op == "mod" and node.attrs["fmod"]:
        function, params = "fmod", ()
    elif node.op in BINARY:
        function, params = node.op, ()
    else:
        raise TargetError(f"{node}: the CPU has no kernel for {node.op} on {types[0]}", hint="use target='reference'")
    leader = _leader(asm, node)
    if leader is not None and _lower_planes(asm, node, isa, leader, function, params):
        return
    operands: list[Layout | Operand] = [_plain_operand(asm, name, node) for name in node.operands]
    y = asm.new_plain(node.name, node.type)
    shapes = [_padded(o, node.type.rank) for o in operands]
    splats = tuple(len(s) == 0 or (s[-1] == 1 and node.type.shape[-1] != 1) for s in shapes)
    kernel = emit_plain(isa, function, splats, len(params))
    _append(asm, node, kernel, "map_plain", operands, y, {"splats": splats, "floats": params})


def lower_batch_norm(asm: Assembler, node: Node, isa: Isa) -> None:
    """Y = x * scale + shift with scale = gamma / sqrt(var + epsilon), shift = beta - mean * scale, from float64."""
    arrays = []
    for name in node.operands[1:]:
        source = asm.graph[name]
        if source.op != "constant":
            raise TargetError(f"{node}: {source} is not a constant", hint="statistics must be constants")
        arrays.append(source.array.astype(np.float64))
    gamma, beta, mean, var = arrays
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(var + node.attrs["epsilon"])
        shift = beta - mean * scale
    values = [float32(v.astype(np.float32)) for v in (scale, shift)]
    if node.type.rank in {2, 4}:
        x = asm.planes(node.operands[0])
        y = asm.new_planes(node.name, node.type, places=x.places)
        operands: list[Layout | Operand] = [
            x,
            *(_planes_constant(asm, node, v.reshape(1, -1, 1, 1), x) for v in values),
        ]
        kernel = emit_planes(isa, "scale_shift", (False,) * 3, 0)
        _append(asm, node, kernel, "map_planes", operands, y, {"splats": (False,) * 3, "floats": ()})
        return
    plain = asm.plain(node.operands[0])
    shape = (1, len(scale), *[1] * (node.type.rank - 2))
    splats = (False, node.type.rank > 2, node.type.rank > 2)
    operands = [plain, *(Operand(asm.pack(f"{node.name}.scale", v), shape) for v in values)]
    y_plain = asm.new_plain(node.name, node.type)
    kernel = emit_plain(isa, "scale_shift", splats, 0)
    _append(asm, node, kernel, "map_plain", operands, y_plain, {"splats": splats, "floats": ()})


def _leader(asm: Assembler, node: Node) -> Planes | None:
    """The operand in planes whose shape is the result's."""
    if node.type.rank not in {2, 4}:
        return None
    for name in node.operands:
        if asm.graph[name].op != "constant" and asm.graph[name].type == node.type and asm.has_planes(name):
            return asm.planes(name)
    return None


def _lower_planes(
    asm: Assembler, node: Node, isa: Isa, leader: Planes, function: str, params: tuple[float, ...]
) -> bool:
    operands: list[Layout | Operand] = []
    splats: list[bool] = []
    channels = leader.channels
    rank = node.type.rank
    for name in node.operands:
        source = asm.graph[name]
        shape = (*[1] * (rank - source.type.rank), *source.type.shape)
        shape = (*shape, 1, 1) if rank == 2 else shape
        if source.op == "constant":
            if shape[0] != 1:
                return False
            operands.append(_planes_constant(asm, node, float32(source.array).reshape([int(s) for s in shape]), leader))
            splats.append(False)
            continue
        if source.type.rank != rank or not isinstance(shape[1], int):
            return False
        value = asm.planes(name)
        if shape[1] == 1 and channels != 1:
            planes = (value.planes[int(value.places[0, 0])],) * len(leader.planes)
            lane = np.full((1, 2), value.places[0, 1])
            operands.append(Planes(name, value.lanes, value.batch, value.height, value.width, planes, lane))
            splats.append(True)
            continue
        operands.append(aligned(asm, name, value, leader))
        splats.append(False)
    y = asm.new_planes(node.name, node.type, places=leader.places)
    kernel = emit_planes(isa, function, tuple(splats), len(params))
    _append(asm, node, kernel, "map_planes", operands, y, {"splats": tuple(splats), "floats": params})
    return True


def _append(
    asm: Assembler, node: Node, kernel: tuple[str, str], family: str, operands: Sequence[Layout | Operand],
    y: Plain | Planes, params: dict[str, Any],
) -> None:  # fmt: skip
    """Append the step. `operands` in its params are constants, or positions among what it reads."""
    reads = [o for o in operands if not isinstance(o, Operand)]
    places = iter(range(len(reads)))
    params["operands"] = [o if isinstance(o, Operand) else next(places) for o in operands]
    asm.step(kernel, family, node.name, reads, (y,), params)
    asm.define(y)


def aligned(asm: Assembler, name: str, value: Planes, leader: Planes) -> Planes:
    """`value` as a list of planes in which every channel lies where it does in `leader`; copied where it must be."""
    if np.array_equal(value.places, leader.places) and len(value.planes) == len(leader.planes):
        return value
    source: dict[int, int] = {}
    same_lane = bool((value.places[:, 1] == leader.places[:, 1]).all())
    if same_lane and all(
        source.setdefault(int(to), int(at)) == at
        for to, at in zip(leader.places[:, 0], value.places[:, 0], strict=True)
    ):
        planes = tuple(value.planes[source.get(i, 0)] for i in range(len(leader.planes)))
        return Planes(name, value.lanes, value.batch, value.height, value.width, planes, leader.places)
    return asm.relayout(name, value, leader.places)


def _planes_constant(asm: Assembler, node: Node, array: Array, leader: Planes) -> Operand:
    """A constant [1, C or 1, H or 1, W or 1] by planes: [planes, H or 1, W or 1, lanes]."""
    slots = leader.slots()
    full = np.broadcast_to(array[0], (leader.channels, *array.shape[2:]))
    packed = np.where((slots >= 0)[..., None, None], full[np.maximum(slots, 0)], np.float32(0))
    packed = np.ascontiguousarray(packed.transpose(0, 2, 3, 1))
    return Operand(asm.pack(f"{node.name}.c", packed), packed.shape)


def _plain_operand(asm: Assembler, name: str, node: Node) -> Layout | Operand:
    source = asm.graph[name]
    if source.op == "constant":
        array = np.ascontiguousarray(source.array)
        return Operand(asm.pack(f"{node.name}.c", array), tuple(array.shape))
    return asm.plain(name)


def _padded(operand: Layout | Operand, rank: int) -> tuple[Any, ...]:
    shape = operand.shape if isinstance(operand, Operand) else operand.type.shape  # type: ignore[union-attr]
    return (*[1] * (rank - len(shape)), *shape)


def _lower_scalar(asm: Assembler, node: Node, isa: Isa) -> None:
    names = node.operands
    types = [asm.graph[n].type.dtype for n in names]
    out = node.type.dtype
    op = node.op
    if op == "cast":
        if out is DType.BOOL:
            op = "to_bool"
        elif not out.is_float and types[0].is_float:
            op = "to_int"
    if op not in SCALAR or DType.F16 in {out, *types}:
        raise TargetError(
            f"{node}: the CPU has no kernel for {node.op} from {', '.join(map(str, types))} to {out}",
            hint="use float32, or target='reference'",
        )
    kinds = ["u8" if t is DType.BOOL else str(t) for t in types]
    operands = [_plain_operand(asm, name, node) for name in names]
    y = asm.new_plain(node.name, node.type)
    kernel = emit_scalar(isa, op, kinds, "u8" if out is DType.BOOL else str(out))
    _append(asm, node, kernel, "map_scalar", operands, y, {"bytes": [t.bytes for t in types]})


# ---- arguments -----------------------------------------------------------------------------------------------------


def planes_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_planes`."""
    y = step.writes[0]
    assert isinstance(y, Planes)
    g = bound.geometry(y)
    words: list[Word] = [
        bound.arena, bound.table(g.planes), len(g.planes), g.images, g.height, g.width, g.image, g.row,
    ]  # fmt: skip
    for operand, is_splat in zip(step.params["operands"], step.params["splats"], strict=True):
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
        table = x.planes + (int(source.places[0, 1]) * 4 if is_splat else 0)
        words += [
            bound.arena, bound.table(table), x.image if x.images > 1 else 0, x.row if x.height > 1 else 0,
            x.pixel if x.width > 1 else 0,
        ]  # fmt: skip
    return [*words, *(float_word(p) for p in step.params["floats"])]


def broadcast_strides(shape: Sequence[int], target: Sequence[int], element: int) -> list[int]:
    """Byte strides of a contiguous tensor broadcast to `target`: 0 where it is repeated."""
    padded = [1] * (len(target) - len(shape)) + list(shape)
    strides, step = [0] * len(padded), element
    for axis in reversed(range(len(padded))):
        strides[axis] = step if padded[axis] > 1 else 0
        step *= padded[axis]
    return strides


def merge_axes(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Merge adjacent axes that every operand walks as one; drop axes of size 1."""
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(m[-1] == s[axis] * size for m, s in zip(merged, strides, strict=True)):
            sizes[-1] *= size
            for m, s in zip(merged, strides, strict=True):
                m[-1] = s[axis]
            continue
        sizes.append(size)
        for m, s in zip(merged, strides, strict=True):
            m.append(s[axis])
    return sizes, merged


def _axes(
    step: Step, bound: Binding, widths: Sequence[int]
) -> tuple[Word, int, list[int], list[tuple[Word, list[int], int]]]:
    y = step.writes[0]
    assert isinstance(y, Plain)
    shape = bound.shape(y)
    bases: list[Word] = []
    strides: list[list[int]] = []
    for operand, width in zip(step.params["operands"], widths, strict=True):
        if isinstance(operand, Operand):
            bases.append(bound.constant(operand.packed))
            strides.append(broadcast_strides(operand.shape, shape, width))
            continue
        source = step.reads[operand]
        assert isinstance(source, Plain)
        bases.append(bound.address(source))
        strides.append(broadcast_strides(bound.shape(source), shape, width))
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


__all__ = [
    "aligned", "concrete", "lower_batch_norm", "lower_elementwise", "plain_arguments", "planes_arguments",
    "scalar_arguments",
]  # fmt: skip
