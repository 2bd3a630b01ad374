"""conv(x, w1) + conv(x, w2) = conv(x, w1 + w2), with the smaller kernel placed in the larger one by its padding.

    tap r of an axis reads pixel r d - p from the output's: taps of both lie on r' gcd(d1, d2, p1 - p2) - max(p1, p2)

An identity is a 1x1 kernel of ones on the diagonal, BatchNormalization or arithmetic with a constant a channel one of
its scales: RepVGG's 3x3 + 1x1 + BatchNormalization is one 3x3. Groups become their greatest common divisor. Biases add.
The sum is an `add`, or a residual. In float64. Numerics: reassociates.
Rejects: other strides, an activation or prologue in between, a branch with another reader, more multiply-adds than
before, no predicted gain. Source: Ding et al. 2021, arXiv:2101.03697.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import gcd, prod
from typing import Any

import numpy as np

from convc.ir.graph import Graph, Node, constant, make_node
from convc.ir.patch import Draft, Patch
from convc.ops.conv import has_prologue
from convc.passes.affine import AFFINE, affine_input, read_affine
from convc.passes.base import Numerics, PassResult, Reject
from convc.passes.context import Context
from convc.passes.driver import Rule, rewrite_to_fixed_point
from convc.passes.grouped import bias_of, regrouped
from convc.passes.pattern import array, not_exclusive, operand, required, sources, unknown_slots
from convc.types import Array


@dataclass(frozen=True)
class Branch:
    """A branch as a convolution of the common input. `costs`: it does multiply-adds that count."""

    node: Node
    w: Array
    b: Array
    groups: int
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    costs: bool
    residual: Node | None = None


@dataclass(frozen=True)
class Placement:
    """Where both kernels lie in the merged one, by axis: first tap and distance of taps."""

    kernel: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    starts: tuple[tuple[int, int], tuple[int, int]]
    steps: tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Merged:
    """The one convolution, under the name of what computed the sum."""

    conv: Node
    made: tuple[Node, ...]
    branches: tuple[Branch, Branch]


@dataclass(frozen=True)
class _Rules:
    context: Context

    def match_sum(self, draft: Draft, node: Node) -> Merged | Reject | None:
        """An addition of two branches, one of them a conv2d."""
        a, b = required(draft, node, "a"), required(draft, node, "b")
        for conv, other in ((a, b), (b, a)):
            if conv.op == "conv2d" and conv is not other and _x_of(draft, other, conv) is not None:
                reason = not_exclusive(draft, conv, node)
                if not reason and conv.attrs["activation"] is not None:
                    reason = f"%{conv.name} applies {conv.attrs['activation']} ahead of the sum"
                return Reject(node.name, reason) if reason else self._merge(draft, node, conv, other)
        return None

    def match_residual(self, draft: Draft, node: Node) -> Merged | Reject | None:
        """A conv2d whose residual is another branch."""
        other = operand(draft, node, "residual")
        if other is None or _x_of(draft, other, node) is None:
            return None
        return self._merge(draft, node, node, other)

    def _merge(self, draft: Draft, root: Node, conv: Node, other: Node) -> Merged | Reject:
        if not root.type == conv.type == other.type:
            return Reject(root.name, f"%{conv.name}: {conv.type} and %{other.name}: {other.type} broadcast")
        first = _convolution(draft, conv, own_residual=conv is not root)
        second = first if isinstance(first, Reject) else _branch(draft, root, other, first)
        if isinstance(first, Reject) or isinstance(second, Reject):
            found = first if isinstance(first, Reject) else second
            assert isinstance(found, Reject)
            return Reject(root.name, found.reason)
        if first.residual is not None and second.residual is not None:
            return Reject(root.name, f"%{conv.name} and %{other.name} both have a residual")
        placed = place(first, second)
        groups = gcd(first.groups, second.groups)
        channels = first.w.shape[1] * first.groups
        macs = channels // groups * prod(placed.kernel)
        now = sum(prod(branch.w.shape[1:]) for branch in (first, second) if branch.costs)
        if macs > now:
            return Reject(root.name, f"one convolution takes {macs} multiply-adds for an output, both take {now}")
        w = _placed(first, 0, placed, groups) + _placed(second, 1, placed, groups)
        b = first.b + second.b
        kind = conv.type.dtype.numpy
        with np.errstate(all="ignore"):
            values = {"w": w.astype(kind), "b": b.astype(kind)}
        if any(np.isinf(value).any() for value in values.values()):
            return Reject(root.name, f"weights would be infinite in {conv.type.dtype}")
        slots = {
            slot: constant(draft.fresh_name(f"{conv.name}.{slot}"), value, source=sources(conv, other))
            for slot, value in values.items()
        }
        attrs = {
            "stride": first.stride, "padding": placed.padding, "dilation": placed.dilation, "groups": groups,
            "activation": root.attrs["activation"] if root is conv else None,
        }  # fmt: skip
        inputs = [required(draft, conv, "x"), slots["w"], slots["b"], first.residual or second.residual]
        merged = make_node("conv2d", root.name, inputs, attrs, source=sources(root, conv, other))
        if merged.type != root.type:
            return Reject(root.name, f"one convolution gives {merged.type}, expected {root.type}")
        old = dict.fromkeys(node for node in (root, conv, other) if node is not inputs[0])
        before = self.context.seconds(draft, tuple(old), draft.nominal)
        after = self.context.seconds(draft, (*slots.values(), merged), draft.nominal)
        if after >= before and not self.context.force:
            return Reject(root.name, f"one convolution takes {after * 1e6:.1f} us, now {before * 1e6:.1f} us")
        return Merged(merged, tuple(slots.values()), (first, second))


def _x_of(draft: Draft, node: Node, conv: Node) -> Node | None:
    """The common input, where `node` is a branch beside `conv`."""
    x = required(draft, conv, "x")
    if node is x:
        return x
    if node.op == "conv2d" and required(draft, node, "x") is x:
        return x
    return x if node.op in AFFINE and affine_input(draft, node) is x else None


def _convolution(draft: Draft, conv: Node, *, own_residual: bool) -> Branch | Reject:
    reason = unknown_slots(draft, conv, ("w", "b"))
    if not reason and has_prologue(conv.inputs, conv.attrs):
        reason = f"%{conv.name} has a prologue"
    if reason:
        return Reject(conv.name, reason)
    w = array(draft, conv, "w").astype(np.float64)
    a = conv.attrs
    residual = operand(draft, conv, "residual") if own_residual else None
    return Branch(
        conv, w, bias_of(draft, conv, w.shape[0]), a["groups"], a["stride"], a["padding"], a["dilation"], True, residual
    )  # fmt: skip


def _branch(draft: Draft, root: Node, other: Node, beside: Branch) -> Branch | Reject:
    """The other branch, an identity and an affine map among them as 1x1 convolutions of the same groups."""
    x = required(draft, beside.node, "x")
    if other is not x:
        reason = not_exclusive(draft, other, root)
        if reason:
            return Reject(other.name, reason)
    if other is not x and other.op == "conv2d":
        if other.attrs["activation"] is not None:
            return Reject(other.name, f"%{other.name} applies {other.attrs['activation']} ahead of the sum")
        if other.attrs["stride"] != beside.stride:
            return Reject(other.name, f"%{other.name} has another stride than %{beside.node.name}")
        return _convolution(draft, other, own_residual=True)
    if beside.stride != (1, 1):
        strided = f"%{beside.node.name} has stride {list(beside.stride)}"
        return Reject(other.name, f"{strided}, %{other.name} keeps each pixel")
    channels = beside.w.shape[0]
    scale, shift = np.ones(channels), np.zeros(channels)
    if other is not x:
        affine = read_affine(draft, other, 1)
        if isinstance(affine, Reject):
            return affine
        scale, shift = affine.scale, affine.shift
    depthwise = scale.reshape(channels, 1, 1, 1)
    w = regrouped(depthwise, channels, beside.groups)
    return Branch(other, w, shift, beside.groups, (1, 1), (0, 0, 0, 0), (1, 1), False)


def place(a: Branch, b: Branch) -> Placement:
    """The smallest kernel that holds the taps of both."""
    kernel, dilation, ends = [], [], []
    starts: list[list[int]] = [[], []]
    steps: list[list[int]] = [[], []]
    for axis in range(2):
        sizes = [branch.w.shape[2 + axis] for branch in (a, b)]
        first = [-branch.padding[axis] for branch in (a, b)]
        apart = [branch.dilation[axis] for branch in (a, b)]
        last = [at + d * (n - 1) for at, d, n in zip(first, apart, sizes, strict=True)]
        step = gcd(first[0] - first[1], *(d for d, n in zip(apart, sizes, strict=True) if n > 1)) or 1
        kernel.append((max(last) - min(first)) // step + 1)
        dilation.append(step)
        ends.append((-min(first), a.padding[axis + 2] + max(last) - last[0]))
        for which in range(2):
            starts[which].append((first[which] - min(first)) // step)
            steps[which].append(max(apart[which] // step, 1))
    (top, bottom), (left, right) = ends
    return Placement(
        (kernel[0], kernel[1]), (top, left, bottom, right), (dilation[0], dilation[1]),
        ((starts[0][0], starts[0][1]), (starts[1][0], starts[1][1])),
        ((steps[0][0], steps[0][1]), (steps[1][0], steps[1][1])),
    )  # fmt: skip


def _placed(branch: Branch, which: int, placed: Placement, groups: int) -> Array:
    w = regrouped(branch.w, branch.groups, groups)
    full = np.zeros((*w.shape[:2], *placed.kernel))
    rows, columns = (
        placed.starts[which][axis] + placed.steps[which][axis] * np.arange(w.shape[2 + axis]) for axis in range(2)
    )
    full[:, :, rows[:, None], columns] = w
    return full


def _rewrite(draft: Draft, match: Merged) -> Patch:
    return Patch(nodes=(*match.made, match.conv))


def _note(match: Merged) -> str:
    kernel = "x".join(str(size) for size in match.made[0].type.shape[2:])
    return f"{' and '.join(str(branch.node) for branch in match.branches)} into one {kernel}"


@dataclass(frozen=True)
class MergeBranches:
    """Adds up kernels in place of values."""

    name: str = "merge_branches"
    numerics: Numerics = Numerics.REASSOCIATES
    doc: str = "merges summed convolutions, identities and BatchNormalizations of one input into one convolution"
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        rules = _Rules(context)
        return rewrite_to_fixed_point(
            graph,
            (
                Rule("merge_sum", frozenset({"add"}), rules.match_sum, _rewrite, _note),
                Rule("merge_residual", frozenset({"conv2d"}), rules.match_residual, _rewrite, _note),
            ),
        )


MERGE_BRANCHES = MergeBranches()
