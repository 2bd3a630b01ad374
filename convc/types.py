"""Element types, shapes, tensor types, activations, and the arithmetic of convolution windows."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from convc.dims import Dim, Size, bind, concrete
from convc.errors import ModelError

Array = npt.NDArray[Any]
Shape = tuple[Size, ...]
Padding = tuple[int, int, int, int]  # top, left, bottom, right


class DType(enum.Enum):
    """Element types; the value is the name in the textual form."""

    F16 = "f16"
    F32 = "f32"
    F64 = "f64"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype[Any]:
        return _NUMPY[self]

    @property
    def bytes(self) -> int:
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        return self in {DType.F16, DType.F32, DType.F64}

    @staticmethod
    def of(array: Array | np.dtype[Any]) -> DType:
        """The element type of an array or NumPy dtype. Raises ModelError for one that convc does not carry."""
        dtype = np.dtype(array.dtype if isinstance(array, np.ndarray) else array).newbyteorder("=")
        for kind, known in _NUMPY.items():
            if known == dtype:
                return kind
        raise ModelError(f"dtype {dtype} is not supported", hint="use " + ", ".join(k.value for k in DType))

    def __str__(self) -> str:
        return self.value


_NUMPY: dict[DType, np.dtype[Any]] = {
    DType.F16: np.dtype(np.float16), DType.F32: np.dtype(np.float32), DType.F64: np.dtype(np.float64),
    DType.I8: np.dtype(np.int8), DType.I16: np.dtype(np.int16), DType.I32: np.dtype(np.int32),
    DType.I64: np.dtype(np.int64), DType.U8: np.dtype(np.uint8), DType.U16: np.dtype(np.uint16),
    DType.U32: np.dtype(np.uint32), DType.U64: np.dtype(np.uint64), DType.BOOL: np.dtype(np.bool_),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape, such as `f32[N, 64, 56, 56]`."""

    dtype: DType
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> Size:
        return product(self.shape)

    @property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    def bind(self, sizes: Mapping[str, Size]) -> TensorType:
        return TensorType(self.dtype, tuple(bind(d, sizes) for d in self.shape))

    def concrete(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(concrete(d, sizes) for d in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


class Tensor:
    """A constant's elements: read-only, compared by content, digest computed when asked for.

    A tensor read from a textual form without its weights, or made without a seed, has type and digest but no array.
    """

    def __init__(self, array: Array | None, *, type: TensorType | None = None, digest: str | None = None) -> None:
        if array is not None:
            array = np.ascontiguousarray(array).reshape(np.shape(array))
            if array.dtype.byteorder == ">":
                array = array.astype(array.dtype.newbyteorder("="))
            if array.flags.writeable:
                array = array.view()
                array.flags.writeable = False
            type = TensorType(DType.of(array), tuple(int(d) for d in array.shape))
        if type is None or (array is None and digest is None):
            raise ValueError("a Tensor needs an array, or a type and a digest")
        self.type = type
        self._array = array
        self._digest = digest

    @property
    def present(self) -> bool:
        return self._array is not None

    @property
    def array(self) -> Array:
        if self._array is None:
            raise ModelError(
                f"constant {self.digest} of type {self.type} has no data",
                hint="pass weights= to convc.parse, or a seed to what built the network",
            )
        return self._array

    @cached_property
    def digest(self) -> str:
        """`sha256:` and 32 hex digits over type and bytes."""
        if self._digest is not None:
            return self._digest
        state = hashlib.sha256(str(self.type).encode())
        state.update(self.array.data.cast("B") if self.array.size and self.array.ndim else self.array.tobytes())
        return f"sha256:{state.hexdigest()[:32]}"

    @cached_property
    def largest(self) -> float:
        """The largest magnitude, 0 where there are no elements; infinite or NaN where one of them is."""
        elements = self.array
        return float(max(elements.max(), -elements.min())) if elements.size else 0.0

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Tensor) and self.type == other.type and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.type)

    def __repr__(self) -> str:
        return f"Tensor({self.type})"


@dataclass(frozen=True, slots=True)
class Activation:
    """A unary elementwise operator in an epilogue: its name in the operator table, and its attributes in order."""

    name: str
    params: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(repr(p) for p in self.params)})" if self.params else self.name


def product(sizes: Sequence[Size]) -> Size:
    """The product of sizes; 1 for none."""
    total: Size = 1
    for size in sizes:
        total = total * size
    return total


def broadcast_shapes(*shapes: Shape) -> Shape:
    """NumPy broadcasting over symbolic sizes. Raises ModelError where two sizes differ and neither is 1."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[Size] = []
    for axis in range(rank):
        found: Size = 1
        for shape in shapes:
            at = axis - rank + len(shape)
            size = shape[at] if at >= 0 else 1
            if size == 1 or size == found:
                continue
            if found != 1:
                texts = " and ".join(f"[{', '.join(map(str, s))}]" for s in shapes)
                raise ModelError(f"shapes {texts} do not broadcast at axis {axis}", hint="sizes must be equal or 1")
            found = size
        result.append(found)
    return tuple(result)


def window_size(
    size: Size, kernel: int, stride: int, before: int, after: int, dilation: int, ceil: bool = False
) -> Size:
    """Output length of a sliding window: floor or ceil of (size + padding - extent) / stride, plus 1.

    With `ceil`, a last window that would start beyond the input and its leading padding is dropped (as in PyTorch and
    ONNX). Only a stride longer than what the trailing padding leaves of the extent can bring one about; then windows
    start wherever there is input.
    """
    extent = dilation * (kernel - 1) + 1
    span = size + (before + after - extent)
    if isinstance(span, int) and span < 0:
        raise ModelError(
            f"window of {extent} does not fit in {size} with padding {before} and {after}",
            hint="use a larger input, more padding, or a smaller kernel",
        )
    if not ceil:
        return span // stride + 1
    if after + stride > extent:
        return (size + (before - 1)) // stride + 1
    return (span + (stride - 1)) // stride + 1


def transposed_size(size: Size, kernel: int, stride: int, before: int, after: int, dilation: int, extra: int) -> Size:
    """Output length of a transposed convolution: (size - 1) * stride - padding + extent + output_padding."""
    return (size - 1) * stride - before - after + dilation * (kernel - 1) + 1 + extra


def same_padding(size: int, kernel: int, stride: int, dilation: int, *, upper: bool) -> tuple[int, int]:
    """Padding before and after so that the output length is ceil(size / stride); an odd pixel goes after if `upper`."""
    extent = dilation * (kernel - 1) + 1
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    small = total // 2
    return (small, total - small) if upper else (total - small, small)


__all__ = [
    "Activation", "Array", "DType", "Dim", "Padding", "Shape", "Size", "Tensor", "TensorType",
    "broadcast_shapes", "product", "same_padding", "transposed_size", "window_size",
]  # fmt: skip
