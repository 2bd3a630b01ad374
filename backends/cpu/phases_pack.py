"""Phases of a network's first convolution, made where the caller's layout is turned into planes in any case.

Where channels are few, the phases of a channel share a plane: 12 of them for 3 channels of stride 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Word
from convc.backends.cpu.choice import Choice, Facts, candidates
from convc.backends.cpu.isa import TYPICAL, Isa, Speed
from convc.backends.cpu.phases import Phases, phases_of
from convc.backends.cpu.writer import Writer
from convc.backends.program import Plain, Planes, Step
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.types import DType, TensorType

ARGUMENTS = [
    "x", "y", "planes", "lanes", "count", "images", "rows", "width", "x_image", "x_height", "x_width", "apart",
    "early", "y_image", "y_row",
]  # fmt: skip
LEAST_GAIN = 1.05
"""Times faster than the direct sum from which phases are used."""
BYTES_A_CYCLE = 8.0
"""At which they are made. A 7x7 kernel of stride 2 over an image takes 2.09 ms as it is, 1.33 and 0.06 on phases."""


def fitting_phases(node: Node, isa: Isa, channels: int, kernel: tuple[int, int]) -> Phases | None:
    """The phases of a conv2d, where those of a row of inputs lie side by side in a vector."""
    return phases_of(node, channels, kernel) if isa.lanes % node.attrs["stride"][1] == 0 else None


def ranked(
    isa: Isa, phases: Phases | None, shape: Sequence[int], channels: int, kernel: tuple[int, int],
    speed: Speed = TYPICAL,
) -> Sequence[tuple[Choice, float]]:
    """What could run a convolution with an output of `shape`, on channels as the caller has them or on phases, by
    predicted cycles.
    """
    blocks = -(-shape[1] // isa.lanes)
    if phases is None:
        return candidates(isa, Facts.of(shape, channels, channels, kernel, blocks, False, 0), speed)
    planes = -(-phases.all_channels // isa.lanes)
    facts = Facts.of(shape, planes, channels, kernel, blocks, False, 1, phases)
    pixels = facts.images * (facts.height + phases.taps[0]) * (facts.width + phases.taps[1])
    made = pixels * planes * isa.lanes * 4 / BYTES_A_CYCLE
    found = candidates(isa, facts, speed)
    found = [(one, (cycles + made) * LEAST_GAIN if one.form is not None else cycles) for one, cycles in found]
    return sorted(found, key=lambda one: one[1])


def append(asm: Assembler, node: Node, isa: Isa, phases: Phases) -> Planes:
    """Append the step that makes phases of a conv2d's input, and give them."""
    x = asm.plain(str(node.inputs[0]))
    if x.type.dtype is not DType.F32:
        raise TargetError(f"%{x.name} is {x.type}, expected float32", hint="cast it to float32 in the model")
    batch, _, height, width = x.type.shape
    shape = (batch, phases.all_channels, phases.down.pixels(height), phases.along.pixels(width))
    y = asm.new_planes(f"{node.name}.phases", TensorType(DType.F32, shape))
    asm.step(emit(isa, phases.along.stride), "phases", node.name, (x,), (y,), {"phases": phases})
    return y


def emit(isa: Isa, stride: int) -> tuple[str, str]:
    """`lanes`: as `square_phases` takes them, plane by plane; `apart`: rows of x from one row of a phase to the next;
    `early`: columns ahead of x at which phases begin.
    """
    out = Writer(f"f32_phases_{stride}apart__{isa.name}", ARGUMENTS, "x: plain; y: base of planes")
    with out.share_lines():
        out("to = image * y_image + row * y_row", "source = x + image * x_image")
        with out.block(f"for i in range(0, width, {isa.lanes})"):
            where = f"row * apart, i * {stride} - early, x_height, x_width, x_width * 4"
            table = f"lanes + plane * {isa.lanes // stride * 16}"
            out(f"square = square_phases(source, {table}, {where}, {stride}, {isa.lanes})")
            at = f"to + i * {isa.lanes * 4}, {isa.lanes * 4}"
            out(f"tile_store(square, y, planes + plane * 8, {at}, None, None, None, width - i)")
    return out.finish()


def arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit`."""
    phases: Phases = step.params["phases"]
    x, y = step.reads[0], step.writes[0]
    assert isinstance(x, Plain) and isinstance(y, Planes)
    images, channels, height, width = bound.shape(x)
    g, slots = bound.geometry(y), y.slots()[:, :: phases.along.stride]  # the first of those that share a row
    channel, phase = np.divmod(np.maximum(slots, 0), phases.down.stride * phases.along.stride)
    offset = np.where(slots >= 0, channel * height * width * 4, -1)
    lanes = np.stack([offset, phase // phases.along.stride - phases.down.early], axis=-1)
    return [
        bound.address(x), bound.arena, bound.table(g.planes), bound.table(lanes), len(g.planes), images, g.height,
        g.width, channels * height * width * 4, height, width, phases.down.stride, phases.along.early, g.image, g.row,
    ]  # fmt: skip
