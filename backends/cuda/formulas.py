"""Activations and binary functions as expressions over the vocabulary, in float32. NaN stays NaN."""

from __future__ import annotations

from convc.types import Activation

PLAIN = {
    "relu", "sigmoid", "hard_swish", "silu", "tanh", "softplus", "softsign", "mish", "gelu", "gelu_tanh", "erf", "exp",
    "log", "sqrt", "reciprocal", "neg", "floor", "ceil", "sign", "sin", "cos",
}  # fmt: skip
RENAMED = {"abs": "absolute", "round": "rint"}
WITH_PARAMETERS = {"leaky_relu": 1, "elu": 1, "celu": 1, "selu": 2, "clip": 2, "hard_sigmoid": 2}
BINARY: dict[str, str] = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}", "max": "maximum({0}, {1})",
    "min": "minimum({0}, {1})", "pow": "power({0}, {1})", "mod": "floor_mod({0}, {1})", "fmod": "trunc_mod({0}, {1})",
    "prelu": "select({0} < 0.0, {0} * {1}, {0})", "scale_shift": "fma({0}, {1}, {2})",
}  # fmt: skip


def function_of(activation: Activation | None) -> tuple[str, tuple[float, ...]]:
    """Name of the function and its float parameters; no name for no activation."""
    if activation is None:
        return "", ()
    if activation.name == "gelu":
        return ("gelu_tanh" if any(activation.params) else "gelu"), ()
    return activation.name, tuple(float(p) for p in activation.params)


def parameters(count: int) -> list[str]:
    """Arguments that hold the parameters of a function."""
    return [f"p{i}: f32" for i in range(count)]


def apply(function: str, *operands: str, first: int = 0) -> str:
    """The expression of a function of names, its parameters `p` from `first` on; the operand itself for no function."""
    if not function:
        return operands[0]
    if function in BINARY:
        return BINARY[function].format(*operands)
    if function in WITH_PARAMETERS:
        return f"{function}({', '.join([operands[0], *(f'p{first + i}' for i in range(WITH_PARAMETERS[function]))])})"
    assert function in PLAIN or function in RENAMED, function
    return f"{RENAMED.get(function, function)}({operands[0]})"
