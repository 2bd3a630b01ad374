"""A proposed edit of a graph, and the one place that applies edits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from convc.errors import ModelError
from convc.ir.graph import Graph, Node, Output


@dataclass(frozen=True)
class Patch:
    """A proposed edit: nodes to add or to redefine under their name, and values to take in the place of others.

    `redirect` maps old names to new ones: users outside the patch, and outputs, read the new node instead.
    Inputs of the patch's own nodes are taken as they are. Types of redefined and redirected values stay the same.
    """

    nodes: tuple[Node, ...] = ()
    redirect: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Applied:
    """What a patch did: names of nodes that are gone, that are new or redefined, and that lost a user but stay."""

    removed: tuple[str, ...]
    added: tuple[str, ...]
    freed: tuple[str, ...] = ()


class Draft:
    """A mutable copy of a graph to apply patches to; `freeze` makes it a graph again.

    Each patch costs time in proportion to its own nodes and their users. A node keeps its place in the order; new
    nodes come right before the first node that their patch redefines or redirects, so dumps compare line by line.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes = {node.name: node for node in graph.nodes}
        self._place: dict[str, tuple[int, int]] = {node.name: (i, _LAST) for i, node in enumerate(graph.nodes)}
        self._users: dict[str, dict[str, None]] = {node.name: {} for node in graph.nodes}
        for node in graph.nodes:
            for name in node.operands:
                self._users[name][node.name] = None
        self._outputs = list(graph.outputs)
        self._output_nodes = {output.node for output in graph.outputs}
        self._taken = set(self._nodes)
        self._suffix: dict[str, int] = {}
        self._base: dict[str, str] = {}
        self._edits = 0

    def __getitem__(self, name: str) -> Node:
        try:
            return self._nodes[name]
        except KeyError:
            raise ModelError(f"graph {self._graph.name} has no node %{name}", hint="check the patch") from None

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def names(self) -> tuple[str, ...]:
        """All node names, those of the original graph first and in its order."""
        return tuple(self._nodes)

    @property
    def outputs(self) -> tuple[Output, ...]:
        return tuple(self._outputs)

    @property
    def nominal(self) -> dict[str, int]:
        return self._graph.nominal

    def operands(self, node: Node) -> tuple[Node | None, ...]:
        """The nodes in a node's slots."""
        return tuple(self[name] if name is not None else None for name in node.inputs)

    def users(self, name: str) -> tuple[Node, ...]:
        """Nodes that read `name`, each once."""
        return tuple(self._nodes[user] for user in self._users[name])

    def only_user(self, name: str) -> Node | None:
        """The one node that reads `name`, where there is one and the value is not an output."""
        users = self._users[name]
        return self._nodes[next(iter(users))] if len(users) == 1 and not self.is_output(name) else None

    def is_output(self, name: str) -> bool:
        return name in self._output_nodes

    def position(self, name: str) -> tuple[int, int]:
        """A key that sorts nodes as the graph prints them; edits keep it topological only where they can."""
        return self._place[name]

    def fresh_name(self, base: str) -> str:
        """A name that no node has, had, or was promised: `base.1`, `base.2`, ...; that of `base.1` is `base.2`, too."""
        base = self._base.get(base, base)
        number = self._suffix.get(base, 0) + 1
        while f"{base}.{number}" in self._taken:
            number += 1
        self._suffix[base] = number
        name = f"{base}.{number}"
        self._taken.add(name)
        self._base[name] = base
        return name

    def apply(self, patch: Patch) -> Applied:
        """Apply a patch and drop the nodes that died of it. Raises ModelError, the draft unchanged, for a bad patch."""
        self._check(patch)
        touched: dict[str, None] = {}
        self._place_nodes(patch)
        made = {node.name for node in patch.nodes}
        for node in patch.nodes:
            old = self._nodes.get(node.name)
            self._nodes[node.name] = node
            self._users.setdefault(node.name, {})
            if old is not None:
                for name in old.operands:
                    self._users[name].pop(node.name, None)
                    touched[name] = None
            touched[node.name] = None
        for node in patch.nodes:
            for name in node.operands:
                self._users[name][node.name] = None
        for old_name, new_name in patch.redirect.items():
            self._redirect(old_name, new_name, made)
            touched[old_name] = None
        removed = self._drop_dead(touched)
        self._taken.update(made)
        added = tuple(node.name for node in patch.nodes if node.name in self._nodes)
        freed = tuple(name for name in touched if name in self._nodes and name not in made)
        return Applied(tuple(removed), added, freed)

    def freeze(self) -> Graph:
        """The draft as a graph; the original one where nothing was edited."""
        if not self._edits:
            return self._graph
        nodes = sorted(self._nodes.values(), key=lambda node: self._place[node.name])
        return Graph.build(self._graph.name, nodes, self._outputs, self._graph.nominal)

    def _check(self, patch: Patch) -> None:
        made: dict[str, Node] = {}
        for node in patch.nodes:
            if node.name in made:
                raise ModelError(f"the patch defines %{node.name} twice", hint="use Draft.fresh_name")
            made[node.name] = node
            old = self._nodes.get(node.name)
            if old is not None and old.type != node.type:
                raise ModelError(f"{node}: {node.type} replaces {old.type}", hint="a redefined node keeps its type")
        for node in patch.nodes:
            for name in node.operands:
                if name not in made and name not in self._nodes:
                    raise ModelError(f"{node} reads %{name}, which is no node", hint="add it to the patch")
        for old_name, new_name in patch.redirect.items():
            source = self[old_name]
            target = made.get(new_name) or self._nodes.get(new_name)
            if target is None:
                raise ModelError(f"%{old_name} is redirected to %{new_name}, which is no node", hint="add it")
            if target.type != source.type:
                raise ModelError(
                    f"%{old_name}: {source.type} is redirected to %{new_name}: {target.type}",
                    hint="types must be equal",
                )
            if new_name not in made and old_name in target.operands:
                raise ModelError(f"{target} would read itself instead of %{old_name}", hint="redefine it in the patch")
            if new_name in patch.redirect:
                raise ModelError(
                    f"%{new_name} is redirected to and from", hint="redirect to the last node of the chain"
                )
        if not patch.nodes and not patch.redirect:
            raise ModelError("the patch is empty", hint="refuse with a reason instead")

    def _place_nodes(self, patch: Patch) -> None:
        anchors = [n.name for n in patch.nodes if n.name in self._place] + list(patch.redirect)
        anchor = min((self._place[name][0] for name in anchors), default=len(self._graph.nodes))
        for node in patch.nodes:
            if node.name not in self._place:
                self._edits += 1
                self._place[node.name] = (anchor, self._edits)
        self._edits += 1

    def _redirect(self, old_name: str, new_name: str, made: Iterable[str]) -> None:
        users = self._users[old_name]
        for name in [user for user in users if user not in made]:
            node = self._nodes[name]
            inputs = tuple(new_name if i == old_name else i for i in node.inputs)
            self._nodes[name] = Node(node.name, node.op, inputs, node.attrs, node.type, node.source)
            del users[name]
            self._users[new_name][name] = None
        if old_name in self._output_nodes:
            self._outputs = [Output(o.name, new_name) if o.node == old_name else o for o in self._outputs]
            self._output_nodes.discard(old_name)
            self._output_nodes.add(new_name)

    def _drop_dead(self, touched: dict[str, None]) -> list[str]:
        """Drop nodes that have died; `touched` says where to begin, and gains what the dropped ones read."""
        removed: list[str] = []
        waiting = list(touched)
        while waiting:
            name = waiting.pop()
            node = self._nodes.get(name)
            if node is None or node.op == "input" or self._users[name] or self.is_output(name):
                continue
            removed.append(name)
            del self._nodes[name], self._users[name], self._place[name]
            for operand in dict.fromkeys(node.operands):
                self._users[operand].pop(name, None)
                touched[operand] = None
                waiting.append(operand)
        return removed


_LAST = 1 << 60
