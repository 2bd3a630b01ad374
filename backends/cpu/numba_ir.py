"""Numba as a front end: a kernel's source to LLVM IR that nobody has optimised yet.

Kernels compute with numbers and the vocabulary alone. So they are a target of their own for Numba, which would load
arrays, lists and SciPy for its own CPU target; the pipeline is the passes that lead from bytecode to IR; and LLVM
optimises once, for the target machine, instead of twice for the host: less than half the time of `numba.cfunc`.
Variables keep one type each: there is no SSA; nothing is deleted, for nothing is owned.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from numba import types
from numba.core import ccallback, cgutils, codegen, cpu, registry, target_extension
from numba.core.compiler import CompilerBase
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import AnnotateTypes, BaseNativeLowering, NoPythonBackend, NopythonTypeInference
from numba.core.typing.context import BaseContext
from numba.core.untyped_passes import FixupArgs, IRProcessing, TranslateByteCode

from convc.collector import collector_off

TARGET = "convc"


def _quotient(builder: Any, a: Any, b: Any) -> Any:
    """Rounded down, for divisors above 0: what remains of a negative number is negative. By 0, nothing is divided:
    processors would stop.
    """
    b = builder.select(builder.icmp_signed("==", b, b.type(0)), b.type(1), b)
    quotient = builder.sdiv(a, b)
    rest = builder.sub(a, builder.mul(quotient, b))
    return builder.add(quotient, builder.ashr(rest, rest.type(63)))


INTEGERS: dict[Any, Callable[[Any, Any, Any], Any]] = {
    operator.add: lambda builder, a, b: builder.add(a, b),
    operator.sub: lambda builder, a, b: builder.sub(a, b),
    operator.mul: lambda builder, a, b: builder.mul(a, b),
    operator.floordiv: _quotient,
    **{
        compare: partial(lambda sign, builder, a, b: builder.icmp_signed(sign, a, b), sign)
        for compare, sign in (
            (operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">="), (operator.eq, "=="),
            (operator.ne, "!="),
        )
    },
}  # fmt: skip
"""Operations on two int64, of which a kernel has hundreds: Numba would look for three ways to lower each. A quotient is
one of sizes; `floor_quotient` of the vocabulary is for what a network divides.
"""


class _Lower(Lower):
    def lower_binop(self, resty: Any, expr: Any, op: Any) -> Any:
        signature = self.fndesc.calltypes[expr]
        if op not in INTEGERS or tuple(signature.args) != (types.int64, types.int64):
            return super().lower_binop(resty, expr, op)
        operands = [
            self.context.cast(self.builder, self.loadvar(value.name), self.typeof(value.name), types.int64)
            for value in (expr.lhs, expr.rhs)
        ]
        power = getattr(self.typeof(expr.rhs.name), "literal_value", 0) if op is operator.floordiv else 0
        if power > 0 and power & (power - 1) == 0:
            result = self.builder.ashr(operands[0], operands[0].type(power.bit_length() - 1))
        else:
            result = INTEGERS[op](self.builder, *operands)
        return self.context.cast(self.builder, result, signature.return_type, resty)


@register_pass(mutates_CFG=True, analysis_only=False)
class _NativeLowering(BaseNativeLowering):
    _name = "convc_lowering"  # type: ignore[assignment]

    @property
    def lowering_class(self) -> type:
        """What lowers a function's statements."""
        return _Lower


PASSES = (
    TranslateByteCode, FixupArgs, IRProcessing, NopythonTypeInference, AnnotateTypes, _NativeLowering, NoPythonBackend,
)  # fmt: skip


class _Pipeline(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        passes = PassManager(TARGET)
        for one in PASSES:
            passes.add_pass(one, one.__name__)
        passes.finalize()
        return [passes]


class _Library(codegen.JITCodeLibrary):
    """Keeps the IR as text: it is parsed once, when the target machine is known."""

    text = ""

    def add_ir_module(self, ir_module: Any) -> None:
        self.text += cgutils.normalize_ir_text(str(ir_module))


class _Codegen(codegen.JITCPUCodegen):
    _library_class = _Library


class _Typing(BaseContext):
    def __init__(self) -> None:
        super().__init__()
        self._resolved: dict[Any, Any] = {}

    def load_additional_registries(self) -> None:
        """None: the builtins are there already."""

    def resolve_function_type(self, func: Any, args: Any, kws: Any) -> Any:
        """The signature of a call. Kernels make few different ones, each hundreds of times."""
        key = (func, args, tuple(kws.items()) if isinstance(kws, dict) else tuple(kws))
        found = self._resolved.get(key)
        if found is None:
            found = self._resolved[key] = super().resolve_function_type(func, args, kws)
        return found


class _Lowering(cpu.CPUContext):
    def init(self) -> None:
        super().init()
        self._internal_codegen = _Codegen(TARGET)

    def load_additional_registries(self) -> None:
        """Those of numbers, their functions and ranges."""
        from numba.cpython import builtins, mathimpl, numbers, rangeobj, tupleobj  # noqa: F401

        self.install_registry(mathimpl.registry)

    def post_lowering(self, mod: Any, library: Any) -> None:
        """Nothing to link: kernels own no memory."""


class _Target(registry.CPUTarget):
    _toplevel_typing_context = _Typing()

    def __init__(self) -> None:
        super().__init__(TARGET)
        self._toplevel_target_context = _Lowering(self.typing_context, TARGET)


class _Compiler(ccallback._CFuncCompiler):  # type: ignore[misc, name-defined]
    def _customize_flags(self, flags: Any) -> Any:
        flags = super()._customize_flags(flags)
        flags.no_cfunc_wrapper = True  # a wrapper that would report exceptions, of which there are none
        return flags


class _Hardware(target_extension.CPU):
    """A CPU by a name of its own: Numba looks up what it must load by the target's name."""


class _Dispatcher(registry.CPUDispatcher):
    """What Numba reaches the target through."""


def _no_python(*_args: Any, **_options: Any) -> None:
    raise TypeError("a kernel calls its vocabulary and Numba's integers, no functions written in Python")


@cache
def _target() -> _Target:
    target_extension.target_registry[TARGET] = _Hardware
    _Dispatcher.targetdescr = target = _Target()
    target_extension.dispatcher_registry[_Hardware] = _Dispatcher
    target_extension.jit_registry[_Hardware] = _no_python
    return target


def lower(function: Callable[..., None], arity: int) -> tuple[str, str]:
    """The IR of a function of `arity` int64, and its name there.

    By Numba's convention it is i32(i8** result, exception** raised, i64...), not 0 where it raised. Numba makes some
    100,000 objects of a kernel, next to none of them garbage yet: the collector need not look.
    """
    with global_compiler_lock, target_extension.target_override(TARGET), collector_off():
        result = _Compiler(function, _target(), {"error_model": "numpy"}, {}, pipeline_class=_Pipeline).compile(
            (types.int64,) * arity, types.void
        )
        return result.library.text, result.fndesc.mangled_name
