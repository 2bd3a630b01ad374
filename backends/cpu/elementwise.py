"""Elementwise operators and batch_norm: which kernel, and operands brought to one layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.calls import Operand, call_of
from convc.backends.cpu.activations import FUNCTION, float32, function_of
from convc.backends.cpu.channels import at_places
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.maps import SCALAR, emit_plain, emit_planes, emit_scalar, run_axes
from convc.backends.operands import scalar_operation
from convc.backends.program import Layout, Plain, Planes
from convc.dims import concrete
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.ops import activation_of
from convc.types import Array, DType

BINARY = {"add", "sub", "mul", "div", "max", "min", "pow", "mod", "prelu"}


def lower_elementwise(asm: Assembler, node: Node, isa: Isa) -> None:
    """Select a planes kernel where an operand lies in planes, else a plain one."""
    types = [asm.graph[i].type for i in node.operands]
    if node.op == "cast" or node.type.dtype is not DType.F32 or any(t.dtype is not DType.F32 for t in types):
        _lower_scalar(asm, node, isa)
        return
    names = node.operands
    params: tuple[float, ...] = ()
    if _is_square(asm, node):
        names, function = names[:1], "square"
    elif node.op in FUNCTION or node.op == "gelu":
        function, params = function_of(activation_of(node.op, node.attrs))
    elif node.op == "mod" and node.attrs["fmod"]:
        function = "fmod"
    elif node.op in BINARY:
        function = node.op
    else:
        raise TargetError(f"{node}: the CPU has no kernel for {node.op} on {types[0]}", hint="use target='reference'")
    leader = _leader(asm, node)
    if leader is not None and _lower_planes(asm, node, names, isa, leader, function, params):
        return
    operands: list[Layout | Operand] = [_plain_operand(asm, name, node) for name in names]
    y = asm.new_plain(node.name, node.type)
    _append_map(asm, node, isa, operands, _ways(operands, node), function, params, y)


def _is_square(asm: Assembler, node: Node) -> bool:
    """Whether the node is x^2, which a product gives to the bit."""
    if node.op != "pow":
        return False
    x, exponent = (asm.graph[name] for name in node.operands)
    return x.type == node.type and exponent.op == "constant" and bool((exponent.array == 2.0).all())


def lower_batch_norm(asm: Assembler, node: Node, isa: Isa) -> None:
    """Y = x * scale + shift with scale = gamma / sqrt(var + epsilon), shift = beta - mean * scale, from float64."""
    gamma, beta, mean, var = (asm.graph[name].array.astype(np.float64) for name in node.operands[1:])
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
        _append_map(asm, node, isa, operands, "vvv", "scale_shift", (), y)
        return
    plain = asm.plain(node.operands[0])
    shape = (1, len(scale), *[1] * (node.type.rank - 2))
    operands = [plain, *(Operand(asm.pack(f"{node.name}.scale", v), shape) for v in values)]
    y_plain = asm.new_plain(node.name, node.type)
    _append_map(asm, node, isa, operands, _ways(operands, node), "scale_shift", (), y_plain)


def _leader(asm: Assembler, node: Node) -> Planes | None:
    """The operand in planes whose shape is the result's."""
    if node.type.rank not in {2, 4}:
        return None
    for name in node.operands:
        if asm.graph[name].op != "constant" and asm.graph[name].type == node.type and asm.has_planes(name):
            return asm.planes(name)
    return None


def _lower_planes(
    asm: Assembler, node: Node, names: Sequence[str], isa: Isa, leader: Planes, function: str,
    params: tuple[float, ...],
) -> bool:  # fmt: skip
    operands: list[Layout | Operand] = []
    ways = ""
    channels = leader.channels
    rank = node.type.rank
    for name in names:
        source = asm.graph[name]
        shape = (*[1] * (rank - source.type.rank), *source.type.shape)
        shape = (*shape, 1, 1) if rank == 2 else shape
        if source.op == "constant":
            if shape[0] != 1:
                return False
            operands.append(
                _planes_constant(asm, node, float32(source.array).reshape([concrete(s, {}) for s in shape]), leader)
            )
            ways += "v"
            continue
        if source.type.rank != rank or not isinstance(shape[1], int):
            return False
        value = asm.planes(name)
        if shape[1] == 1 and channels != 1:
            planes = (value.planes[int(value.places[0, 0])],) * len(leader.planes)
            lane = np.full((1, 2), value.places[0, 1])
            operands.append(Planes(name, value.lanes, value.batch, value.height, value.width, planes, lane))
            ways += "s"
            continue
        operands.append(aligned(asm, name, value, leader))
        ways += "v"
    y = asm.new_planes(node.name, node.type, places=leader.places)
    _append_map(asm, node, isa, operands, ways, function, params, y)
    return True


def _append_map(
    asm: Assembler, node: Node, isa: Isa, operands: Sequence[Layout | Operand], ways: str, function: str,
    params: tuple[float, ...], y: Plain | Planes,
) -> None:  # fmt: skip
    """Append one function of the operands, in planes where y is."""
    calls = call_of(function, len(operands), len(params))
    family, emit = ("map_planes", emit_planes) if isinstance(y, Planes) else ("map_plain", emit_plain)
    facts = {"ways": ways, "floats": params, "calls": calls}
    _append(asm, node, emit(isa, calls, ways), family, operands, y, facts)


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
    found = at_places(value, leader.places, len(leader.planes))
    return found if found is not None else asm.relayout(name, value, leader.places)


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
        return Operand(asm.pack(f"{node.name}.c", source.array), source.array.shape)
    return asm.plain(name)


def _ways(operands: Sequence[Layout | Operand], node: Node) -> str:
    """How operands are read: s where one float serves the axis that is taken by vectors, else v."""
    run = run_axes(node.type.shape)
    shapes = [_padded(operand, node.type.rank)[:run] for operand in operands]
    one = (len(shape) == 0 or (shape[-1] == 1 and node.type.shape[run - 1] != 1) for shape in shapes)
    return "".join("s" if is_splat else "v" for is_splat in one)


def _padded(operand: Layout | Operand, rank: int) -> tuple[Any, ...]:
    shape = operand.shape if isinstance(operand, Operand) else operand.type.shape  # type: ignore[union-attr]
    return (*[1] * (rank - len(shape)), *shape)


def _lower_scalar(asm: Assembler, node: Node, isa: Isa) -> None:
    names = node.operands
    types = [asm.graph[n].type.dtype for n in names]
    out = node.type.dtype
    op = scalar_operation(node, types[0])
    kinds = ["u8" if t is DType.BOOL else str(t) for t in (*types, out)]
    halves = DType.F16 in {out, *types}
    if op not in SCALAR or (halves and (node.op != "cast" or isa.name == "portable")):
        raise TargetError(
            f"{node}: the CPU has no kernel for {node.op} from {', '.join(map(str, types))} to {out}",
            hint="use float32, or target='reference'",
        )
    operands = [_plain_operand(asm, name, node) for name in names]
    y = asm.new_plain(node.name, node.type)
    kernel = emit_scalar(isa, op, kinds[:-1], kinds[-1])
    _append(asm, node, kernel, "map_scalar", operands, y, {"bytes": [t.bytes for t in types]})
