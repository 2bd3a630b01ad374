"""Graph to Program for the CPU: one lowering function an operator, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from convc.backends import shaping
from convc.backends.assemble import Assembler
from convc.backends.cpu import (
    channels_last,
    conv_call,
    convolution,
    elementwise,
    linear_call,
    maps,
    matmul,
    moves,
    norm_planes,
    normalisation,
    pack,
    phases_pack,
    pooling,
    reductions,
    resampling,
    take,
    transposed,
    winograd_call,
)  # fmt: skip
from convc.backends.cpu.choice import Choice
from convc.backends.cpu.isa import Isa, host_processor
from convc.backends.cpu.merge import write_kernels
from convc.backends.cpu.places import output_places
from convc.backends.cpu.pool_behind import pool_behind
from convc.backends.fuse_maps import fuse_maps
from convc.backends.prepare import prepare
from convc.backends.program import Buffer, Plain, Program, Step
from convc.errors import TargetError
from convc.ir.graph import Graph, Node
from convc.types import Array

if TYPE_CHECKING:
    from convc.backends.binding import Binding, Word

MANY_ROWS = 8
"""Rows of a linear layer from which its weights, once in a cache, serve often enough for a convolution's kernels."""
Lower = Callable[[Assembler, Node, Isa], None]


def _for_any_target(lower: shaping.Lower) -> Lower:
    return lambda asm, node, isa: lower(asm, node)


ELEMENTWISE = (
    "relu", "leaky_relu", "clip", "sigmoid", "hard_sigmoid", "hard_swish", "silu", "tanh", "elu", "selu", "celu",
    "softplus", "softsign", "mish", "gelu", "erf", "exp", "log", "sqrt", "reciprocal", "neg", "abs", "floor", "ceil",
    "round", "sign", "sin", "cos", "logical_not", "cast", "prelu", "add", "sub", "mul", "div", "pow", "max", "min",
    "mod", "equal", "less", "less_or_equal", "greater", "greater_or_equal", "logical_and", "logical_or", "where",
)  # fmt: skip

LOWER: dict[str, Lower] = {
    "conv2d": convolution.lower_conv2d, "conv_transpose2d": transposed.lower_conv_transpose2d,
    "linear": linear_call.lower_linear, "matmul": matmul.lower_matmul, "batch_norm": elementwise.lower_batch_norm,
    "max_pool2d": pooling.lower_pool, "avg_pool2d": pooling.lower_pool, "global_avg_pool": pooling.lower_global,
    "global_max_pool": pooling.lower_global, "softmax": reductions.lower_along, "log_softmax": reductions.lower_along,
    "argmax": reductions.lower_along, "layer_norm": normalisation.lower_norm, "instance_norm": normalisation.lower_norm,
    "group_norm": normalisation.lower_norm, "lrn": normalisation.lower_lrn, "resize": resampling.lower_resampling,
    **{op: _for_any_target(lower) for op, lower in shaping.LOWER.items()},
    "pad": take.lower_pad, "slice": take.lower_slice, "transpose": channels_last.lower_transpose,
    **dict.fromkeys(reductions.REDUCE, reductions.lower_reduce),
    **dict.fromkeys(ELEMENTWISE, elementwise.lower_elementwise),
}  # fmt: skip

ARGUMENTS: Mapping[str, Callable[[Step, Binding], Sequence[Word]]] = {
    "conv": conv_call.arguments, "winograd": winograd_call.arguments, "linear": linear_call.arguments,
    "pack": pack.pack_arguments, "unpack": pack.unpack_arguments, "phases": phases_pack.arguments,
    "relayout": moves.relayout_arguments, "clear_halo": moves.clear_halo_arguments,
    "index_copy": moves.index_copy_arguments, "map_planes": maps.planes_arguments,
    "map_plain": maps.plain_arguments, "map_scalar": maps.scalar_arguments, "pool": pooling.pool_arguments,
    "global_pool": pooling.global_arguments, "along": reductions.along_arguments,
    "norm": normalisation.norm_arguments, "norm_planes": norm_planes.arguments, "lrn": normalisation.lrn_arguments,
    "matmul": matmul.matmul_arguments, "resize": resampling.resize_arguments, "gather": moves.gather_arguments,
    "take_planes": take.arguments, "norm_last": channels_last.arguments,
}  # fmt: skip
EMIT_MAP = {"map_planes": maps.emit_planes, "map_plain": maps.emit_plain}


def lower(graph: Graph, isa: Isa, packed: Mapping[str, Array] | None = None) -> Program:
    """The Program of a graph; `packed` holds constants packed before for the same graph and instruction set.

    Raises TargetError that names every node for which the CPU has no kernel.
    """
    return lower_with(graph, isa, packed)[0]


def lower_with(
    graph: Graph, isa: Isa, packed: Mapping[str, Array] | None = None, choices: Mapping[str, Choice] | None = None,
    processor: str | None = None,
) -> tuple[Program, Mapping[str, Sequence[Choice]]]:  # fmt: skip
    """The same with what was chosen for convolutions by name, else predicted for this machine's processor or another;
    also what could be, the likely best first.
    """
    missing = [node for node in graph.operators if node.op not in LOWER]
    if missing:
        listed = ", ".join(str(node) for node in missing)
        raise TargetError(f"the CPU has no kernels for {listed}", hint="use target='reference'")
    graph = prepare(graph, MANY_ROWS)
    processor = host_processor() if processor is None else processor
    places = output_places(graph, isa.lanes)

    def lowered(gaps: Mapping[str, bool]) -> Assembler:
        asm = Assembler(graph, f"cpu:{isa.name}", isa.lanes, moves.conversions(isa), packed)
        asm.choices, asm.gaps, asm.processor = choices or {}, gaps, processor
        asm.wanted.update(places)
        for slot, node in enumerate(graph.inputs):
            asm.buffers.append(Buffer(slot, node.name, node.type, place="input", slot=slot))
            asm.define(Plain(node.name, slot, node.type))
        for node in graph.operators:
            LOWER[node.op](asm, node, isa)
        return asm

    asm = lowered({})
    if gaps := asm.surprises():
        asm = lowered(gaps)
    pool_behind(asm, isa)
    fuse_maps(asm, lambda step: EMIT_MAP[step.family](isa, step.params["calls"], step.params["ways"]))
    write_kernels(asm, isa)
    given = {name: one.to_json() for name, one in (choices or {}).items()}
    program = replace(asm.finish(), choices=given, processor=processor)
    return program, asm.candidates
