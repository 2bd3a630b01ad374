"""All importers by ATen operator."""

from __future__ import annotations

from convc.frontends.torch.context import Importer
from convc.frontends.torch.ops_conv import CONVOLUTIONS
from convc.frontends.torch.ops_elementwise import ELEMENTWISE
from convc.frontends.torch.ops_index import INDEXING
from convc.frontends.torch.ops_linear import PRODUCTS
from convc.frontends.torch.ops_norm import NORMALISATIONS
from convc.frontends.torch.ops_pool import POOLS
from convc.frontends.torch.ops_reduce import REDUCTIONS
from convc.frontends.torch.ops_resize import RESIZES
from convc.frontends.torch.ops_shape import REARRANGEMENTS

IDENTITIES = frozenset({
    "alias", "alias_copy", "clone", "contiguous", "detach", "detach_", "lift_fresh", "lift_fresh_copy",
})  # fmt: skip
"""Operators that give their first argument back: nothing in the trace writes to tensors."""

IMPORTERS: dict[str, Importer] = {
    **CONVOLUTIONS, **ELEMENTWISE, **INDEXING, **NORMALISATIONS, **POOLS, **PRODUCTS, **REARRANGEMENTS, **REDUCTIONS,
    **RESIZES,
    **dict.fromkeys(IDENTITIES, lambda call: call.first),
}  # fmt: skip
"""By name, with its overload where that matters: `max.dim`, `conv2d`."""
