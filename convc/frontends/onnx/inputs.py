"""Graph inputs: symbols for open sizes, and the caller's overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping, Sequence

import onnx

from convc.dims import Dim, Size
from convc.errors import InputError, ModelError
from convc.frontends.onnx.context import Builder, Value, listed
from convc.frontends.onnx.tensors import dtype_of
from convc.ir.graph import graph_input

BATCH, PLANE = 1, 224
"""Nominal values: of symbols at axis 0, and elsewhere."""
NOMINAL_KEY = "convc.nominal"
"""Metadata of models that convc wrote: nominal values by size name, as in `H=299 W=299`."""


class Symbols:
    """Identifiers for sizes: ONNX's names made into identifiers, each its own, and fresh ones for nameless sizes."""

    def __init__(self, reserved: Sequence[str]) -> None:
        self.by_name: dict[str, str] = {}
        self.taken: set[str] = set(reserved)

    def named(self, name: str) -> str:
        """The symbol of an ONNX size name."""
        if name not in self.by_name:
            self.by_name[name] = self.fresh(_identifier(name))
        return self.by_name[name]

    def fresh(self, base: str) -> str:
        """A symbol that nothing has."""
        name, count = base, 1
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name


def nominal_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Nominal values from the metadata of a model that convc wrote."""
    text = next((p.value for p in model.metadata_props if p.key == NOMINAL_KEY), "")
    return {name: int(value) for name, value in re.findall(r"(\w+)=([1-9]\d{0,5})\b", text, re.ASCII)}


def _identifier(name: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return cleaned if re.match(r"[A-Za-z_]", cleaned) else f"_{cleaned}"


def declare_inputs(
    builder: Builder,
    graph: onnx.GraphProto,
    scope: MutableMapping[str, Value],
    overrides: Mapping[str, Sequence[int | str | None]],
    nominal: Mapping[str, int],
) -> None:
    """Add an input node for each graph input that is no weight. Raises InputError for overrides that do not fit."""
    weights = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in weights]
    for name in overrides:
        if all(i.name != name for i in inputs):
            raise InputError(
                f"input_shapes names {name}, which is no input",
                hint=f"inputs are {', '.join(i.name for i in inputs) or 'none'}",
            )
    fixed = _fixed(inputs, overrides)
    asked = [s for shape in overrides.values() for s in shape if isinstance(s, str)]
    symbols = Symbols([])
    for name in asked:
        symbols.named(name)
    builder.reshaped = bool(overrides)
    for info in inputs:
        dtype = dtype_of(_tensor_type(info).elem_type, f"input {info.name}")
        shape = _shape(info, overrides.get(info.name), fixed, symbols)
        for axis, size in enumerate(shape):
            if isinstance(size, Dim):
                builder.nominal.setdefault(str(size), nominal.get(str(size), PLANE if axis else BATCH))
        scope[info.name] = Value(info.name, builder.add(graph_input(info.name, dtype, shape)))


def _tensor_type(info: onnx.ValueInfoProto) -> onnx.TypeProto.Tensor:
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelError(
            f"input {info.name} is a {(kind or 'value without type').replace('_type', '')}, expected a tensor",
            hint="sequences, maps, optional and sparse values are not supported",
        )
    return info.type.tensor_type


def _fixed(
    inputs: Sequence[onnx.ValueInfoProto], overrides: Mapping[str, Sequence[int | str | None]]
) -> dict[str, int | str]:
    """Named sizes that overrides fix; the name stands for the same size in every input."""
    found: dict[str, int | str] = {}
    for info in inputs:
        given = overrides.get(info.name, ())
        dims = _tensor_type(info).shape.dim
        for dim, size in zip(dims, given, strict=False):
            if size is None or not dim.dim_param:
                continue
            if found.setdefault(dim.dim_param, size) != size:
                raise InputError(
                    f"input_shapes gives {dim.dim_param} as both {found[dim.dim_param]} and {size}",
                    hint="sizes of the same name must agree",
                )
    return found


def _shape(
    info: onnx.ValueInfoProto,
    override: Sequence[int | str | None] | None,
    fixed: Mapping[str, int | str],
    symbols: Symbols,
) -> tuple[Size, ...]:
    tensor = _tensor_type(info)
    declared = list(tensor.shape.dim)
    if not tensor.HasField("shape"):
        if override is None:
            raise ModelError(
                f"input {info.name} has no shape", hint=f'give it: input_shapes={{"{info.name}": (1, 3, 224, 224)}}'
            )
        declared = [onnx.TensorShapeProto.Dimension() for _ in override]
    given: Sequence[int | str | None] = override if override is not None else [None] * len(declared)
    if isinstance(given, (str, bytes)) or len(given) != len(declared):
        raise InputError(
            f"input_shapes gives {info.name} the shape {given!r}, expected {len(declared)} sizes",
            hint="one number, name or None for each axis",
        )
    shape: list[Size] = []
    for axis, (dim, wish) in enumerate(zip(declared, given, strict=True)):
        if wish is None and dim.dim_param:
            wish = fixed.get(dim.dim_param)
        if (
            isinstance(wish, bool)
            or (isinstance(wish, int) and wish < 1)
            or not isinstance(wish, (int, str, type(None)))
        ):
            raise InputError(
                f"input_shapes gives axis {axis} of {info.name} as {wish!r}",
                hint="use a positive number, a name, or None",
            )
        if isinstance(wish, int):
            shape.append(wish)
        elif isinstance(wish, str):
            shape.append(Dim.symbol(symbols.named(wish)))
        elif dim.dim_param:
            shape.append(Dim.symbol(symbols.named(dim.dim_param)))
        elif dim.HasField("dim_value"):
            shape.append(_static(info.name, axis, dim.dim_value, declared))
        else:
            shape.append(Dim.symbol(symbols.fresh(f"{_identifier(info.name)}_{axis}")))
    return tuple(shape)


def _static(name: str, axis: int, size: int, declared: Sequence[onnx.TensorShapeProto.Dimension]) -> int:
    if size < 1:
        shape = listed([d.dim_param or d.dim_value for d in declared])
        wish = ", ".join('"N"' if i == axis else "None" for i in range(len(declared)))
        raise ModelError(
            f"axis {axis} of input {name} has size {size} (shape {shape})",
            hint=f'sizes must be 1 or more; override it: input_shapes={{"{name}": ({wish},)}}',
        )
    return size
