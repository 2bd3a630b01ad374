"""The PyTorch frontend: a torch.nn.Module in evaluation mode, or a torch.export.ExportedProgram, to a Graph.

torch is imported only when a module is read; no other part of convc knows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convc.limits import Limits

if TYPE_CHECKING:
    from convc.ir.graph import Graph

_DEFAULT_LIMITS = Limits()


def is_module(source: object) -> bool:
    """Whether `source` is a torch.nn.Module, told without importing torch."""
    return any(c.__name__ == "Module" and c.__module__ == "torch.nn.modules.module" for c in type(source).__mro__)


def load_torch(
    module: Any,
    example_inputs: Sequence[Any] | None,
    *,
    input_shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    limits: Limits = _DEFAULT_LIMITS,
) -> Graph:
    """Read a module, traced with tensors shaped as `example_inputs`; their elements do not matter.

    Axis 0 of every input becomes the symbol N. `input_shapes` overrides shapes of inputs, which are named as the
    arguments of `forward`: a number fixes a size, a name makes it symbolic, None keeps it. Parameters and buffers are
    named as in the state dictionary and share the module's memory, which must not change afterwards; operators are
    named by their module's path. The module is not changed.

    Raises ModelError for a module in training mode, for element types other than float32, and for what torch.export or
    convc cannot take (all unknown operators at once); InputError for arguments that do not fit; LimitError.
    """
    from convc.frontends.torch.importer import import_module

    return import_module(module, example_inputs, input_shapes=input_shapes or {}, limits=limits)


def is_program(source: object) -> bool:
    """Whether `source` is a torch.export.ExportedProgram, told without importing torch."""
    return any(c.__name__ == "ExportedProgram" and c.__module__.startswith("torch.") for c in type(source).__mro__)


def load_program(
    program: Any, *, input_shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    limits: Limits = _DEFAULT_LIMITS,
) -> Graph:  # fmt: skip
    """Read a torch.export.ExportedProgram, as torch.export.export makes and torch.export.load reads them.

    What was exported as dynamic is symbolic, N along axis 0; `input_shapes` fixes or names it, and must fix what was
    exported for sizes up to a largest. Parameters share the program's memory.

    Raises ModelError for element types other than float32 and for what convc cannot take; InputError for shapes that
    the program was not exported for; LimitError.
    """
    from convc.frontends.torch.importer import import_program

    return import_program(program, input_shapes=input_shapes or {}, limits=limits)


__all__ = ["is_module", "is_program", "load_program", "load_torch"]
