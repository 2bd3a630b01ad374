"""conv(x, w1), conv(x, w2), ... = slices of conv(x, [w1; w2; ...]), for 1x1 convolutions of one input (Inception).

x is read once, and tiles of output channels fill up. The slices are on axis 1, where a value is a list of planes, so
they move nothing. Strides, padding 0, groups 1 and activations are the same; there is no residual and no prologue.
Numerics: reassociates (kernels with other tiles may round otherwise). Rejects: an activation or sum that follows and
is not fused yet (it would stay behind a slice), weights that are computed, no predicted gain.
Source: Szegedy et al. 2014, arXiv:1409.4842, for the networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convc.ir.graph import Graph, Node, constant, make_node
from convc.ir.patch import Draft, Patch
from convc.ops.conv import has_prologue
from convc.passes.base import Numerics, PassResult, Reject
from convc.passes.context import Context
from convc.passes.driver import Rule, rewrite_to_fixed_point
from convc.passes.fuse_epilogue import EPILOGUES
from convc.passes.grouped import bias_of
from convc.passes.pattern import array, operand, required, sources, unknown_slots


@dataclass(frozen=True)
class Wide:
    """The wide convolution with its constants, and the slices under the names of what they replace."""

    nodes: tuple[Node, ...]
    siblings: tuple[Node, ...]


@dataclass(frozen=True)
class _Rules:
    context: Context

    def match(self, draft: Draft, node: Node) -> Wide | Reject | None:
        """The first of several 1x1 convolutions of one input."""
        if not _is_pointwise(draft, node):
            return None
        x = required(draft, node, "x")
        alike = [other for other in draft.users(x.name) if _is_alike(draft, other, node)]
        if len(alike) < 2 or node is not min(alike, key=lambda other: draft.position(other.name)):
            return None
        reason = next(filter(None, (_why_not(draft, other) for other in alike)), "")
        if reason:
            return Reject(node.name, reason)
        kind = node.type.dtype.numpy
        w = np.concatenate([array(draft, other, "w") for other in alike])
        biases = [bias_of(draft, other, array(draft, other, "w").shape[0]) for other in alike]
        made = [constant(draft.fresh_name(f"{node.name}.w"), w, source=sources(*alike))]
        if any(operand(draft, other, "b") is not None for other in alike):
            b = np.concatenate(biases).astype(kind)
            made.append(constant(draft.fresh_name(f"{node.name}.b"), b, source=sources(*alike)))
        wide = make_node("conv2d", draft.fresh_name(node.name), [x, *made], node.attrs, source=sources(*alike))
        slices: list[Node] = []
        start = 0
        for other, bias in zip(alike, biases, strict=True):
            attrs = {"axis": 1, "start": start, "stop": start + len(bias)}
            slices.append(make_node("slice", other.name, [wide], attrs, source=other.source))
            start += len(bias)
        before = self.context.seconds(draft, alike, draft.nominal)
        after = self.context.seconds(draft, (*made, wide, *slices), draft.nominal)
        if after >= before and not self.context.force:
            names = ", ".join(f"%{other.name}" for other in alike)
            return Reject(node.name, f"{names} as one take {after * 1e6:.1f} us, now {before * 1e6:.1f} us")
        return Wide((*made, wide, *slices), tuple(alike))


def _is_pointwise(draft: Draft, node: Node) -> bool:
    if node.op != "conv2d" or node.attrs["groups"] != 1 or any(node.attrs["padding"]):
        return False
    if operand(draft, node, "residual") is not None or has_prologue(node.inputs, node.attrs):
        return False
    return required(draft, node, "w").type.shape[2:] == (1, 1)


def _is_alike(draft: Draft, other: Node, node: Node) -> bool:
    same = ("stride", "activation")
    return (
        _is_pointwise(draft, other)
        and other.inputs[0] == node.inputs[0]
        and all(other.attrs[name] == node.attrs[name] for name in same)
    )


def _why_not(draft: Draft, node: Node) -> str:
    user = draft.only_user(node.name)
    if user is not None and node.attrs["activation"] is None and user.op in EPILOGUES | {"add"}:
        return f"{user} could be an epilogue of %{node.name}, and none of a slice"
    return unknown_slots(draft, node, ("w", "b"))


def _rewrite(draft: Draft, match: Wide) -> Patch:
    return Patch(nodes=match.nodes)


def _note(match: Wide) -> str:
    return f"{', '.join(f'%{node.name}' for node in match.siblings)} into one"


@dataclass(frozen=True)
class MergeSiblings:
    """Computes 1x1 convolutions of one input together."""

    name: str = "merge_siblings"
    numerics: Numerics = Numerics.REASSOCIATES
    doc: str = "merges 1x1 convolutions of one input into a wider one, of whose output they are slices"
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        rule = Rule("merge_siblings", frozenset({"conv2d"}), _Rules(context).match, _rewrite, _note)
        return rewrite_to_fixed_point(graph, (rule,))


MERGE_SIBLINGS = MergeSiblings()
