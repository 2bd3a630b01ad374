"""Activations in emitted kernels: which function of the vocabulary each is, with its parameters as run-time floats."""

from __future__ import annotations

import struct

import numpy as np

from convc.backends.cpu.writer import Writer
from convc.types import Activation, Array

FUNCTION = {
    "relu": "relu", "clip": "clip", "leaky_relu": "leaky_relu", "sigmoid": "sigmoid", "hard_sigmoid": "hard_sigmoid",
    "hard_swish": "hard_swish", "silu": "silu", "tanh": "tanh", "elu": "elu", "selu": "selu", "celu": "celu",
    "softplus": "softplus", "softsign": "softsign", "mish": "mish", "gelu": "gelu", "erf": "erf", "exp": "exp",
    "log": "log", "sqrt": "sqrt", "reciprocal": "reciprocal", "neg": "neg", "abs": "abs", "floor": "floor",
    "ceil": "ceil", "round": "round", "sign": "sign", "sin": "sin", "cos": "cos",
}  # fmt: skip
"""Operator name to function of the vector vocabulary."""


def function_of(activation: Activation) -> tuple[str, tuple[float, ...]]:
    """Vocabulary function and float parameters of an activation."""
    if activation.name == "gelu":
        return ("gelu_tanh" if any(activation.params) else "gelu"), ()
    return FUNCTION[activation.name], tuple(float(p) for p in activation.params)


def name_end(residual: bool, activation: str) -> list[str]:
    """The facts that end a convolution kernel's name."""
    return ["add"] * residual + ([activation] if activation else [])


def float_word(value: float) -> int:
    """A float32 as the low half of an int64 argument word."""
    return int(struct.unpack("<I", struct.pack("<f", np.float32(value)))[0])


def write_parameters(out: Writer, count: int, first: int, lanes: int) -> str:
    """Load `count` parameters from argument words into vectors; returns them as trailing call arguments."""
    for index in range(count):
        out(f"p{index} = vec_splat(a + {8 * (first + index)}, {lanes})")
    return "".join(f", p{index}" for index in range(count))


def float32(array: Array) -> Array:
    """A float32 copy or view of a constant."""
    return np.asarray(array, np.float32)
