"""Graph to Program for CUDA: one lowering function an operator, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from convc.backends import shaping
from convc.backends.cuda import (
    convolution,
    depthwise_conv,
    elementwise,
    maps,
    matmul,
    moves,
    normalisation,
    pooling,
    reductions,
    resampling,
)
from convc.backends.cuda.layout import CudaAssembler, Layer
from convc.backends.cuda.plan import Launch, LaunchPlan
from convc.backends.cuda.winners import Winner, project_winners
from convc.backends.fuse_maps import fuse_maps
from convc.backends.prepare import prepare
from convc.backends.program import Buffer, Ints, Plain, Program, Step
from convc.errors import TargetError
from convc.ir.graph import Graph, Node
from convc.types import Array

Lower = Callable[[CudaAssembler, Node], None]
STORAGE = {"float32": "f32", "tf32": "tf32", "float16": "f16", "bfloat16": "bf16"}
"""How values in planes are stored, by precision."""

ELEMENTWISE = (
    *elementwise.UNARY - {"gelu_tanh"}, *elementwise.BINARY, "logical_not", "cast", "equal", "less", "less_or_equal",
    "greater", "greater_or_equal", "logical_and", "logical_or", "where",
)  # fmt: skip

LOWER: dict[str, Lower] = {
    "conv2d": convolution.lower_conv2d, "conv_transpose2d": convolution.lower_conv_transpose2d,
    "linear": convolution.lower_linear, "matmul": matmul.lower_matmul,
    "batch_norm": elementwise.lower_batch_norm, "max_pool2d": pooling.lower_pool, "avg_pool2d": pooling.lower_pool,
    "global_avg_pool": pooling.lower_global, "global_max_pool": pooling.lower_global,
    "softmax": reductions.lower_along, "log_softmax": reductions.lower_along, "argmax": reductions.lower_along,
    "layer_norm": normalisation.lower_norm, "instance_norm": normalisation.lower_norm,
    "group_norm": normalisation.lower_norm, "lrn": normalisation.lower_lrn, "resize": resampling.lower_resize,
    **shaping.LOWER,
    **dict.fromkeys(reductions.REDUCE, reductions.lower_reduce),
    **dict.fromkeys(ELEMENTWISE, elementwise.lower_elementwise),
}  # fmt: skip

LAUNCHES: Mapping[str, Callable[[Step, LaunchPlan], Sequence[Launch]]] = {
    "pack": moves.pack_launches, "unpack": moves.unpack_launches, "relayout": moves.relayout_launches,
    "index_copy": moves.index_copy_launches, "gather": moves.gather_launches, "map_planes": maps.planes_launches,
    "map_plain": maps.plain_launches, "pool": pooling.pool_launches, "global_pool": pooling.global_launches,
    "along": reductions.along_launches, "norm": normalisation.norm_launches, "lrn": normalisation.lrn_launches,
    "resize": resampling.resize_launches, "conv": convolution.conv_launches,
    "depthwise": depthwise_conv.depthwise_launches,
    "matmul": matmul.matmul_launches,
}  # fmt: skip


def lower(
    graph: Graph,
    precision: str = "float32",
    arch: str = "sm_90a",
    packed: Mapping[str, Array] | None = None,
    winners: Mapping[str, Winner] | None = None,
) -> Program:
    """The Program of a graph; `packed` holds constants packed before for the same graph and precision, `winners` what
    was measured for classes of shapes (without it: the project's table).

    Raises TargetError that names every node for which CUDA has no kernel.
    """
    return lower_with(graph, precision, arch, packed, winners)[0]


def lower_with(
    graph: Graph,
    precision: str,
    arch: str,
    packed: Mapping[str, Array] | None = None,
    winners: Mapping[str, Winner] | None = None,
) -> tuple[Program, Mapping[str, Layer]]:
    """The Program, and one convolution of each class of shapes that it has."""
    winners = project_winners(arch) if winners is None else winners
    missing = [node for node in graph.operators if node.op not in LOWER]
    if missing:
        listed = ", ".join(str(node) for node in missing)
        raise TargetError(f"CUDA has no kernels for {listed}", hint="use target='reference'")
    graph = prepare(graph)
    storage = STORAGE[precision]
    asm = CudaAssembler(graph, f"cuda:{arch}", precision, storage, arch, moves.conversions(storage), packed, winners)
    for slot, node in enumerate(graph.inputs):
        asm.buffers.append(Buffer(slot, node.name, node.type, place="input", slot=slot))
        asm.define(Plain(node.name, slot, node.type))
    asm.wanted.update(shuffled_outputs(graph))
    for node in graph.operators:
        LOWER[node.op](asm, node)
    fuse_maps(asm, lambda step: emit_map(step, storage))
    used = {key: winners[key].to_json() for key in asm.layers if key in winners}
    return replace(asm.finish(), choices=used), asm.layers


def emit_map(step: Step, storage: str) -> tuple[str, str]:
    """The kernel of an elementwise step on planes or on plain tensors."""
    calls, ways = step.params["calls"], step.params["ways"]
    return maps.emit_planes(storage, calls, ways) if step.family == "map_planes" else maps.emit_plain(calls, ways)


def shuffled_outputs(graph: Graph) -> dict[str, Ints]:
    """Where a convolution puts its outputs, lane by channel, so that the permutation that reads them moves nothing."""
    wanted: dict[str, Ints] = {}
    for node in graph.operators:
        order = permutation(graph, node)
        source = graph[node.operands[0]] if order is not None else None
        if order is None or source is None or source.op != "conv2d" or source.input("residual") is not None:
            continue
        if len(graph.users(source.name)) > 1 or graph.is_output(source.name):
            continue
        lanes = np.empty(len(order), np.int64)
        lanes[order] = np.arange(len(order))
        wanted[source.name] = lanes
    return wanted


def permutation(graph: Graph, node: Node) -> Ints | None:
    """The channel of the input that each channel of the output is, where the node only permutes them."""
    if node.op not in {"channel_shuffle", "gather"} or node.type.rank != 4 or not isinstance(node.type.shape[1], int):
        return None
    channels: Ints = np.arange(node.type.shape[1])
    if node.op == "channel_shuffle":
        shuffled: Ints = channels.reshape(node.attrs["groups"], -1).T.reshape(-1)
        return shuffled
    indices = graph[node.operands[1]]
    if node.attrs["axis"] % 4 != 1 or indices.op != "constant" or indices.type.rank != 1:
        return None
    order: Ints = np.where(indices.array < 0, indices.array + len(channels), indices.array).astype(np.int64)
    return order if np.array_equal(np.sort(order), channels) and graph[node.operands[0]].type == node.type else None
