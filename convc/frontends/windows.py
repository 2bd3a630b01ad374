"""Short forms of the attributes that describe sliding windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convc.errors import ModelError
from convc.ir.graph import Node
from convc.ops import OPS

PAIRS = frozenset({"kernel", "stride", "dilation", "output_padding"})


def pair(value: int | Sequence[int]) -> tuple[int, ...]:
    """One number for both directions, or a number each."""
    return (value, value) if isinstance(value, int) else tuple(value)


def windows(full: str, op: str, nodes: Sequence[Node | None], attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes with the short forms of `kernel`, `stride`, `padding` and the like spelled out."""
    known = OPS[op].by_name if op in OPS else {}
    result = {
        key: pair(value) if key in PAIRS and key in known and isinstance(value, (int, list, tuple)) else value
        for key, value in attrs.items()
    }
    if "padding" not in known or "padding" not in attrs:
        return result
    padding = attrs["padding"]
    if padding == "same" and op != "conv_transpose2d":
        weight = nodes[1] if len(nodes) > 1 else None
        kernel = result.get("kernel") or (weight.type.shape[2:] if weight is not None else ())
        extra = [d * (k - 1) for k, d in zip(kernel, result.get("dilation", (1, 1)), strict=False)]
        result["padding"] = (*(e // 2 for e in extra), *(e - e // 2 for e in extra))
    elif isinstance(padding, int):
        result["padding"] = (padding,) * 4
    elif isinstance(padding, (list, tuple)) and len(padding) in {2, 4}:
        result["padding"] = (*padding, *padding) if len(padding) == 2 else tuple(padding)
    else:
        raise ModelError(
            f"{op} %{full}: padding={padding!r}",
            hint="use a number, (rows, columns), (top, left, bottom, right)"
            + (', or "same"' if op != "conv_transpose2d" else ""),
        )
    return result
