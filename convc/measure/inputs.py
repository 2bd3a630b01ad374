"""Random inputs for a model: seeded, of nominal or given sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convc.dims import concrete, parse_size
from convc.types import Array

if TYPE_CHECKING:
    from convc.model import CompiledModel


def random_array(shape: Sequence[int], dtype: np.dtype[Any], seed: int) -> Array:
    """Standard normal floats; zeros and ones for other dtypes, which are indices or masks."""
    rng = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(shape, np.float32).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def random_inputs(model: CompiledModel, *, seed: int = 0, sizes: Mapping[str, int] | None = None) -> dict[str, Array]:
    """An array for each input; symbols are nominal unless `sizes` has them."""
    known = {**model.graph.nominal, **(sizes or {})}
    return {
        port.name: random_array([concrete(parse_size(str(d)), known) for d in port.shape], port.dtype, seed)
        for port in model.inputs
    }


__all__ = ["random_array", "random_inputs"]
