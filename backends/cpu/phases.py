"""Strided convolutions as Winograd's of stride 1, on the phases of their input.

y[i] = sum over t of x[s i + t - p] w[t]. With t - p + e = s v + a, 0 <= a < s: phase a of x holds x[s j + a - e] at its
pixel j, and y[i] = sum over a and v of phase_a[i + v] w[s v + a + p - e]. So C channels become C s s, of ceil(k / s)
taps along an axis or one more: a 7x7 kernel of stride 2 over 3 channels is 4x4 over 12, a 3x3 kernel 2x2 over 4 C.

A phase that lacks the last tap has nothing at the point at infinity, one that lacks the first nothing at 0: there, the
sum is over fewer channels. F(5 x 5, 2 x 2) takes 121 multiplications a channel for the 25 outputs of a 3x3 kernel of
stride 2, where the direct sum takes 225.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convc.backends.cpu.winograd_points import Form, forms_of, kernel_matrix
from convc.backends.program import Ints
from convc.dims import Size
from convc.ir.graph import Node
from convc.types import Array


@dataclass(frozen=True, slots=True)
class Axis:
    """Along one axis: stride, pixels `early` that phases begin ahead of x, the first v, and how many there are."""

    stride: int
    early: int
    first: int
    taps: int

    @staticmethod
    def of(kernel: int, stride: int, padding: int) -> Axis:
        """The one with the fewest taps, and the fewest zeros ahead of x."""

        def starting(early: int) -> Axis:
            first, last = (early - padding) // stride, (kernel - 1 - padding + early) // stride
            return Axis(stride, early, first, last - first + 1)

        return min((starting(early) for early in range(stride)), key=lambda axis: (axis.taps, axis.before))

    def pixels(self, size: Size) -> Size:
        """Pixels of a phase of `size` pixels."""
        return (size + (self.early + self.stride - 1)) // self.stride

    @property
    def before(self) -> int:
        """Pixels of zeros ahead of x that the first output of the convolution of stride 1 reads."""
        return self.early - self.stride * self.first

    def present(self, kernel: int, padding: int, points: int) -> npt.NDArray[np.bool_]:
        """Whether kernels of a phase may be other than 0 at a point: [points, stride]."""
        taps = np.zeros((self.taps, self.stride))
        for tap in range(kernel):
            phase, place = self.of_tap(tap, padding)
            taps[place, phase] = 1.0
        there: npt.NDArray[np.bool_] = (kernel_matrix(self.taps, points) != 0) @ taps > 0
        return there

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
    def count(self) -> int:
        """Phases of a channel."""
        return self.down.stride * self.along.stride

    @property
    def all_channels(self) -> int:
        """Channels of all phases: the phases of a channel side by side, those of a row too."""
        return self.channels * self.count

    @property
    def taps(self) -> tuple[int, int]:
        """Of the kernel of stride 1."""
        return self.down.taps, self.along.taps

    @property
    def before(self) -> tuple[int, int]:
        """Rows and columns of zeros above and left of x that the first output reads."""
        return self.down.before, self.along.before

    def present(self, form: Form) -> npt.NDArray[np.bool_]:
        """Whether kernels of a phase may be other than 0 at a point: [points, phases]."""
        rows = self.down.present(self.kernel[0], self.padding[0], form.rows)
        columns = self.along.present(self.kernel[1], self.padding[1], form.columns)
        both: npt.NDArray[np.bool_] = rows[:, None, :, None] & columns[None, :, None, :]
        return both.reshape(form.points, self.count)

    def of_factors(self, plane: Ints, lane: Ints, column: Ints) -> tuple[Ints, Ints, Ints]:
        """Where factors lie and what they are multiplied by, given those of channels: each plane as so many phases."""
        phases = np.arange(self.count)
        planes, columns = (np.add.outer(values * self.count, phases).reshape(-1) for values in (plane, column))
        lanes = np.repeat(lane, self.count)
        order = np.lexsort((lanes, planes))
        return planes[order], lanes[order], columns[order]

    def places(self, row: int, pixel: int) -> Ints:
        """Bytes from a plane of inputs to each of its phases, for bytes from row to row and from pixel to pixel."""
        return np.add.outer(np.arange(self.down.stride) * row, np.arange(self.along.stride) * pixel).reshape(-1)

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


def phases_of(node: Node, channels: int, kernel: tuple[int, int]) -> Phases | None:
    """The phases of a conv2d, where Winograd's algorithm has a form for what they become. Windows that lie apart leave
    pixels out: their phases would be made for nothing.
    """
    (top, left, _, _), stride = node.attrs["padding"], node.attrs["stride"]
    apart = any(step > taps for step, taps in zip(stride, kernel, strict=True))
    if apart or node.attrs["groups"] > 1 or node.attrs["dilation"] != (1, 1):
        return None
    down, along = (Axis.of(*facts) for facts in zip(kernel, stride, (top, left), strict=True))
    return Phases(down, along, channels, kernel, (top, left)) if forms_of((down.taps, along.taps)) else None
