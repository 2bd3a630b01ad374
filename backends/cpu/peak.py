"""The machine's multiply-add limit with an instruction set: a loop of independent multiply-adds in registers, timed."""

from __future__ import annotations

import time
from functools import cache

from convc.backends.aligned import aligned_bytes
from convc.backends.cpu.build import build_objects, link_objects
from convc.backends.cpu.driver import DRIVERS
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.team import Driver
from convc.backends.cpu.writer import Writer
from convc.backends.program import Ints
from convc.backends.store import store

CHAINS = 12
"""More than the 8 to 10 multiply-adds that processors have in flight; with one multiplier and one addend they fit in 16
registers."""
TURNS = 40_000
SECONDS = 0.05


def emit_peak(isa: Isa) -> tuple[str, str]:
    """`turns` times `CHAINS` multiply-adds, each chain on a register of its own."""
    out = Writer(f"f32_peak__{isa.name}", ["data", "turns"], f"{CHAINS} independent chains of multiply-adds")
    size = isa.lanes * 4
    out(f"factor = vec_load(data, {isa.lanes})", f"addend = vec_load(data + {size}, {isa.lanes})")
    out(*(f"sum{i} = vec_load(data + {(2 + i) * size}, {isa.lanes})" for i in range(CHAINS)))
    with out.block("for turn in range(turns)"):
        out(*(f"sum{i} = vec_fma(sum{i}, factor, addend)" for i in range(CHAINS)))
    out(*(f"vec_store(data + {(2 + i) * size}, sum{i})" for i in range(CHAINS)))
    return out.finish()


@cache
def multiply_adds_a_second(isa: Isa) -> float:
    """Multiply-adds of float32 that one core makes in a second, at best; measured once a process."""
    import numpy as np

    name, source = emit_peak(isa)
    code, _ = build_objects({name: source, **DRIVERS}, isa, store())
    addresses = link_objects(code)
    driver = Driver(*(addresses[one] for one in DRIVERS))
    clock = time.thread_time if time.get_clock_info("thread_time").resolution <= 1e-6 else time.perf_counter
    data = aligned_bytes((2 + CHAINS) * isa.lanes * 4)
    data.view(np.float32)[:] = 0.5
    arguments: Ints = np.array([data.ctypes.data, TURNS], np.int64)
    step: Ints = np.array([addresses[name], arguments.ctypes.data, 0], np.int64)
    best = float("inf")
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = clock()
        driver.walk(step.ctypes.data, 1, 0, 0, 1)
        best = min(best, clock() - start)
    return TURNS * CHAINS * isa.lanes / best
