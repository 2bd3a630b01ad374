"""select(select(x, i), j) = select(x, i[j]);   op(select(x, p)) = select(op'(x), p);   W[p] x = select(W x, p).

A selection of channels is a gather with constant indices or a slice, along axis 1. Three rules, in this order:

- `compose_selections`: selections of selections are one; one that lists all channels in order goes; one of a concat
  takes what it needs of each operand, so that dead channels are dropped where they are made, and what remains is a
  permutation; concats of concats, and of slices that follow each other, are joined.
- `raise_selection`: a selection goes up through operators that only it reads, where that ends in rows of a dense
  convolution's weights and bias (reordered; `absorb_permutation` also drops some), in constants, or in a selection.
- `sink_permutation`: a permutation goes down, through all operators that treat channels alike, at once, where every
  way ends in another selection or in front of a convolution that is not depthwise: kernels read channels in any order.

Elementwise operators, BatchNormalization, InstanceNormalization, convolutions whose groups stay whole (depthwise ones
always), pools, reductions over other axes, spatial pad and resize, concat, and flattening let selections through:
constants with a value a channel are selected along, and operands of a sum agree, or can be made to by the rules above.
Invariants: no rule makes an operator compute more channels; the number of selections that are not in front of a
convolution, or slices of a convolution's output, never grows; the outputs of the graph stay in their order.
Numerics: exact. Rejects: the value has other users on the way up; outputs or operators that need their order, operands
in another order, more than 64 operators on the way down.
Source: channel maps as in Zhang et al. 2017 and Ma et al. 2018, whose shuffles vanish by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from convc.ir.graph import Node, make_node
from convc.ir.patch import Draft, Patch
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.pattern import SOURCES, not_exclusive, replace_by, sources
from convc.passes.selection import (
    WEIGHTED,
    Rebuilder,
    RefusalError,
    Selection,
    carried_index,
    inverse,
    is_distinct,
    is_identity,
    read_selection,
)  # fmt: skip
from convc.types import Array

REACH = 64
"""Operators that one permutation may pass on its way, and operators that one selection may climb."""
SELECTIONS = frozenset({"gather", "slice"})


@dataclass(frozen=True)
class Found:
    """A patch that is ready, and what it does in words."""

    patch: Patch
    note: str


# ---- compose -------------------------------------------------------------------------------------------------------


def match_composition(draft: Draft, node: Node) -> Found | None:
    """A selection of a selection or of a concat, or one that a simpler operator makes."""
    found = read_selection(draft, node)
    if found is None:
        return None
    inner = read_selection(draft, found.x)
    if inner is not None:
        return _as(draft, node, inner.x, inner.index[found.index], f"with {inner.node}")
    if is_identity(found.index, found.x.type.shape[1]):
        return Found(replace_by(draft, node, found.x), f"all of %{found.x.name}, in order")
    if node.op == "gather" and (np.diff(found.index) == np.diff(found.index)[:1]).all() and _rises(found.index):
        return _as(draft, node, found.x, found.index, "as a slice")
    if found.x.op == "concat" and found.x.attrs["axis"] % node.type.rank == 1:
        return _of_concat(draft, found)
    return None


def _rises(index: Array) -> bool:
    return len(index) < 2 or bool(index[1] > index[0])


def _as(draft: Draft, node: Node, x: Node, index: Array, note: str) -> Found:
    """The node as a selection of `x`."""
    if is_identity(index, x.type.shape[1]):
        return Found(replace_by(draft, node, x), f"{note}, which leaves %{x.name}")
    out = Rebuilder(draft)
    out.select(x, index, node.name, sources(node))
    return Found(Patch(nodes=tuple(out.made)), note)


def _of_concat(draft: Draft, found: Selection) -> Found | None:
    """select(concat(parts), index) = select(concat(select(part, what it gives)...), order); a part alone needs none."""
    parts = [part for part in draft.operands(found.x) if part is not None]
    counts = [part.type.shape[1] for part in parts]
    if not all(isinstance(count, int) for count in counts) or not is_distinct(found.index):
        return None
    starts = np.cumsum([0, *counts])
    owner = np.searchsorted(starts, found.index, side="right") - 1
    order = list(dict.fromkeys(owner.tolist()))
    if len(order) == 1:
        index = found.index - starts[order[0]]
        return _as(draft, found.node, parts[order[0]], index, f"of one operand of %{found.x.name}")
    together = 1 + int(np.count_nonzero(np.diff(owner))) == len(order)
    wanted = {i: found.index[owner == i] - starts[i] for i in order}
    if not together:
        order, wanted = sorted(order), {i: np.sort(index) for i, index in wanted.items()}
    kept = sum(len(index) for index in wanted.values())
    if kept == starts[-1] and not (together and all(is_identity(wanted[i], counts[i]) for i in order)):
        return None
    out = Rebuilder(draft)
    name = found.node.name
    chosen = [out.select(parts[i], wanted[i], draft.fresh_name(name), sources(found.node, parts[i])) for i in order]
    joined = np.concatenate([wanted[i] + starts[i] for i in order])
    place = np.argsort(joined, kind="stable")[np.searchsorted(np.sort(joined), found.index)]
    concat = make_node(
        "concat", name if together else draft.fresh_name(name), chosen, {"axis": 1}, source=sources(found.x, found.node)
    )
    out.keep(concat)
    out.select(concat, place, name, sources(found.node))
    return Found(Patch(nodes=tuple(out.made)), f"what it needs of each operand of %{found.x.name}")


def match_joined(draft: Draft, node: Node) -> Found | None:
    """A concat of concats that only it reads, or of slices of one value that follow each other."""
    if node.type.rank < 2 or node.attrs["axis"] % node.type.rank != 1:
        return None
    parts = [part for part in draft.operands(node) if part is not None]
    for at, part in enumerate(parts):
        if part.op == "concat" and part.attrs["axis"] % part.type.rank == 1 and not not_exclusive(draft, part, node):
            inner = [operand for operand in draft.operands(part) if operand is not None]
            return _concat_of(draft, node, [*parts[:at], *inner, *parts[at + 1 :]], Rebuilder(draft), [part])
    chosen = [read_selection(draft, part) for part in parts]
    for at, (first, second) in enumerate(pairwise(chosen)):
        if first is not None and second is not None and first.x is second.x and _follows(first, second):
            out = Rebuilder(draft)
            index, name = np.concatenate([first.index, second.index]), draft.fresh_name(first.node.name)
            both = out.select(first.x, index, name, sources(first.node, second.node))
            rest = [*parts[:at], both, *parts[at + 2 :]]
            return _concat_of(draft, node, rest, out, [first.node, second.node])
    return None


def _follows(first: Selection, second: Selection) -> bool:
    both = np.concatenate([first.index, second.index])
    return bool((np.diff(both) == 1).all())


def _concat_of(draft: Draft, node: Node, parts: Sequence[Node], out: Rebuilder, absorbed: Sequence[Node]) -> Found:
    note = f"with {', '.join(map(str, absorbed))}"
    if len(parts) == 1:
        patch = Patch(tuple(out.made), {node.name: parts[0].name}) if out.made else replace_by(draft, node, parts[0])
        return Found(patch, note)
    out.keep(make_node("concat", node.name, parts, {"axis": 1}, source=sources(node, *absorbed)))
    return Found(Patch(nodes=tuple(out.made)), note)


# ---- raise ---------------------------------------------------------------------------------------------------------


class _Climb:
    """Rebuilds the operators above a selection."""

    def __init__(self, draft: Draft, narrows: bool = False) -> None:
        self.draft, self.out, self.narrows = draft, Rebuilder(draft), narrows
        self.kept: set[str] = set()
        self.passed: dict[str, tuple[Array, Node]] = {}

    def ask(self, value: Node, index: Array, user: Node) -> Node:
        """select(value, index) without a selection of an operator's result. Raises RefusalError."""
        draft = self.draft
        if is_identity(index, value.type.shape[1]) and value.name not in self.passed:
            return self.read(value)
        if value.op == "constant" and value.value.present:
            return self.out.constant(value, value.array[:, index])
        inner = read_selection(draft, value)
        if inner is not None:
            x, at = self.source(inner.x, inner.index[index])
            return self.out.select(x, at, draft.fresh_name(value.name), sources(value))
        if value.name in self.passed and np.array_equal(self.passed[value.name][0], index):
            return self.passed[value.name][1]
        reason = self._why_not(value, index) or not_exclusive(draft, value, user)
        if reason:
            raise RefusalError(reason)
        self.kept.add(value.name)
        made = self.out.rebuild(value, index, self.ask, self.read)
        self.passed[value.name] = index, made
        return made

    def _why_not(self, value: Node, index: Array) -> str:
        if value.op in SOURCES:
            return f"%{value.name} is an {value.op}" if value.op == "input" else f"%{value.name} has no data"
        if value.name in self.passed or value.name in self.kept:
            return f"%{value.name} is needed in two orders"
        dense = value.op in WEIGHTED and value.attrs.get("groups", 1) == 1
        if dense and len(index) != value.type.shape[1] and not self.narrows:
            return f"fewer rows of {value} may sum in another order; that is for absorb_permutation"
        return f"there are more than {REACH} operators above it" if len(self.kept) > REACH else ""

    def source(self, x: Node, index: Array) -> tuple[Node, Array]:
        """What a selection on the way reads."""
        return x, index

    def read(self, x: Node) -> Node:
        """What is read as it is."""
        self.kept.add(x.name)
        return x


