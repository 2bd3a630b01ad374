"""conv(select(x, p), w) = conv(x, w') with w'[k, p[c]] = w[k, c]: the weights are put in the order of what is there.

select(conv(x, w), i) = conv(x, w[i]) where nothing else reads the convolution: fewer output channels.

For conv2d, conv_transpose2d and linear on [N, I]; p is a permutation. With groups, p permutes within each group.
Shapes: w [K, C/g, R, S], of conv_transpose2d [C, K/g, R, S], of linear [O, I]; p [C].
Numerics: reassociates (the same products, summed in another order). Rejects: weights that are computed, a
permutation across groups: the kernel reads it as an index.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from convc.ir.graph import Node, constant
from convc.ir.patch import Draft, Patch
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.fold_permutation import SELECTIONS, found_rule, match_raised
from convc.passes.pattern import CONVOLUTIONS, array, remade, required, unknown_slots
from convc.passes.selection import PROLOGUE, Selection, inverse, read_selection
from convc.types import Array


@dataclass(frozen=True)
class Absorbed:
    """A convolution, the permutation in front of it, and the constants by slot that take its place."""

    conv: Node
    found: Selection
    values: dict[str, Array]


def match_permuted(draft: Draft, node: Node) -> Absorbed | Reject | None:
    """A convolution of a permutation."""
    found = read_selection(draft, required(draft, node, "x"))
    if found is None or not found.permutes or (node.op == "linear" and node.type.rank != 2):
        return None
    reason = unknown_slots(draft, node, ("w", *PROLOGUE[node.op]))
    if reason:
        return Reject(node.name, reason)
    w, index = array(draft, node, "w"), inverse(found.index)
    groups = node.attrs["groups"] if node.op != "linear" else 1
    count = len(index) // groups
    within = index.reshape(groups, count) - np.arange(groups)[:, None] * count
    if within.min() < 0 or within.max() >= count:
        return Reject(node.name, f"%{found.node.name} permutes channels across the {groups} groups")
    values = {slot: array(draft, node, slot)[index] for slot in PROLOGUE[node.op] if node.input(slot) is not None}
    if node.op == "conv_transpose2d":
        return Absorbed(node, found, {"w": w[index]})
    rows = w.reshape(groups, -1, *w.shape[1:])
    values["w"] = np.stack([rows[g][:, within[g]] for g in range(groups)]).reshape(w.shape)
    return Absorbed(node, found, values)


def _absorb(draft: Draft, match: Absorbed) -> Patch:
    slots = {"x": match.found.x}
    for slot, values in match.values.items():
        old = required(draft, match.conv, slot)
        slots[slot] = constant(draft.fresh_name(old.name), values, source=old.source)
    conv = remade(draft, match.conv, slots=slots, absorbed=[match.found.node])
    return Patch(nodes=(*(node for slot, node in slots.items() if slot != "x"), conv))


ABSORB_PERMUTATION = RewritePass(
    "absorb_permutation",
    Numerics.REASSOCIATES,
    "puts weights in the order of the channels that a convolution reads, and drops rows that nothing reads",
    (
        Rule("absorb_permutation", CONVOLUTIONS, match_permuted, _absorb,
             lambda match: f"%{match.found.node.name} into the weights of %{match.conv.name}"),
        found_rule("narrow_convolution", SELECTIONS, partial(match_raised, narrows=True)),
    ),
)  # fmt: skip
