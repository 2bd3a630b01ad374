"""What a model may ask for before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from convc.dims import concrete
from convc.errors import LimitError
from convc.types import TensorType


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds on a model. Bytes are bytes; MACs are multiply-adds of one inference at nominal sizes."""

    tensor_bytes: int = 4 << 30
    model_bytes: int = 8 << 30
    folded_bytes: int = 1 << 30
    arena_bytes: int = 16 << 30
    nodes: int = 100_000
    macs: int = 10**14

    def check_tensor(self, name: str, type: TensorType, sizes: dict[str, int]) -> None:
        """Raise LimitError, naming the tensor, where its bytes at `sizes` exceed `tensor_bytes`."""
        total = type.dtype.bytes
        for size in type.shape:
            total *= concrete(size, sizes)
        if total > self.tensor_bytes:
            raise LimitError(
                f"tensor {name}: {type} takes {total} bytes, more than limits.tensor_bytes={self.tensor_bytes}",
                hint="use smaller sizes, or raise convc.Limits(tensor_bytes=...)",
            )