def match_raised(draft: Draft, node: Node, narrows: bool = False) -> Found | Reject | None:
    """A selection of what only it reads; `narrows` lets it drop output channels of dense convolutions."""
    found = read_selection(draft, node)
    if found is None or found.x.op in SELECTIONS or not is_distinct(found.index):
        return None
    climb = _Climb(draft, narrows)
    try:
        raised = climb.ask(found.x, found.index, node)
    except RefusalError as refused:
        return Reject(node.name, str(refused)) if node.op == "gather" else None
    return Found(Patch(tuple(climb.out.made), {node.name: raised.name}), f"through {_listed(list(climb.passed))}")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"%{name}" for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")


# ---- sink ----------------------------------------------------------------------------------------------------------


def match_sunk(draft: Draft, node: Node) -> Found | Reject | None:
    """A permutation whose readers can all do without."""
    found = read_selection(draft, node)
    if found is None or not found.permutes:
        return None
    carried = _reached(draft, found)
    if isinstance(carried, Reject):
        return carried
    if not carried:
        return None
    return _Sinking(draft, found, carried).run(list(carried))


def _takes_any_order(draft: Draft, user: Node, value: Node) -> bool:
    """Whether a reader needs no order of channels: a selection, or a convolution that is not depthwise."""
    if user.op in SELECTIONS:
        return read_selection(draft, user) is not None
    if user.op not in WEIGHTED or user.inputs[0] != value.name or user.inputs.count(value.name) > 1:
        return False
    return user.type.rank == 2 if user.op == "linear" else user.attrs["groups"] != value.type.shape[1]


