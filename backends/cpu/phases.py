"""Convolutions of few channels and any stride as Winograd's of stride 1, on the phases of their input.

y[i] = sum over t of x[s i + t - p] w[t]. With t - p + e = s v + a, 0 <= a < s: phase a of x holds x[s j + a - e] at its
pixel j, and y[i] = sum over a and v of phase_a[i + v] w[s v + a + p - e]. So C channels become C s s, of ceil(k / s)
taps along an axis or one more: a 7x7 kernel of stride 2 over 3 channels is 4x4 over 12, for which F(3 x 3, 4 x 4) takes
a third of the multiplications. Phases are made where the caller's layout is turned into planes in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Word
from convc.backends.cpu.choice import Choice, Facts, candidates
from convc.backends.cpu.isa import TYPICAL, Isa, Speed
from convc.backends.cpu.winograd_points import forms_of
from convc.backends.cpu.writer import Writer
from convc.backends.program import Plain, Planes, Step
from convc.dims import Size
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.types import Array, DType, TensorType

ARGUMENTS = [
    "x", "y", "planes", "lanes", "count", "images", "rows", "width", "x_image", "x_height", "x_width", "apart",
    "early", "y_image", "y_row",
]  # fmt: skip
LEAST_GAIN = 1.05
"""Times faster than the direct sum from which phases are used."""
BYTES_A_CYCLE = 8.0
"""At which they are made. A 7x7 kernel of stride 2 over an image takes 2.09 ms as it is, 1.33 and 0.06 on phases."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Along one axis: stride, pixels `early` that phases begin ahead of x, the first v, and how many there are."""

    stride: int
    early: int
    first: int
    taps: int

    @staticmethod
    def of(kernel: int, stride: int, padding: int) -> Axis:
        """The one with the fewest taps."""

        def starting(early: int) -> Axis:
            first, last = (early - padding) // stride, (kernel - 1 - padding + early) // stride
            return Axis(stride, early, first, last - first + 1)

        return min((starting(early) for early in range(stride)), key=lambda axis: (axis.taps, axis.early))

    def pixels(self, size: Size) -> Size:
        """Pixels of a phase of `size` pixels."""
        return (size + (self.early + self.stride - 1)) // self.stride

    def of_tap(self, tap: int, padding: int) -> tuple[int, int]:
        """The phase in which a tap lies, and its place in the kernel of stride 1."""
        place, phase = divmod(tap - padding + self.early, self.stride)
        return phase, place - self.first


@dataclass(frozen=True, slots=True)
class Phases:
    """A convolution of `channels` channels cut into phases along both axes."""

    down: Axis
    along: Axis
    channels: int
    kernel: tuple[int, int]
    padding: tuple[int, int]

    @property
    def all_channels(self) -> int:
        return self.channels * self.down.stride * self.along.stride

    @property
    def ahead(self) -> tuple[int, int]:
        """Rows and columns of zeros that the convolution of stride 1 reads above and left of its first output."""
        return -self.down.first, -self.along.first

    def kernels(self, weights: Array) -> Array:
        """Weights [out, C, R, S] as [out, C * phases, taps, taps], 0 where a phase has no such tap."""
        phases = self.down.stride, self.along.stride
        out = len(weights)
        found = np.zeros((out, self.channels, *phases, self.down.taps, self.along.taps), np.float32)
        for r in range(self.kernel[0]):
            a, u = self.down.of_tap(r, self.padding[0])
            for s in range(self.kernel[1]):
                b, v = self.along.of_tap(s, self.padding[1])
                found[:, :, a, b, u, v] = weights[:, :, r, s]
        return found.reshape(out, self.all_channels, self.down.taps, self.along.taps)


def phases_of(node: Node, isa: Isa, channels: int, kernel: tuple[int, int]) -> Phases | None:
    """The phases of a conv2d, where Winograd's algorithm has a form for what they become, and those of a row of inputs
    lie side by side in a vector. Windows that lie apart leave pixels out: their phases would be made for nothing.
    """
    (top, left, _, _), stride = node.attrs["padding"], node.attrs["stride"]
    apart = any(step > taps for step, taps in zip(stride, kernel, strict=True))
    if apart or node.attrs["groups"] > 1 or node.attrs["dilation"] != (1, 1) or isa.lanes % stride[1]:
        return None
    down, along = (Axis.of(*facts) for facts in zip(kernel, stride, (top, left), strict=True))
    return Phases(down, along, channels, kernel, (top, left)) if forms_of((down.taps, along.taps)) else None


def ranked(
    isa: Isa, phases: Phases | None, shape: Sequence[int], channels: int, kernel: tuple[int, int],
    speed: Speed = TYPICAL,
) -> Sequence[tuple[Choice, float]]:
    """What could run a convolution with an output of `shape`, on channels as the caller has them or on phases, by
    predicted cycles.
    """
    blocks = -(-shape[1] // isa.lanes)
    found = list(candidates(isa, Facts.of(shape, channels, channels, kernel, blocks, False, 0), speed))
    if phases is not None:
        taps, count = (phases.down.taps, phases.along.taps), phases.all_channels
        facts = Facts.of(shape, -(-count // isa.lanes), count, taps, blocks, False, 1)
        pixels = facts.images * (facts.height + taps[0]) * (facts.width + taps[1])
        made = pixels * facts.planes * isa.lanes * 4 / BYTES_A_CYCLE
        forms = [(one, cycles) for one, cycles in candidates(isa, facts, speed) if one.form is not None]
        found += [(one, (cycles + made) * LEAST_GAIN) for one, cycles in forms]
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
