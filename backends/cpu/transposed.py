"""conv_transpose2d of stride s: s * s convolutions of stride 1, one for each phase of the output's rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.cpu import winograd_call
from convc.backends.cpu.channels import Channels, make_taps
from convc.backends.cpu.choice import Choice, Facts
from convc.backends.cpu.conv_append import append_direct
from convc.backends.cpu.convolution import chosen, is_finite, match_channels, rank
from convc.backends.cpu.isa import Isa, speed_of
from convc.backends.cpu.winograd_points import forms_of
from convc.backends.halo import Halo
from convc.backends.operands import constant_of, transposed_taps
from convc.backends.program import Planes
from convc.dims import Size, concrete
from convc.ir.graph import Node
from convc.types import Array


@dataclass(frozen=True)
class Phase:
    """Outputs `size` of them from `start` on; rows and columns of the kernel that they read, and how far from them."""

    start: tuple[int, int]
    rows: Sequence[tuple[int, int]]
    cols: Sequence[tuple[int, int]]
    size: tuple[Size, ...]

    @property
    def pixels(self) -> list[tuple[int, int, int, int]]:
        """Row and column of the kernel, and how far the input lies, of each tap."""
        return [(r, s, dy, dx) for r, dy in self.rows for s, dx in self.cols]

    @property
    def kernel(self) -> tuple[int, int]:
        return len(self.rows), len(self.cols)

    @property
    def has_form(self) -> bool:
        """Whether Winograd's algorithm has a form for the taps, which must lie side by side."""
        near = all((np.diff([d for _, d in taps]) == -1).all() for taps in (self.rows, self.cols))
        return near and bool(self.rows and self.cols and forms_of(self.kernel))

    def taps_of(self, kernels: Array) -> Array:
        """The part of the kernels [out, in, R, S] that is read, in the order of the inputs."""
        rows, cols = ([tap for tap, _ in sorted(taps, key=lambda one: one[1])] for taps in (self.rows, self.cols))
        found: Array = kernels[:, :, rows][..., cols]
        return found


def lower_conv_transpose2d(asm: Assembler, node: Node, isa: Isa) -> None:
    """A transposed convolution of stride s is s * s convolutions, one for each phase of the output's rows and columns.

    out[q s + a] = sum of x[q + (a + padding - r dilation) / s] w[r] over the r for which s divides
    """
    weights = constant_of(asm, node, "w")
    channels_in, per_group, height, breadth = weights.shape
    groups = node.attrs["groups"]
    out = per_group * groups
    x = asm.planes(str(node.inputs[0]))
    channels, residual = match_channels(asm, node, x, out, channels_in, groups, isa)
    y = asm.new_planes(node.name, node.type, places=channels.places)
    kernels = weights.reshape(groups, channels_in // groups, per_group, height, breadth).transpose(0, 2, 1, 3, 4)
    kernels = kernels.reshape(out, channels_in // groups, height, breadth)
    flat = kernels.reshape(out, -1)
    stride = node.attrs["stride"]
    phases: list[Phase] = []
    for a in range(stride[0]):
        for b in range(stride[1]):
            rows = transposed_taps(a, height, stride[0], node.attrs["padding"][0], node.attrs["dilation"][0])
            cols = transposed_taps(b, breadth, stride[1], node.attrs["padding"][1], node.attrs["dilation"][1])
            size: tuple[Size, ...] = tuple(
                (length - start + (step - 1)) // step
                for length, start, step in zip(node.type.shape[2:], (a, b), stride, strict=True)
            )
            if 0 not in size:
                phases.append(Phase((a, b), rows, cols, size))
    for index, phase in enumerate(phases):
        _append(asm, node, isa, x, y, residual, channels, kernels, flat, phase, joins=index < len(phases) - 1)
    asm.define(y)


def _append(
    asm: Assembler, node: Node, isa: Isa, x: Planes, y: Planes, residual: Planes | None, channels: Channels,
    kernels: Array, flat: Array, phase: Phase, *, joins: bool,
) -> None:  # fmt: skip
    """Append the call for one phase. `kernels` [out, in, R, S], and `flat` the same as [out, in * R * S]."""
    pixels, (height, breadth), stride = phase.pixels, kernels.shape[2:], node.attrs["stride"]
    ranked: Sequence[tuple[Choice, float]] = ()
    if channels.mode == "dense" and node.attrs["groups"] == 1 and pixels:
        images, rows, columns = (concrete(size, asm.graph.nominal) for size in (y.batch, *phase.size))
        shape = images, y.channels, rows, columns
        apart = int(phase.has_form and is_finite(asm, node))
        facts = Facts.of(shape, len(x.planes), kernels.shape[1], phase.kernel, channels.group_blocks, False, apart)
        ranked = rank(isa, speed_of(isa, asm.processor), x, channels, pixels, breadth, facts)
    choice = chosen(asm, node, ranked, (x.lanes * 4, channels.group_blocks))
    if choice is not None and choice.form is not None:
        ahead = -min(dy for _, dy in phase.rows), -min(dx for _, dx in phase.cols)
        place = winograd_call.Place(ahead, 1, phase.size[0], phase.size[1], phase.start, stride)
        winograd_call.append(
            asm, node, isa, choice, x, y, residual, channels, lambda: phase.taps_of(kernels), place, joins=joins
        )
        return
    for _, _, dy, dx in pixels:
        asm.need_halo(x, Halo.of(-dy, -dx, phase.size[0] + dy - x.height, phase.size[1] + dx - x.width))
    taps, order = make_taps(x, channels, pixels, breadth)
    order = order if pixels else np.zeros((len(channels.inputs), 0), np.int64)
    append_direct(
        asm, node, isa, x, y, residual, channels, taps, order, flat, x.lanes * 4, (1, 1), False,
        size=phase.size, start=phase.start, every=stride, taps_in_kernel=height * breadth, joins=joins,
        tile=(choice.rows, choice.cols) if choice is not None else None,
    )  # fmt: skip
