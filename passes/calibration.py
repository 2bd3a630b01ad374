"""Inputs on which the error of approximate rewrites is measured: those given, or seeded ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convc.dims import concrete, symbols
from convc.errors import InputError
from convc.interp import bind_sizes
from convc.ir.graph import Graph, Node
from convc.types import Array

EXAMPLES = 512
"""Examples that are measured at most, evenly spaced over those given."""
SEEDED = 32
"""Examples that are made up, at most."""
MACS = 2 * 10**10
"""Multiply-adds of one evaluation at most, where fewer examples bring it down: a second or two in the interpreter."""
BYTES = 1 << 29
"""Of the values of one evaluation at most, likewise. The trials keep those of a few."""


@dataclass(frozen=True)
class Calibration:
    """Inputs by name, the sizes they fix, and the words for them."""

    inputs: Mapping[str, Array]
    sizes: Mapping[str, int]
    note: str


def calibrate(graph: Graph, given: Any) -> Calibration:
    """The inputs to measure on: an array, a sequence of arrays in order, or arrays by input name; None: seeded ones.

    Where all inputs share a symbolic batch, as many examples are kept as the limits allow. Raises InputError.
    """
    batch = _batch(graph)
    named = _seeded(graph, batch) if given is None else _named(graph, given)
    count = next(iter(named.values())).shape[0] if batch else 1
    kept = min(count, _affordable(graph, batch)) if batch else 1
    if kept < count:
        at = np.linspace(0, count - 1, kept).round().astype(int)
        named = {name: array[at] for name, array in named.items()}
    sizes = {**graph.nominal, **bind_sizes(graph.inputs, {name: a.shape for name, a in named.items()})}
    source = "seeded normal inputs, as no calibration data was given" if given is None else "calibration data"
    examples = f"{kept} of {count} examples" if kept < count else f"{count} example{'s' * (count != 1)}"
    return Calibration(named, sizes, f"{examples} of {source}")


def _batch(graph: Graph) -> str:
    """The symbol that is axis 0 of every input; '' where there is none."""
    found = {str(node.type.shape[0]) if node.type.rank and symbols(node.type.shape[0]) else "" for node in graph.inputs}
    return found.pop() if len(found) == 1 else ""


def _affordable(graph: Graph, batch: str, most: int = EXAMPLES) -> int:
    sizes = {**graph.nominal, batch: 1}
    held = sum(concrete(node.type.elements, sizes) * node.type.dtype.bytes for node in graph.operators)
    return int(max(1, min(most, MACS // max(1, graph.macs(**{batch: 1})), BYTES // max(1, held))))


def _seeded(graph: Graph, batch: str) -> dict[str, Array]:
    random = np.random.default_rng(0)
    sizes = {**graph.nominal, **({batch: _affordable(graph, batch, SEEDED)} if batch else {})}
    found: dict[str, Array] = {}
    for node in graph.inputs:
        shape = node.type.concrete(sizes)
        values = random.normal(size=shape) if node.type.dtype.is_float else random.integers(0, 2, shape)
        found[node.name] = values.astype(node.type.dtype.numpy)
    return found


def _named(graph: Graph, given: Any) -> dict[str, Array]:
    expected = ", ".join(f"{node.name}: {node.type}" for node in graph.inputs)
    hint = f"give an array for each input: {expected}"
    if isinstance(given, Mapping):
        values = dict(given)
    else:
        arrays = list(given) if isinstance(given, Sequence) and not isinstance(given, (str, bytes)) else [given]
        if len(arrays) != len(graph.inputs):
            raise InputError(f"calibration has {len(arrays)} arrays for {len(graph.inputs)} inputs", hint=hint)
        values = {node.name: array for node, array in zip(graph.inputs, arrays, strict=True)}
    if set(values) != {node.name for node in graph.inputs}:
        raise InputError(f"calibration names {', '.join(map(str, values)) or 'no input'}", hint=hint)
    found = {node.name: _checked(node, values[node.name]) for node in graph.inputs}
    try:
        bind_sizes(graph.inputs, {name: array.shape for name, array in found.items()})
    except InputError as error:
        raise InputError(f"calibration: {error.message}", hint="give arrays of the shapes the model takes") from error
    return found


def _checked(node: Node, value: Any) -> Array:
    array = np.asarray(value)
    expected = node.type.dtype
    fits = array.dtype.kind == "f" if expected.is_float else array.dtype == expected.numpy
    if not fits:
        hint = f"convert with .astype({expected.numpy.name!r})"
        raise InputError(f"calibration of {node.name} is {array.dtype}, expected {expected}", hint=hint)
    if array.size == 0 or not np.isfinite(array).all():
        what = "is empty" if array.size == 0 else "holds NaN or infinity"
        raise InputError(f"calibration of {node.name} {what}", hint="give examples of what the model will see")
    return array.astype(expected.numpy)
