"""Importers of convolutions."""

from __future__ import annotations

from convc.errors import ModelError
from convc.frontends.torch.context import Call, Importer
from convc.frontends.torch.planes import both, lifted, lowered, or_alone
from convc.ir.graph import Node
from convc.ops.base import static_size


def _conv(call: Call) -> Node:
    """Padding is a number an axis, or `same`: an odd pixel goes after."""
    x, w = call.x, call.node("weight")
    count = w.type.rank - 2
    dilation = call.ints("dilation", count, (1,))
    padding = call.get("padding")
    if isinstance(padding, str):
        kernel = [static_size(s, "kernel") for s in w.type.shape[2:]]
        extra = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        before, after = [e // 2 for e in extra], [e - e // 2 for e in extra]
    else:
        before = after = list(call.ints("padding", count, (0,)))
    y = call.emit(
        "conv2d", _checked(call, x, count), lifted(call, w), call.optional("bias"),
        stride=both(call.ints("stride", count, (1,)), 1), padding=(*both(before, 0), *both(after, 0)),
        dilation=both(dilation, 1), groups=call.integer("groups"),
    )  # fmt: skip
    return lowered(call, y, count + 2)


def _conv_transpose(call: Call) -> Node:
    x, w = call.x, call.node("weight")
    count = w.type.rank - 2
    padding = both(call.ints("padding", count, (0,)), 0)
    y = call.emit(
        "conv_transpose2d", _checked(call, x, count), lifted(call, w), call.optional("bias"),
        stride=both(call.ints("stride", count, (1,)), 1), padding=(*padding, *padding),
        dilation=both(call.ints("dilation", count, (1,)), 1), groups=call.integer("groups"),
        output_padding=both(call.ints("output_padding", count, (0,)), 0),
    )  # fmt: skip
    return lowered(call, y, count + 2)


def _convolution(call: Call) -> Node:
    return _conv_transpose(call) if call.flag("transposed") else _conv(call)


def _checked(call: Call, x: Node, count: int) -> Node:
    if count not in {1, 2}:
        raise ModelError(f"a convolution over {count} axes is not supported", hint="use one or two")
    if x.type.rank != count + 2:
        raise ModelError(f"%{x.name} is {x.type}, expected rank {count + 2}", hint="give inputs a batch axis")
    return lifted(call, x)


CONVOLUTIONS: dict[str, Importer] = {
    name: or_alone(None, importer)
    for name, importer in (
        ("conv1d", _conv), ("conv2d", _conv), ("conv_transpose1d", _conv_transpose),
        ("conv_transpose2d", _conv_transpose), ("convolution", _convolution),
    )
}  # fmt: skip
"""By ATen operator."""
