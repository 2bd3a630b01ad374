"""Arrays on the GPU: those that callers bring, by `__cuda_array_interface__` or DLPack, and those given back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from convc.errors import InputError

CUDA_DEVICES = (2, 13)
"""kDLCUDA and kDLCUDAManaged."""


class DeviceArray:
    """A contiguous array on the GPU. PyTorch, CuPy and Numba take it without a copy, by `__cuda_array_interface__`."""

    def __init__(
        self, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: Any, stream: int | None = None,
        release: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        self.pointer = pointer
        self.shape = shape
        self.dtype = dtype
        self._owner = owner
        self._release = release
        self._stream = stream

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.pointer, False), "version": 3,
            "strides": None,
        }  # fmt: skip
        if self._stream is not None:
            found["stream"] = self._stream or 1
        return found

    def __del__(self) -> None:
        if self._release is not None:
            with suppress(Exception):  # at the end of a process the driver, or the caller's stream, may be gone first
                self._release(self.pointer)


def is_on_device(value: Any) -> bool:
    """Whether a value lies on a GPU, by what it says of itself."""
    where = getattr(value, "__dlpack_device__", None)
    if where is not None and not isinstance(value, np.ndarray):
        return int(where()[0]) in CUDA_DEVICES
    return getattr(value, "__cuda_array_interface__", None) is not None


def device_array(value: Any, name: str, stream: int = 1) -> DeviceArray:
    """A caller's array as it lies, kept alive by the result. `stream` is where it will be used.

    Raises InputError where it is not contiguous, or its kind is unknown.
    """
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is not None:
        shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
        _expect_contiguous(name, shape, interface.get("strides"), dtype.itemsize)
        return DeviceArray(int(interface["data"][0]), shape, dtype, value)
    try:
        from cuda.core.utils import StridedMemoryView

        view = StridedMemoryView.from_dlpack(value, stream)
    except (ImportError, BufferError, TypeError) as error:
        raise InputError(
            f"input {name} is no array on this GPU: {error}", hint="give a CUDA tensor or array"
        ) from error
    dtype = np.dtype(view.dtype)
    strides = None if view.strides is None else tuple(s * dtype.itemsize for s in view.strides)
    _expect_contiguous(name, tuple(view.shape), strides, dtype.itemsize)
    return DeviceArray(int(view.ptr), tuple(view.shape), dtype, view)


def _expect_contiguous(name: str, shape: tuple[int, ...], strides: Any, element: int) -> None:
    if strides is None:
        return
    step = element
    for size, stride in zip(reversed(shape), reversed(tuple(strides)), strict=True):
        if size > 1 and stride != step:
            raise InputError(f"input {name} is not contiguous on the GPU", hint="call .contiguous() on it")
        step *= size
