"""Selections of channels, and how operators take them: select(op(x), i) = op'(select(x, i)).

A selection is a gather with constant indices, or a slice, along axis 1. `Rebuilder` makes op' of an operator: the same
one over selected operands, its constants selected along. An operand is asked for with the index that it needs; whoever
asks decides how that is met, by what is there already or by rebuilding the operand's own operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convc.ir.graph import Node, constant, make_node
from convc.ir.patch import Draft
from convc.ops import OPS
from convc.passes.pattern import is_known, operand, remade, required, unknown_slots
from convc.types import Array

ELEMENTWISE = frozenset(name for name, op in OPS.items() if "elementwise" in op.traits)
POOLS = frozenset({"max_pool2d", "avg_pool2d", "global_avg_pool", "global_max_pool"})
REDUCTIONS = frozenset({"reduce_mean", "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_l2", "argmax"})
NORMS = {"batch_norm": ("gamma", "beta", "mean", "var"), "instance_norm": ("gamma", "beta")}
WEIGHTED = frozenset({"conv2d", "conv_transpose2d", "linear"})
RESIDUAL = 3
"""The slot of what a convolution adds."""
PROLOGUE = {"conv2d": ("scale", "shift"), "conv_transpose2d": (), "linear": ()}
"""Slots with a value an input channel."""


@dataclass(frozen=True)
class Selection:
    """`node` has the channels of `x` that `index` lists, in that order. Indices are not negative."""

    node: Node
    x: Node
    index: Array

    @property
    def permutes(self) -> bool:
        """Whether every channel of `x` is there, once."""
        return len(self.index) == self.x.type.shape[1] and is_distinct(self.index)


def is_distinct(index: Array) -> bool:
    """Whether no channel is listed twice."""
    return len(np.unique(index)) == len(index)


def is_identity(index: Array, channels: object) -> bool:
    """Whether the index lists all channels in order."""
    return len(index) == channels and bool((index == np.arange(len(index))).all())


def inverse(index: Array) -> Array:
    """The permutation that undoes one."""
    return np.argsort(index, kind="stable")


def read_selection(draft: Draft, node: Node) -> Selection | None:
    """The selection that a node is, None where it is none: another axis, computed indices, symbolic bounds."""
    if node.op not in {"gather", "slice"} or node.type.rank < 2 or node.attrs["axis"] % node.type.rank != 1:
        return None
    x, count = draft[node.operands[0]], node.type.shape[1]
    channels = x.type.shape[1]
    if not isinstance(channels, int) or not isinstance(count, int) or count < 1 or x.type.rank != node.type.rank:
        return None
    if node.op == "slice":
        start, step = node.attrs["start"], node.attrs["step"]
        return Selection(node, x, start + step * np.arange(count)) if isinstance(start, int) else None
    indices = required(draft, node, "indices")
    if not is_known(indices) or indices.type.rank != 1:
        return None
    index = indices.array.astype(np.int64)
    index = np.where(index < 0, index + channels, index)
    return Selection(node, x, index) if index.min() >= 0 and index.max() < channels else None


Ask = Callable[[Node, Array, Node], Node]
"""(operand, index, its user) to select(operand, index); raises RefusalError."""


class RefusalError(Exception):
    """Why a selection cannot pass an operator; the match that began turns it into a Reject."""


class Rebuilder:
    """Collects the nodes of one patch."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.made: list[Node] = []

    def keep(self, node: Node) -> Node:
        self.made.append(node)
        return node

    def name_for(self, node: Node, index: Array) -> str:
        """The node's own name where its type stays, else a fresh one."""
        return node.name if len(index) == node.type.shape[1] else self.draft.fresh_name(node.name)

    def constant(self, old: Node, values: Array) -> Node:
        return self.keep(constant(self.draft.fresh_name(old.name), values, source=old.source))

    def select(self, x: Node, index: Array, name: str, source: Iterable[str]) -> Node:
        """`x` where the index is all of it, a slice for a run, else a gather."""
        if is_identity(index, x.type.shape[1]):
            return x
        steps = np.diff(index)
        step = int(steps[0]) if len(steps) else 1
        if step > 0 and (steps == step).all():
            attrs = {"axis": 1, "start": int(index[0]), "stop": int(index[-1]) + 1, "step": step}
            return self.keep(make_node("slice", name, [x], attrs, source=source))
        indices = self.keep(constant(self.draft.fresh_name(f"{name}.indices"), index.astype(np.int64), source=source))
        return self.keep(make_node("gather", name, [x, indices], {"axis": 1}, source=source))

    def rebuild(self, node: Node, index: Array, ask: Ask, read: Callable[[Node], Node]) -> Node:
        """select(node, index) by the node's own operator over selected operands. Raises RefusalError.

        `read` gives what a dense convolution reads: it takes channels in any order, and in all.
        """
        if node.type.rank < 2 or not isinstance(node.type.shape[1], int):
            raise RefusalError(f"the channels of %{node.name}: {node.type} are not known")
        if node.op in WEIGHTED:
            return self._weighted(node, index, ask, read)
        plan = self._constants(node, index) if node.op in NORMS else self._operands(node, index)
        inputs: list[Node | None] = []
        for old, wanted in zip(self.draft.operands(node), plan, strict=True):
            if old is None or wanted is None:
                inputs.append(old)
            else:
                inputs.append(wanted if isinstance(wanted, Node) else ask(old, wanted, node))
        attrs = {**node.attrs, **_resized(node, len(index))}
        made = make_node(node.op, self.name_for(node, index), inputs, attrs, source=node.source)
        return self.keep(made)

    # ---- what an operator asks of its operands: an index, a node in its place, or None for the operand as it is -----

    def _operands(self, node: Node, index: Array) -> list[Any]:
        if node.op in ELEMENTWISE:
            return self._elementwise(node, index)
        if node.op == "concat":
            return self._parts(node, index)
        x = required(self.draft, node, "x") if OPS[node.op].slots[:1] == ("x",) else None
        reason = f"{node.op} %{node.name} needs its channels in order"
        if x is None or x.type.rank < 2:
            raise RefusalError(reason)
        if node.op == "reshape" and x.type.shape[:2] != node.type.shape[:2]:
            return self._flattened(node, x, index)
        if not keeps_channels(node, x):
            raise RefusalError(reason)
        return [index]

    def _elementwise(self, node: Node, index: Array) -> list[Any]:
        plan: list[Any] = []
        for old in self.draft.operands(node):
            assert old is not None
            axis = 1 - (node.type.rank - old.type.rank)
            if axis < 0 or old.type.shape[axis] != node.type.shape[1] or node.type.shape[1] == 1:
                plan.append(None)
            elif is_known(old):
                plan.append(self.constant(old, np.take(old.array, index, axis)))
            elif axis != 1:
                raise RefusalError(f"the channels of %{old.name}: {old.type} are not at axis 1")
            else:
                plan.append(index)
        return plan

    def _parts(self, node: Node, index: Array) -> list[Any]:
        parts = self.draft.operands(node)
        if node.attrs["axis"] % node.type.rank != 1:
            return [index] * len(parts)
        plan: list[Any] = []
        start = 0
        for part in parts:
            assert part is not None
            count = part.type.shape[1]
            if not isinstance(count, int):
                raise RefusalError(f"the channels of %{part.name}: {part.type} are not known")
            wanted = index[start : start + count] - start
            if len(index) != node.type.shape[1] or wanted.min(initial=0) < 0 or wanted.max(initial=0) >= count:
                raise RefusalError(f"the selection mixes the operands of %{node.name}")
            plan.append(wanted)
            start += count
        return plan

    def _flattened(self, node: Node, x: Node, index: Array) -> list[Any]:
        """[N, C, H, W] to [N, C H W]: a channel is a run of H W."""
        channels, total = x.type.shape[1], node.type.shape[1]
        flat = node.type.rank == 2 and x.type.shape[0] == node.type.shape[0]
        if not flat or not isinstance(channels, int) or not isinstance(total, int) or not channels:
            raise RefusalError(f"%{node.name} reshapes {x.type} to {node.type}")
        wanted = runs(index, total // channels)
        if wanted is None:
            raise RefusalError(f"the selection takes parts of a channel of %{x.name}")
        return [wanted]

    def _constants(self, node: Node, index: Array) -> list[Any]:
        missing = unknown_slots(self.draft, node, NORMS[node.op])
        if missing:
            raise RefusalError(missing)
        return [index, *(self.constant(c, c.array[index]) for c in self.draft.operands(node)[1:] if c is not None)]

    def _weighted(self, node: Node, index: Array, ask: Ask, read: Callable[[Node], Node]) -> Node:
        """Output channels of a convolution are rows of its weights; those of groups, whole groups in their order."""
        missing = unknown_slots(self.draft, node, ("w", "b", *PROLOGUE[node.op]))
        if missing:
            raise RefusalError(missing)
        if node.op == "linear" and node.type.rank != 2:
            raise RefusalError(f"%{node.name} has its channels at axis {node.type.rank - 1}")
        groups = node.attrs["groups"] if node.op != "linear" else 1
        w, old = required(self.draft, node, "w"), required(self.draft, node, "x")
        slots: dict[str, Node] = {}
        attrs: dict[str, Any] = {}
        if groups == 1:
            x = read(old)
            rows = w.array[:, index] if node.op == "conv_transpose2d" else w.array[index]
        else:
            out, channels = node.type.shape[1], old.type.shape[1]
            assert isinstance(out, int) and isinstance(channels, int)
            chosen = runs(index, out // groups)
            if chosen is None:
                raise RefusalError(f"the selection does not map the groups of %{node.name} onto groups")
            rows = w.array.reshape(groups, -1, *w.array.shape[1:])[chosen].reshape(-1, *w.array.shape[1:])
            wanted = _expanded(chosen, channels // groups)
            x = ask(old, wanted, node)
            attrs["groups"] = len(chosen)
            slots = self._selected(node, PROLOGUE[node.op], wanted)
        residual = operand(self.draft, node, "residual")
        slots |= {"x": x, "w": self.constant(w, np.ascontiguousarray(rows)), **self._selected(node, ("b",), index)}
        if residual is not None:
            slots["residual"] = ask(residual, index, node)
        return self.keep(remade(self.draft, node, slots=slots, attrs=attrs, name=self.name_for(node, index)))

    def _selected(self, node: Node, slots: Sequence[str], index: Array) -> dict[str, Node]:
        found = {slot: operand(self.draft, node, slot) for slot in slots}
        return {slot: self.constant(old, old.array[index]) for slot, old in found.items() if old is not None}


def keeps_channels(node: Node, x: Node) -> bool:
    """Whether an operator of one operand treats channels alike and each on its own."""
    a = node.attrs
    if node.op in POOLS or node.op in {"identity", "dropout"}:
        return True
    if node.op in REDUCTIONS or node.op in {"softmax", "log_softmax"}:
        axes = [axis % x.type.rank for axis in (a["axes"] if "axes" in a else (a["axis"],))]
        return 1 not in axes and (a.get("keepdims", True) or 0 not in axes)
    if node.op == "slice":
        return bool(a["axis"] % x.type.rank != 1)
    if node.op == "transpose":
        return bool(a["perm"][1] == 1)
    if node.op == "pad":
        return bool(a["before"][1] == a["after"][1] == 0)
    if node.op == "resize":
        return bool(x.type.shape[1] == node.type.shape[1] and a["scales"][1] == 1.0)
    if node.op == "expand":
        return x.type.rank == node.type.rank and x.type.shape[1] == node.type.shape[1]
    return bool(node.op == "reshape" and x.type.shape[:2] == node.type.shape[:2])


def _resized(node: Node, channels: int) -> Mapping[str, Any]:
    """Attributes that hold the number of channels."""
    for name in ("shape", "size"):
        sizes = node.attrs.get(name)
        if isinstance(sizes, tuple) and node.op in {"reshape", "expand", "resize"}:
            return {name: (sizes[0], channels, *sizes[2:])}
    return {}


def runs(index: Array, length: int) -> Array | None:
    """The runs [k length, (k + 1) length) of which an index is made, by k; None where it is not."""
    if length < 1 or len(index) % length:
        return None
    first = index.reshape(-1, length)[:, 0]
    whole = (first % length == 0).all() and bool((index == _expanded(first // length, length)).all())
    return first // length if whole else None


def _expanded(index: Array, length: int) -> Array:
    """Each channel as a run of that length."""
    expanded: Array = (index[:, None] * length + np.arange(length)).reshape(-1)
    return expanded


def carried_index(node: Node, operands: Sequence[Node | None], indices: Sequence[Array | None]) -> Array | None:
    """The index of the output that goes with those of some operands; None where the operator has none."""
    out = node.type.shape[1] if node.type.rank > 1 else None
    slot = next(i for i, index in enumerate(indices) if index is not None)
    x, index = operands[slot], indices[slot]
    assert x is not None and index is not None
    channels = x.type.shape[1]
    if not isinstance(out, int) or not isinstance(channels, int):
        return None
    if node.op == "concat" and node.attrs["axis"] % node.type.rank == 1:
        counts = [size for part in operands if part is not None and isinstance(size := part.type.shape[1], int)]
        if len(counts) != len(operands):
            return None
        starts = np.cumsum([0, *counts])
        parts = [np.arange(n) if i is None else i for n, i in zip(counts, indices, strict=True)]
        return np.concatenate([part + start for part, start in zip(parts, starts, strict=False)])
    if node.op in WEIGHTED:
        if len(indices) > RESIDUAL and indices[RESIDUAL] is not None:
            return indices[RESIDUAL]
        groups = node.attrs["groups"] if node.op != "linear" else 1
        chosen = runs(index, channels // groups) if groups > 1 and slot == 0 else None
        return None if chosen is None else _expanded(chosen, out // groups)
    if node.op == "reshape" and x.type.shape[:2] != node.type.shape[:2]:
        return _expanded(index, out // channels) if node.type.rank == 2 and out % channels == 0 else None
    return index if out == channels and x.type.rank == node.type.rank else None
