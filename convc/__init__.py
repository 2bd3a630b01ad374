"""convc: a compiler for convolutional networks.

Names are imported when they are first used, so that `import convc` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convc import zoo
    from convc.artifact import load
    from convc.compiler import compile
    from convc.errors import Error, InputError, LimitError, ModelError, TargetError
    from convc.frontends.builder import Builder
    from convc.ir.graph import Graph
    from convc.ir.parser import parse
    from convc.limits import Limits
    from convc.model import CompiledModel

__version__ = "0.1.0"

_HOMES = {
    "Builder": "convc.frontends.builder",
    "CompiledModel": "convc.model",
    "Error": "convc.errors",
    "Graph": "convc.ir.graph",
    "InputError": "convc.errors",
    "LimitError": "convc.errors",
    "Limits": "convc.limits",
    "ModelError": "convc.errors",
    "TargetError": "convc.errors",
    "compile": "convc.compiler",
    "load": "convc.artifact",
    "parse": "convc.ir.parser",
}


def __getattr__(name: str) -> Any:
    if name == "zoo":
        return importlib.import_module("convc.zoo")
    if name not in _HOMES:
        raise AttributeError(f"module 'convc' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "zoo"])


__all__ = [
    "Builder", "CompiledModel", "Error", "Graph", "InputError", "LimitError", "Limits", "ModelError", "TargetError",
    "__version__", "compile", "load", "parse", "zoo",
]  # fmt: skip
