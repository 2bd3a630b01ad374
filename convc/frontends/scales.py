"""Sizes before and after scaling, symbolic ones too."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from convc.dims import Dim, Size
from convc.errors import ModelError

FIX_SIZES = 'fix the sizes, as in input_shapes={"x": (1, 3, 224, 224)}'
_LARGEST_DENOMINATOR = 1 << 12


def scaled_size(size: Size, scale: float) -> Size:
    """floor(size * scale), the product rounded to f32 as runtimes do; exact for a symbolic size."""
    if not isinstance(size, Dim):
        return int(np.floor(np.float32(size) * np.float32(scale)))
    fraction = Fraction(scale)
    if fraction.denominator > _LARGEST_DENOMINATOR:
        raise ModelError(f"scale {scale} of symbolic size {size} is no simple fraction", hint=FIX_SIZES)
    return size * fraction.numerator // fraction.denominator


def scale_between(old: Size, new: Size) -> float:
    """The scale new / old where it does not depend on symbols. Raises ModelError where it does."""
    if isinstance(old, int) and isinstance(new, int):
        return new / old
    ratio = new // old
    if isinstance(ratio, int) and ratio and old * ratio == new:
        return float(ratio)
    ratio = old // new if new != 0 else 0
    if isinstance(ratio, int) and ratio and new * ratio == old:
        return 1 / ratio
    raise ModelError(f"the scale from size {old} to {new} is not fixed", hint=FIX_SIZES)
