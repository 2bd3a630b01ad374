"""TensorProto to array: checked against its declared shape and the limits before anything is allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from convc.errors import LimitError, ModelError
from convc.frontends.onnx.external import read_external
from convc.limits import Limits
from convc.types import Array, DType, TensorType

_T = onnx.TensorProto
DTYPES: dict[int, DType] = {
    _T.FLOAT: DType.F32, _T.FLOAT16: DType.F16, _T.DOUBLE: DType.F64, _T.BOOL: DType.BOOL,
    _T.INT8: DType.I8, _T.INT16: DType.I16, _T.INT32: DType.I32, _T.INT64: DType.I64,
    _T.UINT8: DType.U8, _T.UINT16: DType.U16, _T.UINT32: DType.U32, _T.UINT64: DType.U64,
}  # fmt: skip
ONNX_TYPES: dict[DType, int] = {dtype: number for number, dtype in DTYPES.items()}


def dtype_of(number: int, what: str) -> DType:
    """The element type of ONNX's number for it. Raises ModelError for those that convc does not carry."""
    if number not in DTYPES:
        known = _T.DataType.DESCRIPTOR.values_by_number if hasattr(_T.DataType, "DESCRIPTOR") else {}
        name = known[number].name if number in known else f"number {number}"
        raise ModelError(
            f"{what} has element type {name.lower()}, which is not supported",
            hint="use " + ", ".join(d.value for d in DType),
        )
    return DTYPES[number]


@dataclass
class TensorReader:
    """Turns the tensors of one model into arrays; counts their bytes against `limits.model_bytes`."""

    limits: Limits
    raw: dict[str, memoryview] = field(default_factory=dict)
    folder: Path | None = None
    total: int = 0

    def read(self, proto: onnx.TensorProto, what: str, *, initializer: bool = False) -> Array:
        """The elements. Raises ModelError where type, shape and data disagree, LimitError where they are too many."""
        dtype = dtype_of(proto.data_type, what)
        shape = tuple(proto.dims)
        if any(d < 0 for d in shape) or (len(shape) > 1 and 0 in shape):
            raise ModelError(
                f"{what} has shape [{', '.join(map(str, shape))}]", hint="sizes of weights must be 1 or more"
            )
        if proto.HasField("segment"):
            raise ModelError(f"{what} is stored in segments, which is not supported", hint="export it again")
        type = TensorType(dtype, shape)
        size = math.prod(shape) * dtype.bytes
        self.limits.check_tensor(what, type, {})
        self.total += size
        if self.total > self.limits.model_bytes:
            raise LimitError(
                f"weights up to {what} take {self.total} bytes, more than limits.model_bytes={self.limits.model_bytes}",
                hint="use a smaller model, or raise convc.Limits(model_bytes=...)",
            )
        if proto.data_location == _T.EXTERNAL:
            entries = {e.key: e.value for e in proto.external_data}
            array = read_external(self.folder, entries, size, what)
        elif initializer and proto.name in self.raw:
            data = self._checked(self.raw[proto.name], size, type, what)
            array = np.frombuffer(data, np.uint8).copy()  # the file's bytes are not aligned, and not ours to keep
        elif proto.HasField("raw_data"):
            array = np.frombuffer(self._checked(proto.raw_data, size, type, what), np.uint8)
        else:
            return self._typed(proto, type, what)
        little: Array = array.view(dtype.numpy.newbyteorder("<"))
        return little.astype(dtype.numpy, copy=False).reshape(shape)

    def _checked(self, data: bytes | memoryview, size: int, type: TensorType, what: str) -> bytes | memoryview:
        if len(data) != size:
            self._mismatch(len(data), size, "bytes", type, what)
        return data

    def _typed(self, proto: onnx.TensorProto, type: TensorType, what: str) -> Array:
        """Elements from the field for the type; several narrow types share `int32_data`, f16 as its bits."""
        dtype, shape = type.dtype, tuple(proto.dims)
        count = math.prod(shape)
        fields = {DType.F32: "float_data", DType.F64: "double_data", DType.I64: "int64_data",
                  DType.U32: "uint64_data", DType.U64: "uint64_data"}  # fmt: skip
        stored = getattr(proto, fields.get(dtype, "int32_data"))
        if len(stored) != count:
            self._mismatch(len(stored), count, "elements", type, what)
        if dtype is DType.F16:
            bits: Array = np.array(stored, np.int32).astype(np.uint16)
            return bits.view(np.float16).reshape(shape)
        wide: Array = np.array(stored, {"float_data": np.float32, "double_data": np.float64, "int64_data": np.int64,
                                 "uint64_data": np.uint64}.get(fields.get(dtype, ""), np.int32))  # fmt: skip
        return wide.astype(dtype.numpy, copy=False).reshape(shape)

    def _mismatch(self, stored: int, needed: int, unit: str, type: TensorType, what: str) -> None:
        message = f"{what}: {type} needs {needed} {unit}, the model holds {stored}"
        if needed * (type.dtype.bytes if unit == "elements" else 1) > self.limits.folded_bytes:
            raise LimitError(message, hint="the declared size is far beyond the data; do not trust this file")
        raise ModelError(message, hint="the weights are missing or damaged; export or download the model again")
