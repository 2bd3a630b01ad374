"""The error function, without SciPy."""

from __future__ import annotations

import numpy as np

from convc.types import Array

# Numerators and denominators, highest power first. Source: W. J. Cody, Rational Chebyshev approximations for the
# error function, Mathematics of Computation 23 (1969), 631-637.
_SMALL = (
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
     3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)  # fmt: skip
_MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
     1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
     3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
)  # fmt: skip
_LARGE = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
     1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242e0, 1.87295284992346047e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
     2.33520497626869185e-3),
)  # fmt: skip


def erf(x: Array) -> Array:
    """erf(x), computed in float64 to a relative error below 1e-15, in the dtype of `x`. NaN stays NaN."""
    z = np.abs(x).astype(np.float64)
    square = z * z
    small = z <= 0.46875
    low = z * _ratio(_SMALL, np.where(small, square, 0.0))
    inside = np.clip(z, 0.46875, 6.0)
    tail = np.exp(-inside * inside)
    middle = 1 - tail * _ratio(_MIDDLE, inside)
    u = 1 / (inside * inside)
    large = 1 - tail * (np.sqrt(1 / np.pi) - u * _ratio(_LARGE, u)) / inside
    result = np.where(small, low, np.where(z <= 4.0, middle, large))
    return np.copysign(result, x).astype(x.dtype, copy=False)


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Array) -> Array:
    numerator, denominator = (np.polyval(np.array(c), x) for c in coefficients)
    ratio: Array = numerator / denominator
    return ratio
