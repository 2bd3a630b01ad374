"""Which importer and which evaluator serves an ONNX operator."""

from __future__ import annotations

from convc.frontends.onnx.context import Importer
from convc.frontends.onnx.evaluate import EVALUATORS
from convc.frontends.onnx.ops_conv import CONVOLUTIONS
from convc.frontends.onnx.ops_einsum import EINSUM
from convc.frontends.onnx.ops_elementwise import ELEMENTWISE
from convc.frontends.onnx.ops_index import INDEXING
from convc.frontends.onnx.ops_linear import PRODUCTS
from convc.frontends.onnx.ops_norm import NORMALISATIONS
from convc.frontends.onnx.ops_resize import RESIZES
from convc.frontends.onnx.ops_shape import REARRANGEMENTS

IMPORTERS: dict[str, Importer] = {
    **ELEMENTWISE, **CONVOLUTIONS, **PRODUCTS, **EINSUM, **NORMALISATIONS, **REARRANGEMENTS, **INDEXING, **RESIZES,
}  # fmt: skip
"""Every ONNX operator that convc imports, If apart, by name."""

__all__ = ["EVALUATORS", "IMPORTERS"]