def _reached(draft: Draft, found: Selection) -> dict[str, Array] | Reject:
    """What carries a permutation on, operands first, each with the index that undoes it on its output."""
    root = found.node
    carried: dict[str, None] = {}
    waiting = [root.name]
    while waiting:
        value = draft[waiting.pop()]
        if draft.is_output(value.name):
            return Reject(root.name, f"%{value.name} is an output of the graph")
        for user in draft.users(value.name):
            if user.name in carried or _takes_any_order(draft, user, value):
                continue
            carried[user.name] = None
            waiting.append(user.name)
            if len(carried) > REACH:
                return Reject(root.name, f"there are more than {REACH} operators below it")
    indices = {root.name: inverse(found.index)}
    for name in _in_order(draft, carried):
        user = draft[name]
        operands = draft.operands(user)
        given = [indices.get(o.name) if o is not None else None for o in operands]
        index = carried_index(user, operands, given)
        if index is None:
            return Reject(root.name, f"{user} needs its channels in order")
        indices[name] = index
    del indices[root.name]
    return indices


def _in_order(draft: Draft, names: Mapping[str, None]) -> list[str]:
    """The names, each after those that it reads."""
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        for operand in draft[name].operands:
            if operand in names and operand not in found:
                visit(operand)
        found[name] = None

    for name in names:
        if name not in found:
            visit(name)
    return list(found)


