"""s = gamma / sqrt(var + eps); w'[k,c,r,t] = s[k] w[k,c,r,t]; b'[k] = s[k] (b[k] - mean[k]) + beta[k].

Shapes: w [K, C/g, R, S] of conv2d, [C, K/g, R, S] of conv_transpose2d, [O, I] of linear; the rest [K].
Arithmetic with one constant a channel counts as BatchNormalization (`convc.passes.affine`), and two in a row are one.
What comes ahead of a convolution is in `convc.passes.fuse_batchnorm_ahead`, what comes after a concat or a pool of
convolutions in `convc.passes.fuse_batchnorm_through`.
Computed in float64. Numerics: reassociates.
Rejects: the convolution has another user or an epilogue in between; weights that are computed, or leave their range.
Source: Ioffe & Szegedy 2015.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convc.ir.graph import Node
from convc.ir.patch import Draft, Patch
from convc.passes.affine import AFFINE, Affine, affine_input, constants_of, read_affine, why_infinite
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.fuse_batchnorm_ahead import FUSE_BATCHNORM_AHEAD
from convc.passes.fuse_batchnorm_through import FUSE_BATCHNORM_THROUGH
from convc.passes.fuse_batchnorm_weights import scaled_weights
from convc.passes.pattern import CONVOLUTIONS, array, new_constants, not_exclusive, operand, remade, unknown_slots
from convc.types import Array


@dataclass(frozen=True)
class Absorbed:
    """An affine map that the operator before it takes over, with that operator's new constants by slot."""

    affine: Affine
    into: Node
    values: dict[str, Array]


def match_after_convolution(draft: Draft, node: Node) -> Absorbed | Reject | None:
    """An affine map of a convolution's output."""
    conv = affine_input(draft, node)
    if conv is None or (conv.op not in CONVOLUTIONS and node.op != "batch_norm"):
        return None
    if conv.op == "batch_norm":
        return None
    if conv.op not in CONVOLUTIONS:
        return Reject(node.name, f"its input %{conv.name} is {conv.op}, not a convolution")
    axis = conv.type.rank - 1 if conv.op == "linear" else 1
    affine = read_affine(draft, node, axis)
    if isinstance(affine, Reject):
        return affine
    if conv.attrs["activation"] is not None:
        return Reject(node.name, f"%{conv.name} applies {conv.attrs['activation']} in between")
    if operand(draft, conv, "residual") is not None and bool(np.any(affine.scale != 1)):
        return Reject(node.name, f"%{conv.name} adds %{conv.input('residual')} in between")
    reason = not_exclusive(draft, conv, node) or unknown_slots(draft, conv, ("w", "b"))
    if reason:
        return Reject(node.name, reason)
    return _checked(affine, conv, scaled_weights(draft, conv, affine))


def match_after_batchnorm(draft: Draft, node: Node) -> Absorbed | Reject | None:
    """An affine map of a batch_norm's output: gamma' = s gamma, beta' = s beta + t; mean and variance stay."""
    first = affine_input(draft, node)
    if first is None or first.op != "batch_norm":
        return None
    affine = read_affine(draft, node, 1)
    if isinstance(affine, Reject):
        return affine
    reason = not_exclusive(draft, first, node) or unknown_slots(draft, first, ("gamma", "beta"))
    if reason:
        return Reject(node.name, reason)
    gamma, beta = array(draft, first, "gamma"), array(draft, first, "beta")
    with np.errstate(all="ignore"):
        values = {
            "gamma": (affine.scale * gamma).astype(gamma.dtype),
            "beta": (affine.scale * beta + affine.shift).astype(beta.dtype),
        }
    return _checked(affine, first, values)


def _checked(affine: Affine, into: Node, values: dict[str, Array]) -> Absorbed | Reject:
    reason = why_infinite(affine, values)
    return Reject(affine.node.name, reason) if reason else Absorbed(affine, into, values)


def _absorb(draft: Draft, match: Absorbed) -> Patch:
    made = new_constants(draft, match.into, match.values, match.affine.node)
    node = remade(draft, match.into, slots=made, absorbed=[match.affine.node])
    return Patch(nodes=(*made.values(), node), redirect={match.affine.node.name: node.name})


def _note(match: Absorbed) -> str:
    return f"{constants_of(match.affine.node)} into {match.into.op} %{match.into.name}"


FUSE_BATCHNORM = RewritePass(
    "fuse_batchnorm",
    Numerics.REASSOCIATES,
    "folds BatchNormalization, and arithmetic with one constant a channel, into the convolution before or after it",
    (
        Rule("fuse_batchnorm_after", AFFINE, match_after_convolution, _absorb, _note),
        Rule("compose_batchnorms", AFFINE, match_after_batchnorm, _absorb, _note),
        FUSE_BATCHNORM_THROUGH,
        FUSE_BATCHNORM_AHEAD,
    ),
)
