"""Applies local rules to a fixed point: a worklist over nodes, one patch at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from convc.errors import ModelError
from convc.ir.graph import Graph, Node
from convc.ir.patch import Applied, Draft, Patch
from convc.passes.base import Numerics, PassResult, Reject, Rewrite
from convc.passes.context import Context

M = TypeVar("M")

STEPS_A_NODE = 8
"""Rewrites allowed for each node of the input, before a set of rules counts as one that never ends."""


@dataclass(frozen=True)
class Rule(Generic[M]):
    """One rewrite in two steps: `match` finds the facts or refuses, `rewrite` turns them into a patch.

    `match` is asked at nodes of the operators in `roots` (every one where empty). It returns None where the rule has
    nothing to do with the node, a Reject with a reason where it looks applicable and is not, and otherwise whatever
    `rewrite` needs. `note` words the match for the record, `certificate` gives its figures.
    """

    name: str
    roots: frozenset[str]
    match: Callable[[Draft, Node], M | Reject | None]
    rewrite: Callable[[Draft, M], Patch]
    note: Callable[[M], str] = lambda match: ""
    certificate: Callable[[M], Mapping[str, float]] = lambda match: {}


@dataclass(frozen=True)
class RewritePass:
    """A pass made of rules, tried in order at each node until none applies anywhere."""

    name: str
    numerics: Numerics
    doc: str
    rules: tuple[Rule[Any], ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        return rewrite_to_fixed_point(graph, self.rules)


def rewrite_to_fixed_point(graph: Graph, rules: tuple[Rule[Any], ...]) -> PassResult:
    """Apply rules until none applies. Refusals are those that still hold at the end, each once.

    Raises ModelError where rules undo each other and never come to an end.
    """
    draft = Draft(graph)
    by_op = _RulesByOperator(rules)
    waiting = _Worklist(name for name in draft.names if by_op[draft[name].op])
    refusals: dict[tuple[str, str], Reject] = {}
    rewrites: list[Rewrite] = []
    limit = STEPS_A_NODE * len(graph) + 100
    while waiting:
        name = waiting.pop()
        if name not in draft:
            continue
        node = draft[name]
        for rule in by_op[node.op]:
            found = rule.match(draft, node)
            if found is None or isinstance(found, Reject):
                _note_refusal(refusals, rule.name, name, found)
                continue
            refusals.pop((rule.name, name), None)
            around = _neighbours(draft, node)
            applied = draft.apply(rule.rewrite(draft, found))
            note, figures = rule.note(found), rule.certificate(found)
            rewrites.append(Rewrite(rule.name, name, applied.removed, applied.added, note, figures))
            if len(rewrites) > limit:
                raise ModelError(
                    f"rule {rule.name} is still rewriting {node} after {limit} steps", hint="leave this pass out"
                )
            for again in _affected(draft, applied, around):
                waiting.push(again)
            break
    kept = tuple(r for (_, root), r in refusals.items() if root in draft and r.node in draft)
    return PassResult(draft.freeze(), tuple(rewrites), kept)


def _note_refusal(refusals: dict[tuple[str, str], Reject], rule: str, node: str, found: Reject | None) -> None:
    if found is None:
        refusals.pop((rule, node), None)
    else:
        refusals[rule, node] = replace(found, rule=rule)


def _neighbours(draft: Draft, node: Node) -> dict[str, None]:
    """The node, what it reads and who reads it, and their users: a patch may change what these may do."""
    found = {node.name: None, **{name: None for name in node.operands}}
    for user in draft.users(node.name):
        found[user.name] = None
        found.update((name, None) for name in user.operands)
    return found


def _affected(draft: Draft, applied: Applied, around: Mapping[str, None]) -> list[str]:
    """Nodes to look at again: new ones, their neighbours, and those near what is gone."""
    found: dict[str, None] = {}
    for name in (*applied.added, *applied.freed, *around):
        if name not in draft:
            continue
        found[name] = None
        node = draft[name]
        for operand in node.operands:
            found[operand] = None
            if draft[operand].op not in {"input", "constant"}:
                found.update((user.name, None) for user in draft.users(operand))
        found.update((user.name, None) for user in draft.users(name) if node.op != "constant")
    return sorted(found, key=draft.position)


class _RulesByOperator:
    def __init__(self, rules: tuple[Rule[Any], ...]) -> None:
        self._rules = rules
        self._known: dict[str, tuple[Rule[Any], ...]] = {}

    def __getitem__(self, op: str) -> tuple[Rule[Any], ...]:
        if op not in self._known:
            self._known[op] = tuple(rule for rule in self._rules if not rule.roots or op in rule.roots)
        return self._known[op]


class _Worklist:
    """Names in order, each waiting at most once."""

    def __init__(self, names: Iterable[str]) -> None:
        self._queue = deque(names)
        self._inside = set(self._queue)

    def __bool__(self) -> bool:
        return bool(self._queue)

    def push(self, name: str) -> None:
        if name not in self._inside:
            self._inside.add(name)
            self._queue.append(name)

    def pop(self) -> str:
        name = self._queue.popleft()
        self._inside.discard(name)
        return name
