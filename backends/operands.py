"""What nodes ask of their operands, the same for every target: constants, element types, normalised axes, taps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.axes import broadcast_strides
from convc.backends.program import Ints
from convc.dims import Size, concrete
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.types import Array, DType, product


def constant_of(asm: Assembler, node: Node, slot: str) -> Array:
    """The constant in a slot, as float32. Computed ones are no operands any more (`computed.py`)."""
    return np.asarray(asm.graph[str(node.input(slot))].array, np.float32)


def transposed_taps(a: int, kernel: int, stride: int, padding: int, dilation: int) -> list[tuple[int, int]]:
    """Taps r of a transposed convolution that reach output q stride + a along one axis, and their place from q."""
    return [
        (r, (a + padding - r * dilation) // stride) for r in range(kernel) if (a + padding - r * dilation) % stride == 0
    ]


def scalar_operation(node: Node, first: DType) -> str:
    """What a scalar kernel does for an operator on these element types, by name."""
    out = node.type.dtype
    if node.op == "cast" and out is DType.BOOL:
        return "to_bool"
    if node.op == "cast" and first.is_float and not out.is_float:
        return "to_int"
    if node.op == "div":
        return "true_div" if out.is_float else "floor_div" if out.value.startswith("u") else "div"
    if node.op == "mod" and node.attrs["fmod"] and not out.value.startswith("u"):
        return "float_fmod" if out.is_float else "fmod"
    return node.op


def batch_offsets(left: Sequence[int], right: Sequence[int]) -> Ints:
    """Where the matrices of each product of a matmul start, in elements: [products, 2]. Batches broadcast."""
    batch = np.broadcast_shapes(tuple(left[:-2]), tuple(right[:-2]))
    index = np.indices(batch).reshape(len(batch), int(np.prod(batch)))
    table = []
    for shape in (left, right):
        strides = broadcast_strides(shape[:-2], batch, shape[-2] * shape[-1])
        table.append((np.array(strides, np.int64)[:, None] * index).sum(0))
    return np.stack(table, axis=1).astype(np.int64)


def append_norm(asm: Assembler, node: Node, emit: Callable[[bool], tuple[str, str]]) -> None:
    """Append layer_norm, instance_norm or group_norm on a plain tensor.

    `emit` takes whether gamma and beta differ along what is normalised. Params: sizes (rows, groups, channels of a
    group, elements of a channel), affine (for gamma and beta a packed constant, or which of the reads), epsilon.
    """
    x = asm.plain(str(node.inputs[0]))
    shape = x.type.shape
    sizes: tuple[Size, ...]
    by_element = False
    if node.op == "layer_norm":
        axis = node.attrs["axis"] % len(shape)
        first = _first_varying(asm, node)
        by_element = first < len(shape)
        first = min(first, axis) if by_element else len(shape)
        sizes = (product(shape[:axis]), product(shape[first:axis]), 1, product(shape[axis:]))
        if any(not isinstance(s, int) for s in shape[first:]):
            raise TargetError(f"{node}: gamma and beta span symbolic sizes of {x.type}", hint="give input_shapes=")
        count = [concrete(s, {}) for s in shape[first:]]
    else:
        groups = node.attrs["groups"] if node.op == "group_norm" else shape[1]
        sizes = (shape[0] * groups, groups, shape[1] // groups, product(shape[2:]))
        count = [concrete(shape[1], {})]
    affine: list[str | int] = []
    reads = [x]
    for slot, default in (("gamma", 1.0), ("beta", 0.0)):
        name = node.input(slot)
        array = np.full(count, default, np.float32)
        if name is not None:
            source = asm.graph[name]
            if source.op != "constant" and source.type.shape == tuple(count):
                affine.append(len(reads))
                reads.append(asm.plain(name))
                continue
            if source.op != "constant":
                raise TargetError(f"{node}: {slot} is {source.type}, expected shape {count}", hint="expand it")
            array = np.asarray(source.array, np.float32)
            array = np.broadcast_to(array.reshape(array.shape[max(array.ndim - len(count), 0) :]), count)
        affine.append(asm.pack(f"{node.name}.{slot}", np.ascontiguousarray(array)))
    y = asm.new_plain(node.name, node.type)
    params = {"sizes": sizes, "affine": affine, "epsilon": node.attrs["epsilon"]}
    asm.step(emit(by_element), "norm", node.name, reads, (y,), params)
    asm.define(y)


def _first_varying(asm: Assembler, node: Node) -> int:
    """The first axis of x along which gamma or beta of a layer_norm differ; the rank of x where none does."""
    rank = node.type.rank
    shapes = [asm.graph[name].type.shape for name in node.operands[1:]]
    return min((rank - len(s) + i for s in shapes for i, size in enumerate(s) if size != 1), default=rank)
