"""Halos: zero rows and columns around planes. How many there are may depend on sizes that a plan fixes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convc.dims import Dim, Size, concrete

Sides = tuple[int, int, int, int]
"""Rows or columns at the top, left, bottom and right."""
NOTHING = frozenset({0})


@dataclass(frozen=True, slots=True)
class Halo:
    """Of each side, the numbers of rows or columns that were asked for: the largest counts."""

    top: frozenset[Size] = NOTHING
    left: frozenset[Size] = NOTHING
    bottom: frozenset[Size] = NOTHING
    right: frozenset[Size] = NOTHING

    @staticmethod
    def of(top: Size, left: Size, bottom: Size, right: Size) -> Halo:
        """One demand; less than nothing is none."""
        sides = (frozenset({0, size if isinstance(size, Dim) else max(size, 0)}) for size in (top, left, bottom, right))
        return Halo(*sides)

    def __or__(self, other: Halo) -> Halo:
        pairs = zip(self._sides, other._sides, strict=True)
        return Halo(*(one | another for one, another in pairs))

    def bind(self, sizes: Mapping[str, int]) -> Sides:
        """Rows and columns at sizes that are known."""
        top, left, bottom, right = (max(concrete(size, sizes) for size in side) for side in self._sides)
        return top, left, bottom, right

    @property
    def beside(self) -> bool:
        """Whether there may be columns between the rows."""
        return self.left != NOTHING or self.right != NOTHING

    def __bool__(self) -> bool:
        return any(side != NOTHING for side in self._sides)

    @property
    def _sides(self) -> tuple[frozenset[Size], ...]:
        return self.top, self.left, self.bottom, self.right


def reach(size: Size, windows: Size, stride: int, taps: int, dilation: int, padding: int) -> Size:
    """Pixels beyond the last that windows along an axis of `size` pixels touch; negative where they end before it."""
    return (windows - 1) * stride + (taps - 1) * dilation + 1 - padding - size
