"""Object code to callable addresses in this process: llvmlite only, never Numba."""

from __future__ import annotations

from functools import cache
from typing import Any

from convc.backends.locks import ForkLock
from convc.errors import ModelError

_lock = ForkLock()
_engines: list[Any] = []
_addresses: dict[tuple[str, bytes], int] = {}


@cache
def initialize() -> None:
    """Prepare LLVM for this machine, once."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def link(name: str, code: bytes, digest: bytes) -> int:
    """The address of function `name` in object code; the same code is linked once a process."""
    import llvmlite.binding as llvm

    with _lock:
        found = _addresses.get((name, digest))
        if found is None:
            initialize()
            machine = llvm.Target.from_default_triple().create_target_machine()
            engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
            engine.add_object_file(llvm.ObjectFileRef.from_data(code))
            engine.finalize_object()
            found = int(engine.get_function_address(name))
            if not found:
                raise ModelError(f"object code has no function {name}", hint="load the file without trust_code")
            _engines.append(engine)
            _addresses[name, digest] = found
        return found
