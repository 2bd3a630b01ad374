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
    text = re.sub(r'"(target|tune)-(cpu|features)"="[^"]*"', "", text)
    if isa.tune:
        text = re.sub(r"^(define .*\)[^{]*) \{", rf'\1 "tune-cpu"="{isa.tune}" {{', text, flags=re.MULTILINE)
    text = re.sub(rf'@"?{re.escape(native)}"?(?=\W)', f"@{name}", text)
    module = llvm.parse_assembly(text)
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(cpu=isa.cpu, opt=3)
    module.triple = target.triple
    module.data_layout = str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    foreign = [f.name for f in module.functions if f.is_declaration and f.name.startswith(("Py", "numba_", "NRT_"))]
    if foreign:  # object code must run where there is no Numba, and without the interpreter's lock
        raise RuntimeError(f"kernel {name} calls {', '.join(foreign)}")
    return machine, module
