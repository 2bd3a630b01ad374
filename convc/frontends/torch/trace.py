"""torch.export: from a module to a flat graph of ATen operators without side effects."""

from __future__ import annotations

import ast
import inspect
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from convc.dims import Dim, Size
from convc.errors import ModelError
from convc.frontends.scales import FIX_SIZES
from convc.frontends.torch.inputs import BATCH, Input, label

ROUNDS = 4
"""Unknown operators are taken apart this many times before they are given up."""


LEAST = 2
"""Tracing takes every size to be other than 0 and 1; an operator's own rules serve those, too."""
LARGEST = 1 << 31
"""Of symbolic sizes: without a bound, older versions of torch reckon with the end of the integers."""


def trace(module: Any, inputs: Sequence[Input], unknown: Callable[[Any], Iterable[Any]]) -> Any:
    """The torch.export.ExportedProgram of a module, functional; operators that `unknown` lists are decomposed.

    Raises ModelError where torch.export fails, or where the trace holds for some sizes only.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = _export(module, inputs).run_decompositions({})
        except Exception as error:  # torch.export documents none of what it raises
            message = f"torch.export cannot trace {label(module)}: {_reason(error)}"
            raise ModelError(message, hint=_hint(error)) from error
        program = _decomposed(program, unknown)
    _check_guards(program, module, inputs)
    for symbol, (low, high) in bounds_of(program).items():
        if low > LEAST or high is not None:
            span = f"{low} to {high or 'any'}"
            raise ModelError(f"{label(module)} works as traced only where {symbol}, a size, is {span}", hint=FIX_SIZES)
    return program


def functional(program: Any, unknown: Callable[[Any], Iterable[Any]]) -> Any:
    """A torch.export.ExportedProgram as `trace` makes them."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return _decomposed(program.run_decompositions({}), unknown)


def _decomposed(program: Any, unknown: Callable[[Any], Iterable[Any]]) -> Any:
    for _ in range(ROUNDS):
        table = _decompositions(unknown(program))
        if not table:
            break
        program = program.run_decompositions(table)
    return program


def bounds_of(program: Any) -> dict[str, tuple[int, int | None]]:
    """Of each symbol, the least size that the trace is for, and the largest, None where there is none."""
    found: dict[str, tuple[int, int | None]] = {}
    for symbol, bounds in program.range_constraints.items():
        low, high = (int(b) if str(b).lstrip("-").isdigit() else None for b in (bounds.lower, bounds.upper))
        found[str(symbol)] = low or 0, high if high is not None and high < LARGEST else None
    return found


def _export(module: Any, inputs: Sequence[Input]) -> Any:
    options = {"strict": False} if "strict" in inspect.signature(torch.export.export).parameters else {}
    known: dict[str, Any] = {}
    wanted: list[Any] = []
    for one in inputs:
        axes = {axis: _symbol(str(size), known) for axis, size in enumerate(one.shape) if isinstance(size, Dim)}
        wanted.append(axes or None)
    arguments = inspect.signature(module.forward).bind(*wanted).arguments
    shapes = tuple(arguments.values()) if any(wanted) else None  # arguments behind a star are one tuple
    return torch.export.export(module, tuple(i.tensor for i in inputs), dynamic_shapes=shapes, **options)


def _symbol(name: str, known: dict[str, Any]) -> Any:
    """N must serve every size. Others may leave torch with conditions, such as that no axis shrinks to 1."""
    if name not in known:
        derived = getattr(torch.export.Dim, "DYNAMIC", None) if name != BATCH else None
        known[name] = torch.export.Dim(name, max=LARGEST) if derived is None else derived
    return known[name]


def _decompositions(unknown: Iterable[Any]) -> dict[Any, Any]:
    """Those of the unknown operators that torch can take apart; before torch 2.6, tracing itself does so."""
    if not hasattr(torch.export, "default_decompositions"):
        return {}
    table = torch.export.default_decompositions()
    return {op: table[op] for op in unknown if op in table}


def _reason(error: Exception) -> str:
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("Suggested", "The error above", "For more info"))]
    text = " ".join(kept[:2]).replace('For more information, run with TORCH_LOGS="+dynamic".', "").strip(" .")
    return f"{type(error).__name__}: {text[:400]}" if text else type(error).__name__


def _hint(error: Exception) -> str:
    text = str(error)
    if not hasattr(torch.export, "default_decompositions"):
        return f"torch {torch.__version__} traces less than torch 2.6 does; install that or a newer one, or {FIX_SIZES}"
    if "data-dependent" in text or "data dependent" in text:
        return "compute both branches, and choose by torch.where"
    if "Constraints violated" in text or "shape" in text or "size" in text:
        return "the module may take this size only: " + FIX_SIZES
    return "a module must be traceable by torch.export: no control flow on values, no side effects"


# Conditions under which the trace holds, as in "2*(L['x'].size()[2] // 2) == L['x'].size()[2]".

_NOT_ONE = re.compile(r"(!= 1|> 1|>= 2)$|^(1 <|2 <=) ")
"""See LEAST."""


def _check_guards(program: Any, module: Any, inputs: Sequence[Input]) -> None:
    """Raise ModelError where another size would take another path through the module."""
    shapes = {i.name: i.shape for i in inputs}
    for guard in getattr(program, "_guards_code", None) or ():
        if not _NOT_ONE.search(guard) and not _always(guard, shapes):
            text = re.sub(r"L\['(\w+)'\]\.size\(\)\[(\d+)\]", r"\1.shape[\2]", guard)
            raise ModelError(f"{label(module)} works as traced only where {text}", hint=FIX_SIZES)


_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}  # fmt: skip


def _always(guard: str, shapes: dict[str, tuple[Size, ...]]) -> bool:
    """Whether a condition holds for every value of the symbols, as far as canonical forms tell."""

    def size(node: ast.expr) -> Size:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -size(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                found: Size = _ARITHMETIC[type(op)](size(left), size(right))
                return found
            case ast.Subscript(value=ast.Call(func=ast.Attribute(value=tensor)), slice=ast.Constant(value=int(axis))):
                return shapes["_".join(re.findall(r"\w+", ast.unparse(tensor)[1:]))][axis]  # L['x'], or L['xs'][0]
        raise ValueError(ast.dump(node))

    try:
        match ast.parse(guard, mode="eval").body:
            case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
                return size(left) == size(right)
    except (ValueError, KeyError, IndexError, SyntaxError):
        return False
    return False
