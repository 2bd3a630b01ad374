"""Numba as a front end: a kernel's source to LLVM IR that nobody has optimised yet.

Kernels compute with integers and the vocabulary alone. So the typing context holds Numba's builtins and no NumPy, the
pipeline only the passes that lead from bytecode to IR, and LLVM optimises once, for the target machine, instead of
twice for the host: half the time of `numba.cfunc`, measured. Variables keep one type each: there is no SSA.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from numba import types
from numba.core import ccallback, codegen, cpu, registry
from numba.core.compiler import CompilerBase
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.typed_passes import (
    AnnotateTypes,
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
)
from numba.core.typing.context import BaseContext
from numba.core.untyped_passes import FixupArgs, IRProcessing, TranslateByteCode

PASSES = (
    TranslateByteCode, FixupArgs, IRProcessing, NopythonTypeInference, IRLegalization, AnnotateTypes, NativeLowering,
    NoPythonBackend,
)  # fmt: skip


class _Pipeline(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        passes = PassManager("convc")
        for one in PASSES:
            passes.add_pass(one, one.__name__)
        passes.finalize()
        return [passes]


class _Library(codegen.JITCodeLibrary):
    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def text(self) -> str:
        """The IR of all that has been added."""
        return str(self._final_module)


class _Codegen(codegen.JITCPUCodegen):
    _library_class = _Library


class _Typing(BaseContext):
    def load_additional_registries(self) -> None:
        """None: the builtins are there already."""


class _Lowering(cpu.CPUContext):
    def init(self) -> None:
        super().init()
        self._internal_codegen = _Codegen("convc")


class _Target(registry.CPUTarget):
    _toplevel_typing_context = _Typing()

    def __init__(self) -> None:
        super().__init__("cpu")
        self._toplevel_target_context = _Lowering(self.typing_context, "cpu")


@cache
def _target() -> _Target:
    return _Target()


def lower(function: Callable[..., None], arity: int) -> tuple[str, str]:
    """The IR of a function of `arity` int64, and the name of its C function there."""
    with global_compiler_lock:
        compiler = ccallback._CFuncCompiler(  # type: ignore[attr-defined]
            function, _target(), {"error_model": "numpy"}, {}, pipeline_class=_Pipeline
        )
        result = compiler.compile((types.int64,) * arity, types.void)
        return result.library.text(), result.fndesc.llvm_cfunc_wrapper_name
