"""Names of nodes, from the modules that torch.export saw them in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_CONTAINERS = "torch.nn.modules.module", "torch.nn.modules.container"


class Names:
    """A layer of torch.nn that is one operator gives it its path, `layer1.0.conv1`. `modules`: whether a path is one.

    Any other operator is called after the module whose `forward` calls it, and by its own name: `layer1.0.add`.
    """

    def __init__(self, modules: Mapping[str, bool], nodes: Sequence[Any]) -> None:
        self.modules = modules
        self._in_layer = Counter(self._place(node) for node in nodes)

    def of(self, node: Any) -> tuple[str, bool]:
        """The name of a node's result, and whether it is a module's path."""
        path, _ = self._place(node)
        if self._in_layer[self._place(node)] == 1 and path and self.modules[path]:
            return path, True
        name = getattr(node.target, "__name__", str(node.target)).partition(".")[0].strip("_")
        return (f"{path}.{name}" if path else name), False

    def _place(self, node: Any) -> tuple[str, str]:
        """The path of the innermost module, and the call of it."""
        stack = node.meta.get("nn_module_stack") or {}
        for key, entry in reversed(stack.items()):
            path = _clean(entry[0])
            if path in self.modules:
                return path, str(key)
        return "", ""


def layers_of(module: Any) -> dict[str, bool]:
    """Whether a module's parts, by path, are layers of torch.nn."""
    return {
        path: any(_is_layer(c.__module__) for c in type(part).__mro__) for path, part in module.named_modules()
    }


def layers_seen(program: Any) -> dict[str, bool]:
    """The same, as far as the calls of a torch.export.ExportedProgram tell."""
    stacks = (node.meta.get("nn_module_stack") or {} for node in program.graph.nodes)
    return {_clean(path): _is_layer(_qualified(kind)) for stack in stacks for path, kind in stack.values()}


def _qualified(kind: Any) -> str:
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def _is_layer(kind: str) -> bool:
    return kind.startswith("torch.nn.modules.") and not kind.startswith(_CONTAINERS)


def _clean(path: str) -> str:
    """`layer1.0` from `L['self'].layer1[0]`, `getattr(L['self'].layer1, '0')` and the like."""
    path = re.sub(r"L(\[['\"]self['\"]\]|__self__)\.?", "", path)
    while (found := re.sub(r"getattr\(([^(),]*), ['\"]([^'\"]*)['\"]\)", r"\1.\2", path)) != path:
        path = found
    return re.sub(r"\[['\"]?(\w+)['\"]?\]", r".\1", path).strip(".")
