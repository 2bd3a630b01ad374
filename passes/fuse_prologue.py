"""conv2d(f(s x + t), w) = conv2d(x, w, scale=s, shift=t) {prologue=f}: DenseNet's pre-activation order.

f is an activation or nothing; s and t [C] are those of BatchNormalization, or of arithmetic with a constant a channel,
in float64. The convolution pads what the prologue gives, so padding stays exact where folding into w would not.
A map ahead of a prologue joins it: scale' = s s0, shift' = s t0 + t.
Numerics: reassociates. Rejects: another reader of the value, a convolution with a prologue, no predicted gain.
Source: Huang et al. 2016, section 3; He et al. 2016, arXiv:1603.05027.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convc.ir.graph import Graph, Node, constant
from convc.ir.patch import Draft, Patch
from convc.ops import activation_of
from convc.ops.conv import has_prologue
from convc.passes.affine import affine_input, read_affine, why_infinite
from convc.passes.base import Numerics, PassResult, Reject
from convc.passes.context import Context
from convc.passes.driver import Rule, rewrite_to_fixed_point
from convc.passes.fuse_epilogue import EPILOGUES
from convc.passes.pattern import array, not_exclusive, operand, remade, required, sources, unknown_slots
from convc.types import Array


@dataclass(frozen=True)
class Prologue:
    """A convolution that maps its own x, the constants it needs for that, and what it absorbed."""

    conv: Node
    made: tuple[Node, ...]
    absorbed: tuple[Node, ...]


@dataclass(frozen=True)
class _Rules:
    context: Context

    def match(self, draft: Draft, conv: Node) -> Prologue | Reject | None:
        """A conv2d of an affine map, or of an activation of one."""
        last = required(draft, conv, "x")
        activation = last if last.op in EPILOGUES else None
        mapped = required(draft, last, "x") if activation is not None else last
        if mapped.op in {"input", "constant"} or not _is_affine(draft, mapped):
            return None
        affine = read_affine(draft, mapped, 1)
        if isinstance(affine, Reject):
            return affine
        absorbed = (mapped, activation) if activation is not None else (mapped,)
        reason = _why_not(draft, conv, mapped, activation)
        if reason:
            return Reject(mapped.name, reason)
        scale, shift = affine.scale, affine.shift
        if operand(draft, conv, "scale") is not None:
            scale, shift = scale * array(draft, conv, "scale"), shift * array(draft, conv, "scale")
        if operand(draft, conv, "shift") is not None:
            shift = shift + array(draft, conv, "shift")
        kind = conv.type.dtype.numpy
        with np.errstate(all="ignore"):
            values: dict[str, Array] = {"scale": scale.astype(kind), "shift": shift.astype(kind)}
        reason = why_infinite(affine, values)
        if reason:
            return Reject(mapped.name, reason)
        made = tuple(
            constant(draft.fresh_name(f"{conv.name}.{slot}"), value, source=sources(mapped))
            for slot, value in values.items()
        )
        attrs: dict[str, Any] = {}
        if activation is not None:
            attrs["prologue"] = activation_of(activation.op, activation.attrs)
        slots = {"x": affine.x, **dict(zip(values, made, strict=True))}
        fused = Prologue(remade(draft, conv, slots=slots, attrs=attrs, absorbed=absorbed), made, absorbed)
        before = self.context.seconds(draft, (*absorbed, conv), draft.nominal)
        after = self.context.seconds(draft, (*made, fused.conv), draft.nominal)
        if after >= before and not self.context.force:
            return Reject(mapped.name, f"as a prologue it takes {after * 1e6:.1f} us, now {before * 1e6:.1f} us")
        return fused


def _is_affine(draft: Draft, node: Node) -> bool:
    return node.op in {"batch_norm", "mul", "div", "add", "sub"} and affine_input(draft, node) is not None


def _why_not(draft: Draft, conv: Node, mapped: Node, activation: Node | None) -> str:
    last = activation or mapped
    reason = not_exclusive(draft, mapped, last) if activation is not None else ""
    reason = reason or not_exclusive(draft, last, conv) or unknown_slots(draft, conv, ("scale", "shift"))
    if not reason and last.name in conv.inputs[1:]:
        return f"%{conv.name} reads %{last.name} in two slots"
    if not reason and activation is not None and has_prologue(conv.inputs, conv.attrs):
        return f"%{conv.name} has a prologue, and {activation.op} comes in between"
    return reason


def _rewrite(draft: Draft, match: Prologue) -> Patch:
    return Patch(nodes=(*match.made, match.conv))


def _note(match: Prologue) -> str:
    return f"{' and '.join(node.op for node in match.absorbed)} into {match.conv}"


@dataclass(frozen=True)
class FusePrologue:
    """Lets a convolution apply what stands ahead of it."""

    name: str = "fuse_prologue"
    numerics: Numerics = Numerics.REASSOCIATES
    doc: str = "lets a convolution apply the BatchNormalization and the activation that stand ahead of it"
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        rule = Rule("fuse_prologue", frozenset({"conv2d"}), _Rules(context).match, _rewrite, _note)
        return rewrite_to_fixed_point(graph, (rule,))


FUSE_PROLOGUE = FusePrologue()
