"""What importers of indices and of columns share: places along several axes as one, and windows put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from convc.errors import ModelError
from convc.types import Array, DType

Ints = npt.NDArray[np.int64]


def flat_places(places: Sequence[Ints], sizes: Sequence[int]) -> Ints:
    """Places along axes of these sizes, counted from the end where negative, as places along one axis of them all.

    Raises ModelError where one lies outside.
    """
    for at, size in zip(places, sizes, strict=True):
        if at.size and (at.min() < -size or at.max() >= size):
            raise ModelError(
                f"indices {int(at.min())} to {int(at.max())} of an axis of {size}", hint="use places that are there"
            )
    wrapped = [np.where(at < 0, at + size, at) for at, size in zip(places, sizes, strict=True)]
    return np.asarray(np.ravel_multi_index(wrapped, tuple(sizes)), np.int64)


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns [N, C kh kw, rows * columns] of windows, put back and summed where they meet: a transposed convolution
    of [N, C kh kw, rows, columns] in C groups whose `kernels` hold one tap each.
    """

    rows: tuple[int, int]
    output_padding: tuple[int, int]
    kernels: Array

    @staticmethod
    def of(
        channels: int, dtype: DType, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int],
        padding: Sequence[int], dilation: Sequence[int],
    ) -> Columns:  # fmt: skip
        """For `channels` = C kh kw and images of `size`. `padding`: top, left, bottom, right."""
        taps = prod(kernel)
        room = [size[i] + padding[i] + padding[i + 2] - dilation[i] * (kernel[i] - 1) - 1 for i in (0, 1)]
        kernels = np.tile(np.eye(taps, dtype=dtype.numpy), (channels // taps, 1)).reshape(channels, 1, *kernel)
        return Columns(
            (room[0] // stride[0] + 1, room[1] // stride[1] + 1), (room[0] % stride[0], room[1] % stride[1]), kernels
        )
