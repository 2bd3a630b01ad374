"""s f(conv) + t = f(s conv + t) for an f that leaves values and channels apart.

    concat(a, b)                 a and b take their own channels' s and t
    max_pool2d, global_max_pool  where every s is positive: the largest stays the largest
    avg_pool2d, global_avg_pool  t too, unless the mean counts padding

All convolutions below f take the map over (`convc.passes.fuse_batchnorm_weights`); f stays as it is.
Numerics: reassociates. Rejects: a value on the way that others read, a part that is no convolution or has an epilogue,
scales that are not positive ahead of a maximum, shifts and counted padding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from convc.ir.graph import Node
from convc.ir.patch import Draft, Patch
from convc.passes.affine import AFFINE, Affine, affine_input, constants_of, read_affine, why_infinite
from convc.passes.base import Reject
from convc.passes.driver import Rule
from convc.passes.fuse_batchnorm_weights import scaled_weights
from convc.passes.pattern import CONVOLUTIONS, new_constants, not_exclusive, operand, remade, required, unknown_slots
from convc.types import Array

MAXIMA = frozenset({"max_pool2d", "global_max_pool"})
MEANS = frozenset({"avg_pool2d", "global_avg_pool"})
THROUGH = MAXIMA | MEANS | {"concat"}


@dataclass(frozen=True)
class Spread:
    """An affine map, what it is applied to, and the convolutions that take it over with their new constants."""

    affine: Affine
    parts: tuple[tuple[Node, dict[str, Array]], ...]


def match_through(draft: Draft, node: Node) -> Spread | Reject | None:
    """An affine map of a concat or pool."""
    x = affine_input(draft, node)
    if x is None or x.op not in THROUGH or (x.op == "concat" and x.attrs["axis"] % x.type.rank != 1):
        return None
    affine = read_affine(draft, node, 1)
    if isinstance(affine, Reject):
        return affine
    parts: list[tuple[Node, dict[str, Array]]] = []
    reason = _spread(draft, affine, node, parts)
    return Reject(node.name, reason) if reason else Spread(affine, tuple(parts))


def _spread(draft: Draft, affine: Affine, user: Node, parts: list[tuple[Node, dict[str, Array]]]) -> str:
    """Append what takes over `affine` of `affine.x`, which `user` reads; else why nothing can."""
    x = affine.x
    reason = not_exclusive(draft, x, user)
    if not reason and user.inputs.count(x.name) > 1:
        reason = f"%{user.name} reads %{x.name} twice"
    if reason or x.op in CONVOLUTIONS:
        return reason or _take(draft, affine, parts)
    if x.op in MAXIMA and not (affine.scale > 0).all():
        channel = int(np.flatnonzero(~(affine.scale > 0))[0])
        return f"{x.op} %{x.name} takes a maximum, and the scale of channel {channel} is {affine.scale[channel]:.6g}"
    if x.op == "avg_pool2d" and affine.shifts and any(x.attrs["padding"]) and x.attrs["count_include_pad"]:
        return f"the mean of %{x.name} counts padding, which is not shifted"
    if x.op in MAXIMA | MEANS:
        return _spread(draft, replace(affine, x=required(draft, x, "x")), x, parts)
    if x.op != "concat" or x.attrs["axis"] % x.type.rank != 1:
        return f"%{x.name} is {x.op}, not a convolution"
    start = 0
    for part in draft.operands(x):
        assert part is not None
        channels = part.type.shape[1]
        assert isinstance(channels, int)
        taken = slice(start, start + channels)
        reason = _spread(draft, Affine(affine.node, part, affine.scale[taken], affine.shift[taken]), x, parts)
        if reason:
            return reason
        start += channels
    return ""


def _take(draft: Draft, affine: Affine, parts: list[tuple[Node, dict[str, Array]]]) -> str:
    conv = affine.x
    if conv.op == "linear" and conv.type.rank != 2:
        return f"the channels of %{conv.name} are its last axis"
    if conv.attrs["activation"] is not None:
        return f"%{conv.name} applies {conv.attrs['activation']} in between"
    if operand(draft, conv, "residual") is not None and bool(np.any(affine.scale != 1)):
        return f"%{conv.name} adds %{conv.input('residual')} in between"
    reason = unknown_slots(draft, conv, ("w", "b"))
    if reason:
        return reason
    values = scaled_weights(draft, conv, affine)
    parts.append((conv, values))
    return why_infinite(affine, values)


def _rewrite(draft: Draft, match: Spread) -> Patch:
    nodes: list[Node] = []
    for conv, values in match.parts:
        made = new_constants(draft, conv, values, match.affine.node)
        nodes += [*made.values(), remade(draft, conv, slots=made, absorbed=[match.affine.node])]
    return Patch(nodes=tuple(nodes), redirect={match.affine.node.name: match.affine.x.name})


def _note(match: Spread) -> str:
    into = ", ".join(f"%{conv.name}" for conv, _ in match.parts)
    return f"{constants_of(match.affine.node)} through {match.affine.x.op} into {into}"


FUSE_BATCHNORM_THROUGH: Rule[Spread] = Rule("fuse_batchnorm_through", AFFINE, match_through, _rewrite, _note)
