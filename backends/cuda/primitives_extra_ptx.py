"""The vocabulary for element types other than the kernels' own, bound to PTX. `primitives_extra` says what is what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from convc.backends.cuda import scalar_functions

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
KINDS: dict[str, tuple[Any, ir.Type, int]] = {
    "f32": (types.float32, ir.FloatType(), 4), "f64": (types.float64, ir.DoubleType(), 8),
    "f16": (types.float32, ir.FloatType(), 2), "bool": (types.uint8, I8, 1),
    "i8": (types.int8, I8, 1), "i16": (types.int16, I16, 2), "i32": (types.int32, I32, 4), "i64": (types.int64, I64, 8),
    "u8": (types.uint8, I8, 1), "u16": (types.uint16, I16, 2), "u32": (types.uint32, I32, 4),
    "u64": (types.uint64, I64, 8),
}  # fmt: skip
"""Element types: Numba's type of the value in a register, LLVM's, bytes in memory."""
INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
LOAD = {
    1: "{ .reg .pred p; .reg .b16 h; setp.ne.b32 p, $1, 0; mov.b16 h, 0; @p ld.global.u8 h, [$2]; cvt.u32.u16 $0, h; }",
    2: (
        "{ .reg .pred p; .reg .b16 h; setp.ne.b32 p, $1, 0; mov.b16 h, 0; "
        "@p ld.global.b16 h, [$2]; cvt.u32.u16 $0, h; }"
    ),
    4: "{ .reg .pred p; setp.ne.b32 p, $1, 0; mov.b32 $0, 0; @p ld.global.b32 $0, [$2]; }",
    8: "{ .reg .pred p; setp.ne.b32 p, $1, 0; mov.b64 $0, 0; @p ld.global.b64 $0, [$2]; }",
}  # fmt: skip
STORE = {
    1: "{ .reg .pred p; .reg .b16 h; setp.ne.b32 p, $0, 0; cvt.u16.u32 h, $2; @p st.global.u8 [$1], h; }",
    2: "{ .reg .pred p; .reg .b16 h; setp.ne.b32 p, $0, 0; cvt.u16.u32 h, $2; @p st.global.b16 [$1], h; }",
    4: "{ .reg .pred p; setp.ne.b32 p, $0, 0; @p st.global.b32 [$1], $2; }",
    8: "{ .reg .pred p; setp.ne.b32 p, $0, 0; @p st.global.b64 [$1], $2; }",
}


def vocabulary(primitives: Any) -> dict[str, Any]:
    """The names, over the types of `primitives_ptx`."""
    return _Binding(primitives).names


class _Binding:
    def __init__(self, primitives: Any) -> None:
        self.names: dict[str, Any] = {}
        self.i32, self.ptr, self.boolean = primitives.i32, primitives.ptr, types.boolean
        for size in (1, 2, 4, 8):
            self._move(size)
        for kind in KINDS:
            self._read(kind)
            self._write(kind)
        for kind in INTEGERS:
            self._index(kind)
        self._write_index()
        base = {"choose": _choose, "quotient": _divided("quotient"), "rest": _divided("rest"), "whole": _whole}
        for name in scalar_functions.NAMES:
            self.names[name] = _polymorphic(name, scalar_functions.define(name, base))

    def _define(self, name: str, result: Any, operands: Sequence[Any], emit: Any) -> None:
        def rule(*given: Any) -> Any:
            if len(given) != len(operands):
                return None

            def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
                made = emit(context, builder, signature, args)
                return context.get_dummy_value() if result is types.void else made

            return result(*(g if o is None else o for g, o in zip(given, operands, strict=True))), codegen

        slots = ", ".join(f"a{i}" for i in range(len(operands)))
        space: dict[str, Any] = {"rule": rule}
        exec(f"def {name}(context, {slots}):\n    return rule({slots})\n", space)
        self.names[name] = intrinsic(space[name])

    def _move(self, size: int) -> None:
        def emit(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> None:
            p, y, i, x, j = args
            live = builder.zext(p, I32)
            _store(
                builder,
                live,
                _address(builder, y, i, size),
                size,
                _load(builder, live, _address(builder, x, j, size), size),
            )

        self._define(f"move_b{size * 8}", types.void, (self.boolean, self.ptr, self.i32, self.ptr, self.i32), emit)

    def _loaded(self, builder: Any, kind: str, args: Sequence[Any]) -> Any:
        _, llvm, size = KINDS[kind]
        bits = _load(builder, builder.zext(args[0], I32), _address(builder, args[1], args[2], size), size)
        if kind == "f16":
            text = "{ .reg .b16 h; cvt.u16.u32 h, $1; cvt.f32.f16 $0, h; }"
            return _asm(builder, ir.FloatType(), text, "=f,r", [bits])
        if size < 4:
            return builder.trunc(bits, llvm)
        return bits if isinstance(llvm, ir.IntType) else builder.bitcast(bits, llvm)

    def _read(self, kind: str) -> None:
        def emit(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
            return self._loaded(builder, kind, args)

        self._define(f"read_{kind}", KINDS[kind][0], (self.boolean, self.ptr, self.i32), emit)

    def _index(self, kind: str) -> None:
        def emit(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
            value = self._loaded(builder, kind, args)
            if value.type.width > 32:
                return builder.trunc(value, I32)
            if value.type.width < 32:
                return (builder.sext if kind.startswith("i") else builder.zext)(value, I32)
            return value

        self._define(f"index_{kind}", self.i32, (self.boolean, self.ptr, self.i32), emit)

    def _write(self, kind: str) -> None:
        numba, _, size = KINDS[kind]

        def emit(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> None:
            value = context.cast(builder, args[3], signature.args[3], numba)
            if kind == "f16":
                text = "{ .reg .b16 h; cvt.rn.f16.f32 h, $1; cvt.u32.u16 $0, h; }"
                bits = _asm(builder, I32, text, "=r,f", [value])
            elif size < 4:
                bits = builder.zext(value, I32)
            else:
                bits = builder.bitcast(value, I64 if size == 8 else I32)
            _store(builder, builder.zext(args[0], I32), _address(builder, args[1], args[2], size), size, bits)

        self._define(f"write_{kind}", types.void, (self.boolean, self.ptr, self.i32, None), emit)

    def _write_index(self) -> None:
        def emit(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> None:
            at = _address(builder, args[1], args[2], 8)
            _store(builder, builder.zext(args[0], I32), at, 8, builder.sext(args[3], I64))

        self._define("write_index", types.void, (self.boolean, self.ptr, self.i32, self.i32), emit)


def _asm(builder: Any, result: ir.Type, text: str, constraints: str, args: Sequence[Any], effect: bool = False) -> Any:
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=effect), args)


def _address(builder: Any, base: Any, index: Any, size: int) -> Any:
    return builder.add(base, builder.mul(builder.sext(index, I64), ir.Constant(I64, size)))


def _load(builder: Any, live: Any, at: Any, size: int) -> Any:
    result, out = (I64, "=&l") if size == 8 else (I32, "=&r")
    return _asm(builder, result, LOAD[size], f"{out},r,l", [live, at], True)


def _store(builder: Any, live: Any, at: Any, size: int, bits: Any) -> None:
    letter = "l" if size == 8 else "r"
    _asm(builder, ir.VoidType(), STORE[size], f"r,l,{letter},~{{memory}}", [live, at, bits], True)


@intrinsic  # type: ignore[untyped-decorator]
def _choose(context: Any, p: Any, a: Any, b: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
        return builder.select(*args)

    kind = context.unify_types(a, b)
    return kind(types.boolean, kind, kind), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _whole(context: Any, x: Any) -> Any:
    """A float towards zero, as int64."""
    if not isinstance(x, types.Float):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
        return builder.fptosi(args[0], I64)

    return types.int64(x), codegen


def _divided(which: str) -> Any:
    """`quotient` or `rest` of x and y of one type, rounded towards minus infinity; 0 where an integer y is 0."""

    def rule(context: Any, x: Any, y: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
            a, b = args
            zero = ir.Constant(a.type, 0)
            if isinstance(x, types.Float):
                left = builder.frem(a, b)
                wrong = builder.xor(builder.fcmp_ordered("<", left, zero), builder.fcmp_ordered("<", b, zero))
                wrong = builder.and_(wrong, builder.fcmp_unordered("!=", left, zero))
                return builder.select(wrong, builder.fadd(left, b), left)
            none = builder.icmp_unsigned("==", b, zero)
            safe = builder.select(none, ir.Constant(a.type, 1), b)
            divide, remain = (builder.sdiv, builder.srem) if x.signed else (builder.udiv, builder.urem)
            quotient, left = divide(a, safe), remain(a, safe)
            if x.signed:
                wrong = builder.icmp_signed("<", builder.xor(left, safe), zero)
                wrong = builder.and_(wrong, builder.icmp_signed("!=", left, zero))
                quotient = builder.select(wrong, builder.sub(quotient, ir.Constant(a.type, 1)), quotient)
                left = builder.select(wrong, builder.add(left, safe), left)
            return builder.select(none, zero, quotient if which == "quotient" else left)

        return x(x, x), codegen

    rule.__name__ = which
    return intrinsic(rule)


PREDICATES = ("equal", "less", "greater", "logical", "to_bool", "beats")


def _polymorphic(name: str, function: Any) -> Any:
    """An intrinsic for operands of any types: a predicate, int64, or of the type of its last operand."""
    arity = function.__code__.co_argcount

    def rule(*given: Any) -> Any:
        if len(given) != arity:
            return None
        result = given[-1]
        if any(name.startswith(f"scalar_{start}") for start in PREDICATES):
            result = types.boolean
        elif name == "scalar_to_int":
            result = types.int64

        def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
            return context.compile_internal(builder, function, result(*given), args)

        return result(*given), codegen

    slots = ", ".join(f"a{i}" for i in range(arity))
    space: dict[str, Any] = {"rule": rule}
    exec(f"def {name}(context, {slots}):\n    return rule({slots})\n", space)
    return intrinsic(space[name])
