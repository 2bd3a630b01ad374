"""Sliding windows over planes: attribute checks, output sizes, and the tap loop that convolutions and pools share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from convc.errors import ModelError
from convc.ops.base import Attr, Attrs
from convc.ops.check import expect_counts
from convc.types import Array, Size, window_size

WINDOW_ATTRS = (
    Attr("stride", "ints", (1, 1), "vertical, horizontal"),
    Attr("padding", "ints", (0, 0, 0, 0), "top, left, bottom, right"),
)
DILATION = Attr("dilation", "ints", (1, 1), "vertical, horizontal")


def check_window(attrs: Attrs) -> None:
    """Raise ModelError unless stride, padding and dilation have their counts and are not negative."""
    expect_counts(attrs, "stride", 2, 1)
    expect_counts(attrs, "dilation", 2, 1)
    padding = attrs["padding"]
    if len(padding) != 4 or min(padding) < 0:
        raise ModelError(
            f"padding={padding} is not 4 integers >= 0", hint="give top, left, bottom, right; crop with a pad node"
        )


def output_plane(plane: tuple[Size, Size], kernel: tuple[int, int], attrs: Attrs, ceil: bool = False) -> list[Size]:
    """Output height and width of a window over a plane."""
    return [
        window_size(
            plane[i], kernel[i], attrs["stride"][i], attrs["padding"][i], attrs["padding"][i + 2],
            attrs["dilation"][i], ceil,
        )
        for i in range(2)
    ]  # fmt: skip


def taps(
    x: Array, kernel: tuple[int, int], attrs: Attrs, out: tuple[int, int], fill: float
) -> Iterator[tuple[int, int, Array]]:
    """For each position of the kernel, the elements [N, C, *out] that it meets; beyond the border they are `fill`."""
    (sh, sw), (dh, dw) = attrs["stride"], attrs["dilation"]
    top, left, bottom, right = attrs["padding"]
    bottom = max(bottom, (out[0] - 1) * sh + dh * (kernel[0] - 1) + 1 - x.shape[2] - top)
    right = max(right, (out[1] - 1) * sw + dw * (kernel[1] - 1) + 1 - x.shape[3] - left)
    if top or left or bottom or right:
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    for r in range(kernel[0]):
        rows = slice(r * dh, r * dh + (out[0] - 1) * sh + 1, sh)
        for s in range(kernel[1]):
            yield r, s, x[:, :, rows, s * dw : s * dw + (out[1] - 1) * sw + 1 : sw]
