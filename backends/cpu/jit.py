"""Emitted source to object code: Numba types and lowers it, LLVM optimises it and emits the object.

Numba's own code generation is fixed to the host; a target machine gives true AVX2 code on an AVX-512 machine.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

from convc.backends.cpu.isa import ISAS, Isa
from convc.backends.locks import ForkLock

WARNINGS = ForkLock()
"""Held where the process's warning filters are changed or a warning must not be lost; filters are not a thread's."""


def compile_object(name: str, source: str, isa: Isa) -> bytes:
    """The object code of one kernel: a C function `name`(int64 args, int64 thread, int64 threads)."""
    machine, module = _lower(name, source, isa)
    return bytes(machine.emit_object(module))


def compile_one(name: str, source: str, target: str) -> bytes:
    """`compile_object` for an instruction set by name: what another process calls."""
    return compile_object(name, source, ISAS[target])


def compile_assembly(name: str, source: str, isa: Isa) -> str:
    """The assembly of one kernel, to read."""
    machine, module = _lower(name, source, isa)
    return str(machine.emit_assembly(module))


def compile_llvm(name: str, source: str, isa: Isa) -> str:
    """The LLVM IR of one kernel, as the target machine gets it, to read."""
    return str(_lower(name, source, isa)[1])


def _lower(name: str, source: str, isa: Isa) -> tuple[Any, Any]:
    import llvmlite.binding as llvm

    from convc.backends.cpu import numba_ir, primitives, runtime_primitives, squares, tiles, vecmath
    from convc.backends.cpu import winograd_primitives as winograd
    from convc.backends.cpu.link import initialize

    initialize()
    parts = (primitives, tiles, squares, vecmath, winograd, runtime_primitives)
    space: dict[str, Any] = {name: one for part in parts for name, one in part.VOCABULARY.items()}
    exec(compile(source, f"<kernel {name}>", "exec"), space)
    arity = source[source.index("(") + 1 : source.index(")")].count(",") + 1
    with WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text, native = numba_ir.lower(space[name], arity)
    module = llvm.parse_assembly(_callable(name, arity, text, native, isa.tune))
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(cpu=isa.cpu, opt=3)
    module.triple = target.triple
    module.data_layout = str(machine.target_data)
    _optimise(module, machine)
    foreign = [f.name for f in module.functions if f.is_declaration and f.name.startswith(("Py", "numba_", "NRT_"))]
    if foreign:  # object code must run where there is no Numba, and without the interpreter's lock
        raise RuntimeError(f"kernel {name} calls {', '.join(foreign)}")
    return machine, module


def _optimise(module: Any, machine: Any) -> None:
    """LLVM's simplification of functions. What its module pipeline adds at the same level, vectors and unrolling above
    all, has nothing to do in kernels that are written in vectors and unrolled where it pays: 0.99 to 1.02 of the
    speed over 14 networks, for a fifth more time.
    """
    import llvmlite.binding as llvm

    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=1))
    inline = llvm.create_new_module_pass_manager()
    inline.add_always_inliner_pass()
    inline.add_global_dead_code_eliminate_pass()
    inline.run(module, builder)
    simplify = builder.getFunctionPassManager()
    for function in module.functions:
        if not function.is_declaration:
            simplify.run(function, builder)
    strip = llvm.create_new_module_pass_manager()
    strip.add_strip_dead_prototype_pass()
    strip.run(module, builder)


def _callable(name: str, arity: int, text: str, native: str, tune: str) -> str:
    """IR in which `native`, which Numba lowered, is part of a C function `name` of `arity` int64."""
    body, found = re.subn(
        rf'^define i32 (@"{re.escape(native)}"\(.*\))\s*$', r"define internal i32 \1 alwaysinline", text, flags=re.M
    )
    assert found == 1, native
    numbers = ", ".join(f"i64 %n{i}" for i in range(arity))
    raised = "{i8*, i32, i8*, i8*, i32}*"
    tuned = f'"tune-cpu"="{tune}" ' if tune else ""
    # LLVM finds that no kernel raises; what is left of one that might is found among the foreign functions.
    return f"""{body}
declare void @numba_exception()
define void @{name}({numbers}) {tuned}{{
  %result = alloca i8*
  %raised = alloca {raised}
  %status = call i32 @"{native}"(i8** %result, {raised}* %raised, {numbers})
  %raises = icmp ne i32 %status, 0
  br i1 %raises, label %report, label %done
report:
  call void @numba_exception()
  ret void
done:
  ret void
}}
"""
