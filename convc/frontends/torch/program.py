"""What a torch.export.ExportedProgram says of itself: its name, its inputs, and the sizes that it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convc.dims import Dim, Size
from convc.errors import InputError, ModelError
from convc.frontends.torch.inputs import BATCH, Input, InputShapes, check_dtype
from convc.frontends.torch.trace import LEAST, bounds_of

EXPORT_AGAIN = "export it again, with torch.export.Dim for what varies"


def name_of(program: Any) -> str:
    """The class of the module that was exported, as far as the program knows, else the program's own."""
    for node in program.graph.nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            if not path:
                return str(kind if isinstance(kind, str) else kind.__qualname__).rpartition(".")[2]
    return type(program).__name__


def check_tensors(program: Any, tensors: Mapping[str, Any]) -> None:
    """Raise ModelError for parameters and buffers that are not float32."""
    for name, tensor in tensors.items():
        if hasattr(tensor, "is_floating_point"):
            check_dtype(tensor, f"{name_of(program)}: {name}")


def program_inputs(program: Any, input_shapes: InputShapes) -> list[Input]:
    """Inputs with the sizes that were exported. What is symbolic may be fixed, or named: axis 0 is N, else an axis is
    called after its input. Raises InputError for shapes that the program was not exported for.
    """
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    found: dict[str, Any] = {}
    for node, spec in zip(nodes, program.graph_signature.input_specs, strict=True):
        if spec.kind.name == "USER_INPUT" and not hasattr(spec.arg, "value"):
            value = node.meta.get("val")
            if not hasattr(value, "shape"):
                raise ModelError(f"input {node.name} is a {type(value).__name__}, expected a tensor", hint=EXPORT_AGAIN)
            check_dtype(value, f"input {node.name}")
            found[node.name] = value
    for name in input_shapes:
        if name not in found:
            raise InputError(f"input_shapes names {name}, which is no input", hint=f"inputs are {', '.join(found)}")
    sizes = _Sizes(bounds_of(program))
    for name, value in found.items():
        wishes = input_shapes.get(name)
        if wishes is not None and (isinstance(wishes, str) or len(wishes) != len(value.shape)):
            raise InputError(
                f"input_shapes gives {name} the shape {wishes!r}, expected {len(value.shape)} sizes",
                hint="one number, name or None for each axis",
            )
        for axis, size in enumerate(value.shape):
            sizes.wish(name, axis, size, wishes[axis] if wishes is not None else None)
    inputs = [
        Input(name, value, tuple(map(sizes.of, value.shape)), tuple(map(sizes.nominal, value.shape)))
        for name, value in found.items()
    ]
    sizes.check()
    return inputs


class _Sizes:
    """What becomes of each symbol of a program."""

    def __init__(self, bounds: Mapping[str, tuple[int, int | None]]) -> None:
        self._bounds = bounds
        self._names: dict[str, str] = {}
        self._wished: dict[str, int | str] = {}

    def wish(self, name: str, axis: int, size: Any, wish: int | str | None) -> None:
        """A size of an input, and what it should be; None keeps it."""
        if isinstance(size, int):
            if wish not in {None, size}:
                raise InputError(
                    f"input_shapes gives axis {axis} of {name} as {wish!r}, and it was exported as {size}",
                    hint=EXPORT_AGAIN,
                )
            return
        symbol = str(size)
        if not symbol.isidentifier():
            raise ModelError(f"axis {axis} of {name} is {symbol}, expected a size of its own", hint=EXPORT_AGAIN)
        usual = BATCH if axis == 0 and BATCH not in self._names.values() else f"{name}_{axis}"
        self._names.setdefault(symbol, usual)
        if wish is None:
            return
        if isinstance(wish, bool) or not isinstance(wish, (int, str)) or (isinstance(wish, int) and wish < 1):
            raise InputError(
                f"input_shapes gives axis {axis} of {name} as {wish!r}", hint="use a positive number, a name, or None"
            )
        if self._wished.setdefault(symbol, wish) != wish:
            raise InputError(
                f"axis {axis} of {name} is {wish!r}, and {self._wished[symbol]!r} elsewhere", hint="make them agree"
            )

    def of(self, size: Any) -> Size:
        """As convc knows it."""
        if isinstance(size, int):
            return size
        wished = self._wished.get(str(size), self._names[str(size)])
        return Dim.symbol(wished) if isinstance(wished, str) else wished

    def nominal(self, size: Any) -> int:
        """As in the example that the program was exported with; the least that it is for, where it forgot that."""
        known = self.of(size)
        if isinstance(known, int):
            return known
        example = getattr(size.node, "hint", None)
        return int(example) if example is not None else max(self._bounds.get(str(size), (1, None))[0], 1)

    def check(self) -> None:
        """Raise InputError where a size is outside of what the program was exported for. That there is a least size
        comes of operators, as of windows that must lie inside, and these say so where sizes are known.
        """
        for symbol, name in self._names.items():
            low, high = self._bounds.get(symbol, (0, None))
            size = self._wished.get(symbol, name)
            span = f"{low} to {high or 'any'}"
            if isinstance(size, int) and not (low <= max(size, LEAST) and size <= (high or size)):
                raise InputError(f"{name} is {size}, and the program was exported for {span}", hint=EXPORT_AGAIN)
            if isinstance(size, str) and high is not None:
                raise InputError(
                    f"the program was exported for sizes {name} of {span} only, and convc compiles for any",
                    hint='fix the size, as in input_shapes={"x": (1, 3, 224, 224)}, or export it without a largest one',
                )
