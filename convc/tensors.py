"""Arrays in the safetensors format, written without copying them and read as views of the file.

The format: 8 bytes little-endian header length; a JSON header of name to dtype, shape and data_offsets; the data,
contiguous. Arrays here start at multiples of 64 bytes: where one ends elsewhere, a padding entry fills the gap, since
the format allows none. Source: github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from convc.errors import InputError, ModelError
from convc.files import read_json
from convc.types import Array, DType

ALIGNMENT = 64
MAX_HEADER_BYTES = 64 << 20
_PADDING = ".padding."
_HINT = "write the file again; the safetensors format is described in convc/tensors.py"
_NAMES = {
    DType.F16: "F16", DType.F32: "F32", DType.F64: "F64", DType.I8: "I8", DType.I16: "I16", DType.I32: "I32",
    DType.I64: "I64", DType.U8: "U8", DType.U16: "U16", DType.U32: "U32", DType.U64: "U64", DType.BOOL: "BOOL",
}  # fmt: skip
_DTYPES = {name: kind for kind, name in _NAMES.items()}


def write_tensors(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> list[memoryview]:
    """The file as buffers to be written one after another: a header, then the arrays themselves.

    An array that is not contiguous, or not little-endian, is copied. Raises InputError for a name that is taken by the
    format, ModelError for a dtype that convc does not carry.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    pieces: list[memoryview] = []
    end = 0

    def add(name: str, array: Array) -> None:
        nonlocal end
        kind = DType.of(array)
        plain = np.ascontiguousarray(array, dtype=kind.numpy.newbyteorder("<"))
        header[name] = {
            "dtype": _NAMES[kind], "shape": list(array.shape), "data_offsets": [end, end + plain.nbytes]
        }  # fmt: skip
        end += plain.nbytes
        if plain.nbytes:
            pieces.append(plain.reshape(-1).view(np.uint8).data)

    for name, array in tensors.items():
        if name == "__metadata__" or name.startswith(_PADDING):
            raise InputError(f"{name!r} cannot name a tensor", hint="rename it; the file format uses this name")
        gap = -end % ALIGNMENT
        if gap:
            add(f"{_PADDING}{len(header)}", np.zeros(gap, np.uint8))
        add(name, np.asarray(array))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    if len(text) > MAX_HEADER_BYTES - ALIGNMENT:
        raise InputError(f"{len(tensors)} tensors need a header of {len(text)} bytes", hint="write fewer tensors")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return [memoryview(struct.pack("<Q", len(text)) + text), *pieces]


def read_tensors(data: memoryview | bytes, label: str = "tensors") -> dict[str, Array]:
    """Read-only arrays that share the memory of `data`. Raises ModelError, naming `label` and the tensor."""
    view = memoryview(data).cast("B").toreadonly()
    header, start = _read_header(view, label)
    end = 0
    result: dict[str, Array] = {}
    found = sorted((_entry(name, entry, label), name) for name, entry in header.items())
    for (first, last, code, shape), name in found:
        kind, count = _DTYPES[code], math.prod(shape)
        if first != end or last > view.nbytes - start or last - first != count * kind.bytes:
            raise ModelError(
                f"{label}: tensor {name[:80]!r} {kind}{list(shape)} is said to lie at bytes {first} to {last}, "
                f"expected {end} to {end + count * kind.bytes} of {view.nbytes - start}",
                hint=_HINT,
            )
        end = last
        if not name.startswith(_PADDING):
            result[name] = _array(view[start + first : start + last], kind, shape, f"{label}: tensor {name[:80]!r}")
    if end != view.nbytes - start:
        raise ModelError(f"{label}: tensors take {end} bytes, found {view.nbytes - start}", hint=_HINT)
    return result


def _read_header(view: memoryview, label: str) -> tuple[dict[str, Any], int]:
    length = struct.unpack_from("<Q", view)[0] if view.nbytes >= 8 else -1
    if not 2 <= length <= min(view.nbytes - 8, MAX_HEADER_BYTES):
        raise ModelError(f"{label} is not a safetensors file: its header length is {length}", hint=_HINT)
    try:
        header = read_json(view[8 : 8 + length])
    except ValueError as error:
        raise ModelError(f"{label}: the header is not JSON ({error})", hint=_HINT) from error
    if not isinstance(header, dict):
        raise ModelError(f"{label}: the header is no JSON object", hint=_HINT)
    header.pop("__metadata__", None)
    return header, 8 + length


def _entry(name: str, entry: Any, label: str) -> tuple[int, int, str, tuple[int, ...]]:
    """First byte, end, dtype's name, shape."""
    fields = entry if isinstance(entry, dict) else {}
    shape, offsets = fields.get("shape"), fields.get("data_offsets")
    if set(fields) != {"dtype", "shape", "data_offsets"} or not _sizes(shape) or not _sizes(offsets):
        raise ModelError(f"{label}: tensor {name[:80]!r} lacks a dtype, shape or data_offsets", hint=_HINT)
    if len(offsets) != 2 or len(shape) > 32:
        raise ModelError(f"{label}: tensor {name[:80]!r} has rank {len(shape)}, {len(offsets)} offsets", hint=_HINT)
    if not isinstance(fields["dtype"], str) or fields["dtype"] not in _DTYPES:
        raise ModelError(
            f"{label}: tensor {name[:80]!r} has dtype {str(fields['dtype'])[:20]}", hint=f"use {', '.join(_DTYPES)}"
        )
    return offsets[0], offsets[1], fields["dtype"], tuple(shape)


def _sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in value)


def _array(piece: memoryview, kind: DType, shape: tuple[int, ...], what: str) -> Array:
    raw = np.frombuffer(piece, kind.numpy.newbyteorder("<"))
    if kind is DType.BOOL and (raw.view(np.uint8) > 1).any():
        raise ModelError(f"{what} holds bytes that are neither 0 nor 1", hint=_HINT)
    try:
        return raw.reshape(shape)
    except ValueError as error:  # an empty array whose other sizes overflow
        raise ModelError(f"{what} has shape {list(shape)}, which NumPy cannot hold", hint=_HINT) from error


__all__ = ["read_tensors", "write_tensors"]
