"""s norm(x, gamma, beta) + t = norm(x, s gamma, s beta + t), and normalisations from their decomposed forms.

s and t are constants: one value a channel for instance_norm and group_norm, anything that broadcasts for layer_norm.
The forms are in `convc.passes.recognise_layer_norm` and `convc.passes.recognise_group_norm`.
Numerics: reassociates. Rejects: a constant that makes the value larger or varies within a channel, a value that others
read, constants that are computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convc.ir.graph import Node
from convc.ir.patch import Draft, Patch
from convc.passes.affine import ARITHMETIC, affine_input, read_affine, why_infinite
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.pattern import (
    array,
    is_known,
    new_constants,
    not_exclusive,
    operand,
    remade,
    required,
    unknown_slots,
)  # fmt: skip
from convc.passes.recognise_group_norm import GROUP_NORM_RULES
from convc.passes.recognise_layer_norm import LAYER_NORM_RULES
from convc.types import Array

NORMS = frozenset({"layer_norm", "instance_norm", "group_norm"})


@dataclass(frozen=True)
class Scaled:
    """Arithmetic with a constant, the normalisation before it, and that one's new constants."""

    node: Node
    norm: Node
    values: dict[str, Array]


def match_scaled(draft: Draft, node: Node) -> Scaled | Reject | None:
    """A product, quotient, sum or difference of a normalisation and a constant."""
    norm = affine_input(draft, node)
    if norm is None or norm.op not in NORMS:
        return None
    reason = not_exclusive(draft, norm, node) or unknown_slots(draft, norm, ("gamma", "beta"))
    if reason:
        return Reject(node.name, reason)
    if norm.op == "layer_norm":
        return _scaled_elements(draft, node, norm)
    affine = read_affine(draft, node, 1)
    if isinstance(affine, Reject):
        return affine
    gamma, beta = (array(draft, norm, slot).astype(np.float64) for slot in ("gamma", "beta"))
    kind = norm.type.dtype.numpy
    with np.errstate(all="ignore"):
        values = {
            "gamma": (affine.scale * gamma).astype(kind),
            "beta": (affine.scale * beta + affine.shift).astype(kind),
        }
    reason = why_infinite(affine, values)
    return Reject(node.name, reason) if reason else Scaled(node, norm, values)


def _scaled_elements(draft: Draft, node: Node, norm: Node) -> Scaled | Reject:
    left = required(draft, node, "a") is not norm
    c = required(draft, node, "a" if left else "b")
    if not is_known(c):
        return Reject(node.name, f"constant %{c.name} has no data")
    rank = norm.type.rank
    outer = (*[1] * (rank - c.type.rank), *c.type.shape)[: norm.attrs["axis"] % rank]
    if node.type != norm.type or any(size != 1 for size in outer):
        return Reject(node.name, f"%{c.name}: {c.type} varies by more than the axes that %{norm.name} normalises")
    value = c.array.astype(np.float64)
    gamma = _or(draft, norm, "gamma", 1.0)
    beta = _or(draft, norm, "beta", 0.0)
    with np.errstate(all="ignore"):
        if node.op in {"mul", "div"}:
            scale = value if node.op == "mul" else 1 / value
            gamma, beta = gamma * scale, beta * scale
        else:
            if left and node.op == "sub":
                gamma, beta = -gamma, -beta
            beta = beta + (value if node.op == "add" or left else -value)
    kind = norm.type.dtype.numpy
    values = {"gamma": gamma.astype(kind), "beta": beta.astype(kind)}
    kept = {slot: v for slot, v in values.items() if v.ndim or v != _NONE[slot]}
    infinite = [slot for slot, v in kept.items() if np.isinf(v).any()]
    if infinite:
        return Reject(node.name, f"{infinite[0]} would be infinite in {norm.type.dtype}")
    return Scaled(node, norm, kept)


_NONE = {"gamma": 1.0, "beta": 0.0}


def _or(draft: Draft, norm: Node, slot: str, otherwise: float) -> Array:
    if operand(draft, norm, slot) is None:
        return np.asarray(otherwise)
    return array(draft, norm, slot).astype(np.float64)


def _rewrite(draft: Draft, match: Scaled) -> Patch:
    made = new_constants(draft, match.norm, match.values, match.node)
    norm = remade(draft, match.norm, slots=made, absorbed=[match.node])
    return Patch(nodes=(*made.values(), norm), redirect={match.node.name: norm.name})


RECOGNISE_NORMS = RewritePass(
    "recognise_norms",
    Numerics.REASSOCIATES,
    "finds layer, instance and group normalisation in arithmetic, and folds the constants that follow",
    (
        *LAYER_NORM_RULES,
        *GROUP_NORM_RULES,
        Rule("fold_norm_affine", ARITHMETIC, match_scaled, _rewrite, lambda m: f"{m.node.op} into {m.norm}"),
    ),
)
