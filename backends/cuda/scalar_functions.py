"""Operators on element types other than float32, written over a few primitives, so both bindings run the same text.

`choose(p, a, b)` picks one of two values of any type; `quotient` and `rest` round towards minus infinity and give 0 for
a divisor of 0; `whole` truncates a float.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

TEXT = """
def scalar_add(x, y):
    return x + y

def scalar_sub(x, y):
    return x - y

def scalar_mul(x, y):
    return x * y

def scalar_min(x, y):
    return choose((x < y) | (x != x), x, y)

def scalar_max(x, y):
    return choose((x > y) | (x != x), x, y)

def scalar_equal(x, y):
    return x == y

def scalar_less(x, y):
    return x < y

def scalar_less_or_equal(x, y):
    return x <= y

def scalar_greater(x, y):
    return x > y

def scalar_greater_or_equal(x, y):
    return x >= y

def scalar_logical_and(x, y):
    return (x != 0) & (y != 0)

def scalar_logical_or(x, y):
    return (x != 0) | (y != 0)

def scalar_logical_not(x):
    return x == 0

def scalar_where(c, x, y):
    return choose(c != 0, x, y)

def scalar_neg(x):
    return -x

def scalar_abs(x):
    return choose(x < 0, -x, x)

def scalar_cast(x):
    return x

def scalar_to_bool(x):
    return x != 0

def scalar_to_int(x):
    return whole(x)

def scalar_floor_div(x, y):
    return quotient(x, y)

def scalar_div(x, y):
    floor = quotient(x, y)
    return choose((rest(x, y) != 0) & ((x < 0) != (y < 0)), floor + 1, floor)

def scalar_true_div(x, y):
    return x / y

def scalar_mod(x, y):
    return rest(x, y)

def scalar_fmod(x, y):
    left = rest(x, y)
    return choose((left != 0) & ((x < 0) != (y < 0)), left - y, left)

def scalar_float_fmod(x, y):
    return choose((x < 0) == (y < 0), rest(x, y), -rest(-x, y))

def scalar_choose(p, x, y):
    return choose(p, x, y)

def scalar_beats_first(x, best):
    return (x > best) | ((x != x) & (best == best))

def scalar_beats_last(x, best):
    return (x >= best) | (x != x)
"""

_FUNCTIONS = {node.name: node for node in ast.parse(TEXT).body if isinstance(node, ast.FunctionDef)}
NAMES = tuple(_FUNCTIONS)


def define(name: str, vocabulary: Mapping[str, Any]) -> Any:
    """The function over a vocabulary that holds choose, quotient, rest and whole."""
    space = dict(vocabulary)
    exec(compile(ast.Module([_FUNCTIONS[name]], []), f"<{name}>", "exec"), space)
    return space[name]
