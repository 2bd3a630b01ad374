"""Seeded weights: the same bits for the same seed and name, on any machine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from convc.types import DType, Tensor, TensorType


def without_data(name: str, shape: Sequence[int]) -> Tensor:
    """A float32 constant that has a type alone, told from others by its name."""
    digest = hashlib.sha256(f"without data:{name}".encode()).hexdigest()
    return Tensor(None, type=TensorType(DType.F32, tuple(shape)), digest=f"sha256:{digest[:32]}")


def uniform(seed: int, name: str, shape: Sequence[int], low: float, high: float) -> npt.NDArray[np.float32]:
    """Uniform float32 values between `low` and `high`, on a grid of 65,536 steps.

    The stream is PCG64's raw output, seeded by SHA-256 of seed and name: both are fixed by their definitions. Each word
    makes four values, so that the 138 million weights of VGG-16 take about a second.
    """
    count = math.prod(shape)
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], "little")
    words = np.asarray(np.random.PCG64(key).random_raw(-(-count // 4)), dtype="<u8")
    step = np.float32((high - low) / 65536)
    values: npt.NDArray[np.float32] = np.multiply(words.view("<u2")[:count], step, dtype=np.float32)
    values += np.float32(low + (high - low) / 131072)
    return values.reshape(shape)


def he_bound(fan_in: float, gain: float = 2.0) -> float:
    """Half the width of a zero-mean uniform distribution of variance gain / fan_in, which keeps a ReLU network's range.

    Source: He et al. 2015, equation 10.
    """
    return math.sqrt(3 * gain / fan_in)


def round_bits(values: npt.NDArray[Any], bits: int = 12) -> npt.NDArray[np.float32]:
    """Float32 values of at most `bits` significant bits: hides the last bits in which two machines' sums differ."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    return np.ldexp(np.round(mantissa * 2.0**bits) / 2.0**bits, exponent).astype(np.float32)
