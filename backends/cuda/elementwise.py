"""Elementwise operators, batch_norm and the prologue of a convolution: which kernel, and how each operand is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convc.backends.assemble import operand
from convc.backends.calls import Call, Operand, call_of
from convc.backends.cuda import formulas
from convc.backends.cuda.layout import CudaAssembler
from convc.backends.cuda.maps import emit_plain, emit_planes, emit_scalar
from convc.backends.operands import scalar_operation
from convc.backends.program import Layout, Plain, Planes
from convc.dims import concrete
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.ops import activation_of
from convc.types import Activation, Array, DType

UNARY = formulas.PLAIN | set(formulas.RENAMED) | set(formulas.WITH_PARAMETERS)
BINARY = {"add", "sub", "mul", "div", "max", "min", "pow", "mod", "prelu"}
SCALAR = {
    "add", "sub", "mul", "min", "max", "equal", "less", "less_or_equal", "greater", "greater_or_equal", "logical_and",
    "logical_or", "logical_not", "where", "neg", "abs", "cast", "to_bool", "to_int", "div", "true_div", "floor_div",
    "mod", "fmod", "float_fmod",
}  # fmt: skip
"""Operators on element types other than float32, or with a result other than float32."""


def lower_elementwise(asm: CudaAssembler, node: Node) -> None:
    """Select a planes kernel where an operand lies in planes, else a plain one."""
    types = [asm.graph[i].type for i in node.operands]
    if node.op == "cast" or node.type.dtype is not DType.F32 or any(t.dtype is not DType.F32 for t in types):
        _lower_scalar(asm, node)
        return
    if node.op in UNARY:
        function, params = formulas.function_of(activation_of(node.op, node.attrs))
    elif node.op in BINARY:
        function, params = ("fmod" if node.op == "mod" and node.attrs["fmod"] else node.op), ()
    else:
        raise TargetError(f"{node}: CUDA has no kernel for {node.op} on {types[0]}", hint="use target='reference'")
    if _in_planes(asm, node) and _lower_planes(asm, node, function, params):
        return
    operands = [_plain_operand(asm, name, node) for name in node.operands]
    y = asm.new_plain(node.name, node.type)
    append(asm, node.name, call_of(function, len(operands), len(params)), operands, y, "", params)
    asm.define(y)


def lower_batch_norm(asm: CudaAssembler, node: Node) -> None:
    """Y = x * scale + shift with scale = gamma / sqrt(var + epsilon), shift = beta - mean * scale, from float64."""
    gamma, beta, mean, var = (asm.graph[name].array.astype(np.float64) for name in node.operands[1:])
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(var + node.attrs["epsilon"])
        shift = beta - mean * scale
    values = [v.astype(np.float32) for v in (scale, shift)]
    operands: list[Layout | Operand]
    if node.type.rank in {2, 4}:
        x = asm.natural(node.operands[0])
        y = asm.new_planes(node.name, node.type)
        operands = [x, *(channel_constant(asm, f"{node.name}.c", v) for v in values)]
        append(asm, node.name, call_of("scale_shift", 3, 0), operands, y, "vcc", ())
        asm.define(y)
        return
    shape = (1, len(scale), *[1] * (node.type.rank - 2))
    operands = [asm.plain(node.operands[0]), *(Operand(asm.pack(f"{node.name}.scale", v), shape) for v in values)]
    plain = asm.new_plain(node.name, node.type)
    append(asm, node.name, call_of("scale_shift", 3, 0), operands, plain, "", ())
    asm.define(plain)


def lower_prologue(asm: CudaAssembler, node: Node) -> Planes:
    """Append the step that maps a conv2d's input, activation(x scale + shift), and give its planes."""
    x = asm.natural(str(node.inputs[0]))
    y = asm.new_planes(f"{node.name}.prologue", asm.graph[str(node.inputs[0])].type)
    operands: list[Layout | Operand] = [x]
    for slot, otherwise in (("scale", 1.0), ("shift", 0.0)):
        source = operand(asm.graph, node, slot)
        vector = np.full(x.channels, otherwise) if source is None else source.array
        operands.append(channel_constant(asm, f"{node.name}.{slot}", np.asarray(vector, np.float32)))
    prologue: Activation | None = node.attrs["prologue"]
    function, params = formulas.function_of(prologue)
    calls = call_of("scale_shift", 3, 0)
    if function:
        calls = (*calls, Call(function, (-1,), len(params)))
    append(asm, node.name, calls, operands, y, "vcc", params)
    return y