class _Sinking(_Climb):
    """One permutation on its way down: rebuilt operators, and permutations in front of what takes any order."""

    def __init__(self, draft: Draft, found: Selection, carried: dict[str, Array]) -> None:
        super().__init__(draft)
        self.found = found
        self.indices = {found.node.name: inverse(found.index), **carried}
        self.values: dict[str, Node] = {found.node.name: found.x}
        self.in_order: dict[str, Node] = {found.node.name: found.node}

    def run(self, names: Sequence[str]) -> Found | Reject:
        for name in names:
            try:
                self.value(name)
            except RefusalError as refused:
                return Reject(self.found.node.name, f"at %{name}: {refused}")
        redirect: dict[str, str] = {}
        for name in names:
            for user in self.draft.users(name):
                if user.name not in self.values and user.name not in self.passed:
                    self._end(user, name, redirect)
        return Found(Patch(tuple(self.out.made), redirect), f"through {_listed(names)}")

    def value(self, name: str) -> Node:
        """A value that is carried, in the order in which it is now computed."""
        if name not in self.values:
            self.values[name] = self.out.rebuild(self.draft[name], self.indices[name], self.ask, self.read)
        return self.values[name]

    def ask(self, value: Node, index: Array, user: Node) -> Node:
        known = self.indices.get(value.name)
        if known is None:
            return super().ask(value, index, user)
        if not np.array_equal(known, index):
            raise RefusalError(f"%{value.name} is in another order")
        return self.value(value.name)

    def source(self, x: Node, index: Array) -> tuple[Node, Array]:
        if x.name not in self.indices:
            return x, index
        return self.value(x.name), inverse(self.indices[x.name])[index]

    def read(self, x: Node) -> Node:
        """A value that is carried, put in order again; others as they are."""
        if x.name not in self.indices:
            return super().read(x)
        if x.name not in self.in_order:
            order, name = inverse(self.indices[x.name]), self.draft.fresh_name(x.name)
            self.in_order[x.name] = self.out.select(self.value(x.name), order, name, sources(self.found.node))
        return self.in_order[x.name]

    def _end(self, user: Node, name: str, redirect: dict[str, str]) -> None:
        selected = read_selection(self.draft, user)
        if selected is None:
            slots = [self.read(o) if o is not None and o.name == name else o for o in self.draft.operands(user)]
            self.out.keep(make_node(user.op, user.name, slots, user.attrs, source=sources(user)))
            return
        value = self.values[name]
        index = inverse(self.indices[name])[selected.index]
        new = self.out.select(value, index, user.name, sources(user))
        if new is value:
            redirect[user.name] = new.name


def found_rule(name: str, roots: frozenset[str], match: Callable[[Draft, Node], Found | Reject | None]) -> Rule[Found]:
    """A rule whose match is its patch."""
    return Rule(name, roots, match, lambda draft, found: found.patch, lambda found: found.note)


FOLD_PERMUTATION = RewritePass(
    "fold_permutation",
    Numerics.EXACT,
    "composes selections of channels, and moves them into weights or in front of convolutions",
    (
        found_rule("compose_selections", SELECTIONS, match_composition),
        found_rule("join_concats", frozenset({"concat"}), match_joined),
        found_rule("raise_selection", SELECTIONS, match_raised),
        found_rule("sink_permutation", frozenset({"gather"}), match_sunk),
    ),
)
