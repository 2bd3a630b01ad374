"""f(s x + t) = conv2d(x, w=s, b=t) {groups=C, activation=f}: a depthwise 1x1 convolution, which has an epilogue.

For a BatchNormalization that no convolution takes, such as the last one of DenseNet, and the activation that follows.
w [C, 1, 1, 1], b [C], in float64. It counts C multiply-adds a pixel, which BatchNormalization does as well but is not
counted for. Numerics: reassociates.
Rejects: statistics that are computed or infinite, values of a rank other than 4, no predicted gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convc.ir.graph import Graph, Node, constant, make_node
from convc.ir.patch import Draft, Patch
from convc.ops import activation_of
from convc.passes.affine import read_affine, why_infinite
from convc.passes.base import Numerics, PassResult, Reject
from convc.passes.context import Context
from convc.passes.driver import Rule, rewrite_to_fixed_point
from convc.passes.fuse_epilogue import EPILOGUES
from convc.passes.pattern import sources
from convc.types import Array


@dataclass(frozen=True)
class Depthwise:
    """The convolution with its constants, and what it stands for, last node last."""

    conv: Node
    made: tuple[Node, ...]
    absorbed: tuple[Node, ...]


@dataclass(frozen=True)
class _Rules:
    context: Context

    def match(self, draft: Draft, node: Node) -> Depthwise | Reject | None:
        """Any batch_norm."""
        if node.type.rank != 4:
            return Reject(node.name, f"{node.type} is not of rank 4")
        affine = read_affine(draft, node, 1)
        if isinstance(affine, Reject):
            return affine
        kind = node.type.dtype.numpy
        values: dict[str, Array] = {"w": affine.scale.astype(kind), "b": affine.shift.astype(kind)}
        reason = why_infinite(affine, values)
        if reason:
            return Reject(node.name, reason)
        user = draft.only_user(node.name)
        activation = user if user is not None and user.op in EPILOGUES else None
        absorbed = (node, activation) if activation is not None else (node,)
        channels = len(affine.scale)
        shapes = {"w": (channels, 1, 1, 1), "b": (channels,)}
        w, b = (
            constant(draft.fresh_name(f"{node.name}.{slot}"), value.reshape(shapes[slot]), source=node.source)
            for slot, value in values.items()
        )
        attrs: dict[str, Any] = {"groups": channels}
        if activation is not None:
            attrs["activation"] = activation_of(activation.op, activation.attrs)
        conv = make_node("conv2d", absorbed[-1].name, [affine.x, w, b], attrs, source=sources(*absorbed))
        before = self.context.seconds(draft, absorbed, draft.nominal)
        after = self.context.seconds(draft, (w, b, conv), draft.nominal)
        if after >= before and not self.context.force:
            times = f"{after * 1e6:.1f} us, now {before * 1e6:.1f} us"
            return Reject(node.name, f"as a depthwise convolution it takes {times}")
        return Depthwise(conv, (w, b), absorbed)


def _rewrite(draft: Draft, match: Depthwise) -> Patch:
    return Patch(nodes=(*match.made, match.conv))


def _note(match: Depthwise) -> str:
    return f"{' and '.join(node.op for node in match.absorbed)} as {match.conv}"


@dataclass(frozen=True)
class LowerBatchnorm:
    """Makes depthwise convolutions of what is left of BatchNormalization."""

    name: str = "lower_batchnorm"
    numerics: Numerics = Numerics.REASSOCIATES
    doc: str = "makes a depthwise 1x1 convolution of BatchNormalization that no convolution takes, and its activation"
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        rule = Rule("lower_batchnorm", frozenset({"batch_norm"}), _Rules(context).match, _rewrite, _note)
        return rewrite_to_fixed_point(graph, (rule,))


LOWER_BATCHNORM = LowerBatchnorm()