def channel_constant(asm: CudaAssembler, name: str, vector: Array) -> Operand:
    """A value a channel, with zeros for the lanes beyond."""
    padded = np.zeros(asm.padded(len(vector)), np.float32)
    padded[: len(vector)] = vector
    return Operand(asm.pack(name, padded), (1, 1, len(padded)))


def append(
    asm: CudaAssembler, node: str, calls: tuple[Call, ...], operands: Sequence[Layout | Operand], y: Plain | Planes,
    ways: str, floats: Sequence[float],
) -> None:  # fmt: skip
    """Append a map, in planes where y is. `ways` is for planes; of plain tensors each is read by its strides."""
    if isinstance(y, Planes):
        family, kernel = "map_planes", emit_planes(asm.storage, calls, ways)
    else:
        ways = "v" * len(operands)
        family, kernel = "map_plain", emit_plain(calls, ways)
    _append(asm, node, kernel, family, operands, y, {"ways": ways, "floats": tuple(floats), "calls": calls})


def _append(
    asm: CudaAssembler, node: str, kernel: tuple[str, str], family: str, operands: Sequence[Layout | Operand],
    y: Plain | Planes, params: dict[str, Any],
) -> None:  # fmt: skip
    """Append the step. `operands` in its params are constants, or positions among what it reads."""
    reads = [o for o in operands if not isinstance(o, Operand)]
    places = iter(range(len(reads)))
    params["operands"] = [o if isinstance(o, Operand) else next(places) for o in operands]
    asm.step(kernel, family, node, reads, (y,), params)


def _in_planes(asm: CudaAssembler, node: Node) -> bool:
    """Whether an operand of the result's shape lies in planes."""
    if node.type.rank not in {2, 4} or not isinstance(node.type.shape[1], int):
        return False
    return any(
        asm.graph[name].op != "constant" and asm.graph[name].type == node.type and asm.has_planes(name)
        for name in node.operands
    )


def _lower_planes(asm: CudaAssembler, node: Node, function: str, params: tuple[float, ...]) -> bool:
    operands: list[Layout | Operand] = []
    ways = ""
    rank, channels = node.type.rank, node.type.shape[1]
    for name in node.operands:
        source = asm.graph[name]
        shape = (*[1] * (rank - source.type.rank), *source.type.shape)
        shape = (*shape, 1, 1) if rank == 2 else shape
        if source.op == "constant":
            if shape[0] != 1:
                return False
            array = np.asarray(source.array, np.float32).reshape([concrete(s, {}) for s in shape])
            operands.append(_pixel_constant(asm, node, array))
            ways += "c" if shape[2:] == (1, 1) else "k"
        elif source.type.rank != rank or not isinstance(shape[1], int):
            return False
        else:
            operands.append(asm.natural(name))
            ways += "v" if source.type == node.type else "b" if shape[1] == channels else "s"
    y = asm.new_planes(node.name, node.type)
    append(asm, node.name, call_of(function, len(operands), len(params)), operands, y, ways, params)
    asm.define(y)
    return True


def _pixel_constant(asm: CudaAssembler, node: Node, array: Array) -> Operand:
    """A constant [1, C or 1, H or 1, W or 1] as [H or 1, W or 1, lanes]."""
    channels = concrete(node.type.shape[1], {})
    full = np.broadcast_to(array[0], (channels, *array.shape[2:]))
    packed = np.zeros((*array.shape[2:], asm.padded(channels)), np.float32)
    packed[..., :channels] = full.transpose(1, 2, 0)
    return Operand(asm.pack(f"{node.name}.c", packed), packed.shape)


def _plain_operand(asm: CudaAssembler, name: str, node: Node) -> Layout | Operand:
    source = asm.graph[name]
    if source.op == "constant":
        return Operand(asm.pack(f"{node.name}.c", source.array), source.array.shape)
    return asm.plain(name)


def _lower_scalar(asm: CudaAssembler, node: Node) -> None:
    types = [asm.graph[n].type.dtype for n in node.operands]
    out = node.type.dtype
    op = scalar_operation(node, types[0])
    if op not in SCALAR or (DType.F16 in {out, *types} and node.op != "cast"):
        raise TargetError(
            f"{node}: CUDA has no kernel for {node.op} from {', '.join(map(str, types))} to {out}",
            hint="use float32, or target='reference'",
        )
    operands = [_plain_operand(asm, name, node) for name in node.operands]
    y = asm.new_plain(node.name, node.type)
    kernel = emit_scalar(op, [str(t) for t in types], str(out))
    _append(asm, node.name, kernel, "map_plain", operands, y, {"floats": ()})
    asm.define(y)
