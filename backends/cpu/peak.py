"""The machine's multiply-add limit with an instruction set: a loop of independent multiply-adds in registers, timed;
and one of a register tile whose operands are loaded.
"""

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
STEPS = 128
"""Steps of a tile whose weights and pixels fit the first-level cache."""
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


def emit_loaded(isa: Isa) -> tuple[str, str]:
    """`turns` times the instruction set's first register tile over `STEPS` steps, all from the first-level cache."""
    rows, cols = isa.tiles[0]
    vector = isa.lanes * 4
    out = Writer(f"f32_peak_loaded__{isa.name}", ["data", "turns"], f"a tile of {rows}x{cols}, operands loaded")
    out(f"sum = tile_bias(data, {rows}, {cols}, {isa.lanes})", f"weights = data + {STEPS // isa.lanes * rows * vector}")
    with out.block("for turn in range(turns)"):
        out("wp = weights")
        with out.block(f"for k in range({STEPS})"):
            out(f"at = data + (k // {isa.lanes}) * {rows * vector} + (k & {isa.lanes - 1}) * 4")
            out(f"sum = tile_fma(sum, at, {vector}, wp, None, None)", f"wp += {cols * vector}")
    out(f"points_store(sum, weights + {STEPS * cols * vector}, {rows * vector})")
    return out.finish()


class Loop:
    """A kernel that makes so many multiply-adds in each of its `turns`, on `size` bytes, ready to be timed."""

    def __init__(self, isa: Isa, kernel: tuple[str, str], size: int, turns: int, each: int) -> None:
        import numpy as np

        name, source = kernel
        code, _ = build_objects({name: source, **DRIVERS}, isa, store())
        addresses = link_objects(code)
        self._driver = Driver(*(addresses[one] for one in DRIVERS))
        self._data = aligned_bytes(size)
        self._data.view(np.float32)[:] = 0.5
        self._arguments: Ints = np.array([self._data.ctypes.data, turns], np.int64)
        self._step: Ints = np.array([addresses[name], self._arguments.ctypes.data, 0], np.int64)
        self._total = turns * each

    def run(self) -> float:
        """Multiply-adds a second of one run, in this thread's processor time where that is counted finely."""
        clock = time.thread_time if time.get_clock_info("thread_time").resolution <= 1e-6 else time.perf_counter
        start = clock()
        self._driver.walk(self._step.ctypes.data, 1, 0, 0, 1)
        return self._total / (clock() - start)

    def best(self) -> float:
        """Of runs for `SECONDS`, the fastest."""
        best, end = self.run(), time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            best = max(best, self.run())
        return best


@cache
def register_loop(isa: Isa) -> Loop:
    """Multiply-adds in registers alone: the machine's limit."""
    return Loop(isa, emit_peak(isa), (2 + CHAINS) * isa.lanes * 4, TURNS, CHAINS * isa.lanes)


@cache
def multiply_adds_a_second(isa: Isa) -> float:
    """Multiply-adds of float32 that one core makes in a second, at best; measured once a process."""
    return register_loop(isa).best()


@cache
def loaded_multiply_adds_a_second(isa: Isa) -> float:
    """The same with operands that come from the first-level cache, as a convolution's do at best.

    Processors may lower their clock where loads and multiply-adds of wide vectors meet: 235 and 205 GFLOP/s, measured,
    whatever the tile, and the loop without loads is as slow for a millisecond thereafter.
    """
    rows, cols = isa.tiles[0]
    size = (STEPS // isa.lanes * rows + STEPS * cols + rows * cols) * isa.lanes * 4
    return Loop(isa, emit_loaded(isa), size, TURNS // STEPS, STEPS * rows * cols * isa.lanes).best()
