"""What comes before tracing: a module in a state that can be read, and its inputs with names, shapes and symbols."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convc.dims import Dim, Size
from convc.errors import InputError, ModelError
from convc.frontends.torch.context import dtype_of
from convc.types import DType

InputShapes = Mapping[str, Sequence[int | str | None]]
BATCH = "N"


@dataclass(frozen=True)
class Input:
    """An argument of `forward`: an example tensor, its shape with symbols, and their nominal values."""

    name: str
    tensor: Any
    shape: tuple[Size, ...]
    nominal: tuple[int, ...]

    @property
    def dtype(self) -> DType:
        return dtype_of(self.tensor)


def label(module: Any) -> str:
    """The module's class, for messages."""
    return type(module).__name__


def check_module(module: Any) -> None:
    """Raise ModelError for a module in training mode, one that is compiled already, or one that is not float32."""
    kind = label(module)
    if any(c.__module__.startswith("torch.jit") for c in type(module).__mro__):
        raise ModelError(f"{kind} is a TorchScript module, which cannot be traced", hint="give the module it came from")
    if hasattr(module, "_orig_mod"):
        raise ModelError(f"{kind} wraps a module for torch.compile", hint="give the module that it wraps: ._orig_mod")
    training = next((path for path, part in module.named_modules() if part.training), None)
    if training is not None:
        where = f"its part {training}" if training else "it"
        raise ModelError(f"{kind}: {where} is in training mode", hint="call .eval() on the module first")
    for what, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for name, tensor in tensors:
            check_dtype(tensor, f"{kind}: {what} {name}")


def check_dtype(tensor: Any, what: str) -> None:
    """Raise ModelError where a tensor's elements are floating point, and not float32."""
    if (tensor.is_floating_point() or tensor.is_complex()) and str(tensor.dtype) != "torch.float32":
        raise ModelError(f"{what} is {str(tensor.dtype).removeprefix('torch.')}, expected float32",
                         hint="call .float() on the module and its inputs")  # fmt: skip


def named_inputs(module: Any, example_inputs: Sequence[Any] | None, input_shapes: InputShapes) -> list[Input]:
    """The inputs, example tensors made anew where sizes differ. Raises InputError, naming what does not fit."""
    import torch

    kind = label(module)
    if isinstance(example_inputs, torch.Tensor):
        example_inputs = (example_inputs,)
    if not example_inputs:
        raise InputError(
            f"{kind} needs example_inputs, a tensor for each argument of forward",
            hint="as in convc.compile(module, example_inputs=(torch.randn(1, 3, 224, 224),))",
        )
    named = dict(zip(_names(module, example_inputs), example_inputs, strict=True))
    for name, tensor in named.items():
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"example input {name} is a {type(tensor).__name__}, expected a tensor",
                             hint="wrap the module so that forward takes tensors only")  # fmt: skip
        check_dtype(tensor, f"example input {name}")
    for name in input_shapes:
        if name not in named:
            raise InputError(f"input_shapes names {name}, which is no input", hint=f"inputs are {', '.join(named)}")
    inputs = [_input(name, tensor, input_shapes.get(name)) for name, tensor in named.items()]
    known: dict[str, tuple[str, int]] = {}
    for one in inputs:
        for axis, (size, length) in enumerate(zip(one.shape, one.nominal, strict=True)):
            where, first = known.setdefault(str(size), (f"axis {axis} of {one.name}", length))
            if isinstance(size, Dim) and first != length:
                raise InputError(
                    f"{size} is {first} at {where} and {length} at axis {axis} of {one.name}",
                    hint=f'give one of them another name or a number, as in input_shapes={{"{one.name}": ...}}',
                )
    return inputs


def _names(module: Any, example_inputs: Sequence[Any]) -> list[str]:
    """Names of the arguments of `forward`; those behind a star are numbered."""
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*example_inputs)
    except TypeError as error:
        raise InputError(
            f"{len(example_inputs)} example_inputs do not fit {label(module)}.forward{signature}: {error}",
            hint="give a tensor for each argument",
        ) from error
    names: list[str] = []
    for name, value in bound.arguments.items():
        starred = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        names += [f"{name}_{i}" for i in range(len(value))] if starred else [name]
    return names


def _input(name: str, tensor: Any, wishes: Sequence[int | str | None] | None) -> Input:
    """Sizes that become symbols are 2 or more in the trace, since tracing takes sizes of 0 and 1 to be fixed."""
    import torch

    if wishes is None:
        wishes = [BATCH, *[None] * (tensor.dim() - 1)] if tensor.dim() else []
    if isinstance(wishes, str) or len(wishes) != tensor.dim():
        raise InputError(
            f"input_shapes gives {name} the shape {wishes!r}, expected {tensor.dim()} sizes as in "
            f"{list(tensor.shape)}", hint="one number, name or None for each axis",
        )  # fmt: skip
    shape: list[Size] = []
    nominal: list[int] = []
    for axis, (wish, size) in enumerate(zip(wishes, tensor.shape, strict=True)):
        fits = wish is None or isinstance(wish, str) or (isinstance(wish, int) and wish >= 1)
        if not fits or isinstance(wish, bool):
            raise InputError(
                f"input_shapes gives axis {axis} of {name} as {wish!r}", hint="use a positive number, a name, or None"
            )
        wished = int(size) if wish is None else wish
        shape.append(Dim.symbol(wished) if isinstance(wished, str) else wished)
        nominal.append(int(size) if isinstance(wished, str) else wished)
    traced = [max(2, n) if isinstance(s, Dim) else n for s, n in zip(shape, nominal, strict=True)]
    if traced != list(tensor.shape) or not tensor.is_contiguous() or tensor.requires_grad:
        tensor = torch.zeros(traced, dtype=tensor.dtype, device=tensor.device)
    return Input(name, tensor, tuple(shape), tuple(nominal))
