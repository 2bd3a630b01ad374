"""Types of the values in emitted kernels, their operators, and how a primitive is made of PTX.

Three kinds of value, `i32`, `f32` and `ptr`, are types of their own: `i32 + 1` is 32 bits wide and `f32 * 0.5` is no
float64, which Numba's own integers and literals do not promise. Predicates are booleans.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.cudadecl import registry as declarations
from numba.cuda.cudaimpl import registry as implementations
from numba.cuda.extending import intrinsic, models, register_model
from numba.cuda.typing.templates import AbstractTemplate, signature

Value = Any
I1, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 16, 32, 64))
FLOAT = ir.FloatType()


class Scalar(types.Type):  # type: ignore[misc]
    """`i32`, `f32` or `ptr`; integer and float literals convert to the first two."""

    def __init__(self, name: str, llvm: ir.Type) -> None:
        self.llvm = llvm
        super().__init__(name)

    def can_convert_from(self, typingctx: Any, other: Any) -> Any:
        from numba.cuda.typeconv import Conversion

        takes = {"i32": types.Integer, "f32": (types.Integer, types.Float)}.get(self.name, ())
        return Conversion.safe if isinstance(other, takes) else None


@register_model(Scalar)
class _ScalarModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Scalar) -> None:
        super().__init__(manager, kind, kind.llvm)


i32, f32, ptr = Scalar("i32", I32), Scalar("f32", FLOAT), Scalar("ptr", I64)
KINDS = {"i32": i32, "f32": f32, "ptr": ptr}
boolean = types.boolean


# ---- literals and operators ------------------------------------------------------------------------------------------


def _cast_integer(context: Any, builder: Any, source: Any, target: Scalar, value: Value) -> Value:
    if target == f32:
        return builder.sitofp(value, FLOAT)
    return builder.trunc(value, I32) if value.type.width > 32 else value


def _cast_float(context: Any, builder: Any, source: Any, target: Scalar, value: Value) -> Value:
    return value if value.type == FLOAT else builder.fptrunc(value, FLOAT)


implementations.lower_cast(types.Integer, Scalar)(_cast_integer)
implementations.lower_cast(types.Float, Scalar)(_cast_float)


def _takes(kind: Scalar, given: Any) -> bool:
    return given == kind or isinstance(given, (types.Integer, types.Float) if kind == f32 else types.Integer)


def _declare(op: Any, arity: int, result: Any = None) -> None:
    class Template(AbstractTemplate):  # type: ignore[misc]
        key = op

        def generic(self, args: Sequence[Any], kws: Any) -> Any:
            kind = next((a for a in args if a in (i32, f32)), None)
            if kind is None or len(args) != arity or not all(_takes(kind, a) for a in args):
                return None
            return signature(result or kind, *[kind] * arity)

    declarations.register_global(op)(Template)


def _implement(op: Any, kind: Scalar, arity: int, emit: Callable[..., Value]) -> None:
    def lowered(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return emit(builder, *args)

    implementations.lower(op, *[kind] * arity)(lowered)


def _define_operators() -> None:
    binary = {
        operator.add: ("add", "fadd"), operator.sub: ("sub", "fsub"), operator.mul: ("mul", "fmul"),
        operator.and_: ("and_", ""), operator.or_: ("or_", ""), operator.xor: ("xor", ""),
        operator.lshift: ("shl", ""), operator.rshift: ("ashr", ""),
    }  # fmt: skip
    for op, names in binary.items():
        _declare(op, 2)
        for kind, name in zip((i32, f32), names, strict=True):
            if name:
                _implement(op, kind, 2, lambda b, x, y, name=name: getattr(b, name)(x, y))
    for text in ("<", "<=", ">", ">=", "==", "!="):
        op = {"<": operator.lt, "<=": operator.le, ">": operator.gt,
              ">=": operator.ge, "==": operator.eq, "!=": operator.ne}[text]  # fmt: skip
        _declare(op, 2, boolean)
        _implement(op, i32, 2, lambda b, x, y, text=text: b.icmp_signed(text, x, y))
        compare = "fcmp_unordered" if text == "!=" else "fcmp_ordered"
        _implement(op, f32, 2, lambda b, x, y, text=text, compare=compare: getattr(b, compare)(text, x, y))
    _declare(operator.truediv, 2)
    _implement(operator.truediv, f32, 2, lambda b, x, y: asm(b, FLOAT, DIVIDE, "=f,f,f", [x, y], effect=False))
    _declare(operator.neg, 1)
    _implement(operator.neg, i32, 1, lambda b, x: b.neg(x))
    _implement(operator.neg, f32, 1, lambda b, x: b.fsub(ir.Constant(FLOAT, -0.0), x))  # NVVM knows no fneg


# ---- how a primitive is made -----------------------------------------------------------------------------------------

VOCABULARY: dict[str, Any] = {}
"""Name to what an emitted kernel sees under it."""


def asm(
    builder: Any, result: ir.Type, text: str, constraints: str, args: Sequence[Value], *, effect: bool = True
) -> Value:
    """A call of inline PTX; `effect` keeps it where it stands."""
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=effect), args)


def struct(kind: ir.Type, count: int) -> ir.Type:
    """What PTX with `count` results returns."""
    return kind if count == 1 else ir.LiteralStructType([kind] * count)


def unpack(builder: Any, value: Value, count: int) -> list[Value]:
    """The parts of a struct or tuple, or the one value itself."""
    return [value] if count == 1 else [builder.extract_value(value, i) for i in range(count)]


def tuple_of(kind: Any, count: int) -> Any:
    """The type of `count` values."""
    return kind if count == 1 else types.UniTuple(kind, count)


def result_of(context: Any, builder: Any, kind: Any, values: Sequence[Value]) -> Value:
    """Values as one of the type `tuple_of` gives."""
    return values[0] if len(values) == 1 else context.make_tuple(builder, kind, values)


Emit = Callable[..., Value]


def primitive(name: str, result: Any, operands: Sequence[Any], emit: Emit) -> None:
    """Define `name(operands) -> result`; `emit(context, builder, *args)` returns the value, None for void."""

    def rule(*given: Any) -> Any:
        if len(given) != len(operands):
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
            made = emit(context, builder, *args)
            return context.get_dummy_value() if result is types.void else made

        return result(*operands), codegen

    slots = ", ".join(f"a{i}" for i in range(len(operands)))
    space: dict[str, Any] = {"rule": rule}
    exec(f"def {name}(context{', ' + slots if slots else ''}):\n    return rule({slots})\n", space)
    VOCABULARY[name] = intrinsic(space[name])


def asm_primitive(name: str, result: Scalar, operands: Sequence[Scalar], text: str) -> None:
    """A primitive of one PTX instruction without effects, `$0` its result."""
    letter = {i32: "r", f32: "f"}
    constraints = ",".join(["=" + letter[result], *(letter[o] for o in operands)])
    primitive(name, result, operands, lambda c, b, *a: asm(b, result.llvm, text, constraints, a, effect=False))


DIVIDE = "div.full.f32 $0, $1, $2;"
_define_operators()
