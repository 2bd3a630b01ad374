"""instance_norm and group_norm from normalisations that stand between reshapes, or that name their axes.

    layer_norm(x [N, C, H, W]) {axis=2}, gamma and beta [C, 1, 1] = instance_norm(x, gamma, beta)
    reshape(norm(reshape(x, [N, G, ...])), shape of x) = group_norm(x) {groups=G}, norm an instance_norm or layer_norm

PyTorch exports GroupNorm as the latter. gamma and beta of a group serve each of its channels.
Numerics: reassociates. Rejects: gamma or beta that are computed. Sources: Ulyanov et al. 2016; Wu & He 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convc.ir.graph import Node, constant, make_node
from convc.ir.patch import Draft, Patch
from convc.passes.base import Reject
from convc.passes.driver import Rule
from convc.passes.pattern import is_known, operand, required, sources, unknown_slots
from convc.types import Array


@dataclass(frozen=True)
class ByChannel:
    """A normalisation with one gamma and beta a channel: `groups` is None for instance_norm."""

    nodes: tuple[Node, ...]
    x: Node
    gamma: Array
    beta: Array
    epsilon: float
    groups: int | None = None


def match_instance(draft: Draft, node: Node) -> ByChannel | Reject | None:
    """A layer_norm from axis 2 on, of a value of rank 4 or more, or with one gamma a channel."""
    rank, channels = node.type.rank, node.type.shape[1] if node.type.rank > 2 else 0
    if rank < 3 or node.attrs["axis"] % rank != 2 or not isinstance(channels, int):
        return None
    given = [operand(draft, node, slot) for slot in ("gamma", "beta")]
    if all(one is None for one in given) and (rank == 3 or _is_scaled_within(draft, node)):
        return None
    if not all(one is None or _is_by_channel(one, rank) for one in given):
        return None
    if unknown_slots(draft, node, ("gamma", "beta")):
        return Reject(node.name, unknown_slots(draft, node, ("gamma", "beta")))
    gamma, beta = (
        np.full(channels, default) if one is None else np.broadcast_to(one.array.reshape(-1), (channels,))
        for one, default in zip(given, (1.0, 0.0), strict=True)
    )
    return ByChannel((node,), required(draft, node, "x"), gamma, beta, node.attrs["epsilon"])


def _is_by_channel(values: Node, rank: int) -> bool:
    shape = (*[1] * (rank - values.type.rank), *values.type.shape)
    return shape[0] == 1 and all(size == 1 for size in shape[2:])


def _is_scaled_within(draft: Draft, node: Node) -> bool:
    """Whether a product with a constant that varies within a channel follows: then it is a layer_norm."""
    user = draft.only_user(node.name)
    if user is None or user.op not in {"mul", "add"}:
        return False
    constants = [one for one in draft.operands(user) if one is not None and one.op == "constant"]
    return any(not _is_by_channel(one, node.type.rank) for one in constants)


def match_group(draft: Draft, node: Node) -> ByChannel | Reject | None:
    """A reshape back, of a normalisation of a reshape to groups."""
    norm = required(draft, node, "x")
    if norm.op not in {"instance_norm", "layer_norm"}:
        return None
    apart = required(draft, norm, "x")
    x = required(draft, apart, "x") if apart.op == "reshape" else None
    if x is None or x.type != node.type or x.type.rank < 2 or norm.type.rank < 3:
        return None
    channels, groups = x.type.shape[1], norm.type.shape[1]
    if not isinstance(channels, int) or not isinstance(groups, int) or channels % groups:
        return None
    if norm.type.shape[0] != x.type.shape[0]:
        return None
    given = [operand(draft, norm, slot) for slot in ("gamma", "beta")]
    if norm.op == "layer_norm" and (norm.attrs["axis"] % norm.type.rank != 2 or any(given)):
        return None
    unknown = [one for one in given if one is not None and not is_known(one)]
    if unknown:
        return Reject(node.name, f"%{unknown[0].name} of %{norm.name} is no constant with data")
    gamma, beta = (
        np.repeat(np.full(groups, default) if one is None else one.array, channels // groups)
        for one, default in zip(given, (1.0, 0.0), strict=True)
    )
    return ByChannel((apart, norm, node), x, gamma, beta, norm.attrs["epsilon"], groups)


def _rewrite(draft: Draft, match: ByChannel) -> Patch:
    last = match.nodes[-1]
    kind = match.x.type.dtype.numpy
    gamma, beta = (
        constant(draft.fresh_name(f"{last.name}.{slot}"), values.astype(kind), source=sources(*match.nodes))
        for slot, values in (("gamma", match.gamma), ("beta", match.beta))
    )
    attrs: dict[str, float | int] = {"epsilon": match.epsilon}
    if match.groups is not None:
        attrs["groups"] = match.groups
    op = "instance_norm" if match.groups is None else "group_norm"
    node = make_node(op, last.name, [match.x, gamma, beta], attrs, source=sources(*match.nodes))
    return Patch(nodes=(gamma, beta, node))


def _note(match: ByChannel) -> str:
    what = "each channel" if match.groups is None else f"{match.groups} groups of channels"
    return f"{what} of %{match.x.name}"


GROUP_NORM_RULES: tuple[Rule[ByChannel], ...] = (
    Rule("recognise_instance_norm", frozenset({"layer_norm"}), match_instance, _rewrite, _note),
    Rule("recognise_group_norm", frozenset({"reshape"}), match_group, _rewrite, _note),
)
