"""The prologue of a conv2d, activation(x scale + shift) with a scale and a shift a channel, into planes of its own:
for those whose kernel does not apply it (`conv_ahead.py`).

One pass over x, whose planes may be those of several values. Zeros around the result are the convolution's padding.
"""

from __future__ import annotations

import numpy as np

from convc.backends.assemble import Assembler, operand
from convc.backends.calls import Operand
from convc.backends.cpu.activations import float32, function_of, write_parameters
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.writer import Writer
from convc.backends.program import Planes
from convc.ir.graph import Node
from convc.ops.conv import has_prologue
from convc.types import Activation, Array

ARGUMENTS = [
    "y", "y_planes", "count", "images", "rows", "width", "y_image", "y_row",
    "x", "x_planes", "x_image", "x_row", "x_pixel",
    *(f"{which}{part}" for which in ("scale", "shift") for part in ("", "_planes", "_image", "_row", "_pixel")),
]  # fmt: skip
"""As `convc.backends.cpu.maps.planes_arguments` gives them for three operands."""


def emit(isa: Isa, activation: str, params: int) -> tuple[str, str]:
    """Name and source of the kernel: scale and shift stay in registers along a row."""
    name = "_".join(["f32_scale_shift", *filter(None, [activation])])
    out = Writer(f"{name}__{isa.name}", ARGUMENTS, "*_planes: tables; the rest: addresses, sizes, byte strides")
    parameters = write_parameters(out, params, len(ARGUMENTS), isa.lanes)
    with out.share_lines("rows", "n", "h"):
        out("to = y + load_i64(y_planes, plane) + n * y_image + h * y_row")
        out("at = x + load_i64(x_planes, plane) + n * x_image + h * x_row")
        for which in ("scale", "shift"):
            out(f"{which}_v = vec_load({which} + load_i64({which}_planes, plane), {isa.lanes})")
        with out.block("for w in range(width)"):
            out(f"v = v_scale_shift(vec_load(at + w * x_pixel, {isa.lanes}), scale_v, shift_v)")
            value = f"v_{activation}(v{parameters})" if activation else "v"
            out(f"vec_store(to + w * {isa.lanes * 4}, {value})")
    return out.finish()


def lower_prologue(asm: Assembler, node: Node, isa: Isa) -> Planes | None:
    """Append the step that applies a conv2d's prologue and give its planes; None where the conv2d has none."""
    if not has_prologue(node.inputs, node.attrs):
        return None
    x_name = str(node.inputs[0])
    x = asm.planes(x_name)
    y = asm.new_planes(f"{node.name}.prologue", asm.graph[x_name].type, places=x.places)
    packed = [channel_constant(asm, node, slot, otherwise, x) for slot, otherwise in (("scale", 1.0), ("shift", 0.0))]
    prologue: Activation | None = node.attrs["prologue"]
    function, params = function_of(prologue) if prologue is not None else ("", ())
    facts = {"operands": [0, *packed], "ways": "vvv", "floats": params}
    asm.step(emit(isa, function, len(params)), "map_planes", node.name, (x,), (y,), facts)
    return y


def channel_constant(asm: Assembler, node: Node, slot: str, otherwise: float, x: Planes) -> Operand:
    """A vector of one value a channel as [planes, 1, 1, lanes], zero where a lane holds no channel."""
    source = operand(asm.graph, node, slot)
    vector: Array = np.full(x.channels, otherwise, np.float32)
    if source is not None:
        vector = float32(source.array)
    slots = x.slots()
    packed = np.where(slots >= 0, vector[np.maximum(slots, 0)], np.float32(0))[:, None, None, :]
    return Operand(asm.pack(f"{node.name}.{slot}", np.ascontiguousarray(packed)), packed.shape)
