"""conv(conv(x, w1, b1), w2, b2) = conv(x, w, b) where nothing stands between and the one takes fewer multiply-adds.

    w[k, c, t] = sum over m and r1 d1 + r2 s1 d2 = t d of w2[k, m, r2] w1[m, c, r1], d = gcd(d1, s1 d2)
    b[k] = b2[k] + sum over m, r2 of w2[k, m, r2] b1[m];  stride s1 s2, padding that of the first

Borders are exact where the second does not pad; where it does, the first must give zero on zeros beyond its input: a
1x1 of stride 1 without padding and bias. Two linears likewise. Groups become their greatest common divisor. In float64.
Numerics: reassociates. Rejects: another reader of the first, a residual in between, padding, no gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import gcd
from typing import Any

import numpy as np

from convc.dims import concrete
from convc.ir.graph import Graph, Node, constant, make_node
from convc.ir.patch import Draft, Patch
from convc.ops import OPS
from convc.ops.conv import has_prologue
from convc.passes.base import Numerics, PassResult, Reject
from convc.passes.context import Context
from convc.passes.driver import Rule, rewrite_to_fixed_point
from convc.passes.grouped import bias_of, regrouped
from convc.passes.pattern import array, not_exclusive, operand, required, sources, unknown_slots
from convc.types import Array, TensorType


@dataclass(frozen=True)
class Merged:
    """The one operator under the name of the second, and its constants."""

    first: Node
    second: Node
    merged: Node
    made: tuple[Node, ...]


@dataclass(frozen=True)
class _Rules:
    context: Context

    def match(self, draft: Draft, second: Node) -> Merged | Reject | None:
        """A conv2d of a conv2d, or a linear of a linear, without an activation in between."""
        first = required(draft, second, "x")
        if first.op != second.op or first.attrs["activation"] is not None:
            return None
        reason = not_exclusive(draft, first, second)
        if not reason and operand(draft, first, "residual") is not None:
            reason = f"%{first.name} adds %{first.input('residual')} in between"
        reason = reason or unknown_slots(draft, first, ("w", "b")) or unknown_slots(draft, second, ("w", "b"))
        if not reason and first.name in second.inputs[1:]:
            reason = f"%{second.name} reads %{first.name} in two slots"
        if not reason and second.op == "conv2d":
            reason = _why_not_exact(draft, first, second)
        if reason:
            return Reject(second.name, reason)
        attrs, shape = _geometry(draft, first, second)
        kind = second.type.dtype
        types = [required(draft, first, "x").type, TensorType(kind, shape)]
        macs = self._macs(draft, OPS[second.op].macs(types, second.type, attrs))
        now = sum(self._macs(draft, _macs(draft, node)) for node in (first, second))
        if macs >= now:
            return Reject(second.name, f"one {second.op} takes {macs} multiply-adds, both take {now}")
        w, b = _merged_weights(draft, first, second, attrs, shape)
        with np.errstate(all="ignore"):
            values = {"w": w.astype(kind.numpy), "b": b.astype(kind.numpy)}
        if any(np.isinf(value).any() for value in values.values()):
            return Reject(second.name, f"weights would be infinite in {kind}")
        made = {
            slot: constant(draft.fresh_name(f"{second.name}.{slot}"), value, source=sources(first, second))
            for slot, value in values.items()
        }
        ahead = [operand(draft, first, slot) for slot in ("scale", "shift")] if second.op == "conv2d" else []
        inputs = [required(draft, first, "x"), made["w"], made["b"], operand(draft, second, "residual"), *ahead]
        merged = make_node(second.op, second.name, inputs, attrs, source=sources(first, second))
        if merged.type != second.type:
            return Reject(second.name, f"one {second.op} gives {merged.type}, which is not shown to be {second.type}")
        before = self.context.seconds(draft, (first, second), draft.nominal)
        after = self.context.seconds(draft, (*made.values(), merged), draft.nominal)
        if after >= before and not self.context.force:
            return Reject(second.name, f"one {second.op} takes {after * 1e6:.1f} us, both {before * 1e6:.1f} us")
        return Merged(first, second, merged, tuple(made.values()))

    @staticmethod
    def _macs(draft: Draft, size: Any) -> int:
        return concrete(size, draft.nominal)


def _macs(draft: Draft, node: Node) -> Any:
    types = [n.type if n is not None else None for n in draft.operands(node)]
    return OPS[node.op].macs(types, node.type, node.attrs)


def _why_not_exact(draft: Draft, first: Node, second: Node) -> str:
    if has_prologue(second.inputs, second.attrs):
        return f"%{second.name} has a prologue"
    if not any(second.attrs["padding"]):
        return ""
    padding = list(second.attrs["padding"])
    w = required(draft, first, "w").type.shape
    if w[2:] != (1, 1) or first.attrs["stride"] != (1, 1) or any(first.attrs["padding"]):
        return f"%{second.name} pads by {padding} what %{first.name} would go on computing beyond its border"
    if operand(draft, first, "b") is not None and np.any(array(draft, first, "b") != 0):
        return f"%{second.name} pads by {padding} with zeros, not with the bias of %{first.name}"
    return ""


def _geometry(draft: Draft, first: Node, second: Node) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Attributes and the shape of the weights of the merged operator."""
    w1, w2 = (required(draft, node, "w").type.concrete({}) for node in (first, second))
    if second.op == "linear":
        return {"activation": second.attrs["activation"]}, (w2[0], w1[1])
    a, b = first.attrs, second.attrs
    dilation, kernel = [], []
    for axis in range(2):
        steps = ((a["dilation"][axis], w1[2 + axis]), (a["stride"][axis] * b["dilation"][axis], w2[2 + axis]))
        step = gcd(*(d for d, size in steps if size > 1)) or 1
        dilation.append(step)
        kernel.append(sum(d * (size - 1) for d, size in steps) // step + 1)
    groups = gcd(a["groups"], b["groups"])
    attrs = {
        "stride": tuple(s * t for s, t in zip(a["stride"], b["stride"], strict=True)),
        "padding": b["padding"] if any(b["padding"]) else a["padding"],
        "dilation": tuple(dilation), "groups": groups, "activation": b["activation"], "prologue": a["prologue"],
    }  # fmt: skip
    return attrs, (w2[0], w1[1] * a["groups"] // groups, *kernel)


def _merged_weights(
    draft: Draft, first: Node, second: Node, attrs: Mapping[str, Any], shape: tuple[int, ...]
) -> tuple[Array, Array]:
    w1, w2 = (array(draft, node, "w").astype(np.float64) for node in (first, second))
    b1, b2 = bias_of(draft, first, w1.shape[0]), bias_of(draft, second, w2.shape[0])
    with np.errstate(all="ignore"):
        if second.op == "linear":
            return w2 @ w1, b2 + w2 @ b1
        groups = attrs["groups"]
        w1 = regrouped(w1, first.attrs["groups"], groups)
        w2 = regrouped(w2, second.attrs["groups"], groups)
        one = w1.reshape(groups, -1, *w1.shape[1:])
        two = w2.reshape(groups, -1, *w2.shape[1:])
        w = np.zeros((groups, two.shape[1], *shape[1:]))
        at = [
            first.attrs["dilation"][axis] // attrs["dilation"][axis] * np.arange(w1.shape[2 + axis])
            if w1.shape[2 + axis] > 1
            else np.zeros(1, np.int64)
            for axis in range(2)
        ]
        apart = [
            first.attrs["stride"][axis] * second.attrs["dilation"][axis] // attrs["dilation"][axis] for axis in range(2)
        ]
        for r in range(w2.shape[2]):
            for s in range(w2.shape[3]):
                part = np.einsum("gkm,gmcrs->gkcrs", two[..., r, s], one, optimize=True)
                rows, columns = at[0] + r * apart[0], at[1] + s * apart[1]
                w[:, :, :, rows[:, None], columns] += part
        b = b2 + np.einsum("gkmrs,gm->gk", two, b1.reshape(groups, -1)).reshape(-1)
    return w.reshape(shape), b


def _rewrite(draft: Draft, match: Merged) -> Patch:
    return Patch(nodes=(*match.made, match.merged))


def _note(match: Merged) -> str:
    return f"{match.first} and {match.second} into one"


@dataclass(frozen=True)
class MergeConsecutive:
    """Multiplies kernels in place of values."""

    name: str = "merge_consecutive"
    numerics: Numerics = Numerics.REASSOCIATES
    doc: str = "merges two convolutions or linears in a row into one where that takes fewer multiply-adds"
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        rule = Rule("merge_consecutive", frozenset({"conv2d", "linear"}), _Rules(context).match, _rewrite, _note)
        return rewrite_to_fixed_point(graph, (rule,))


MERGE_CONSECUTIVE = MergeConsecutive()
