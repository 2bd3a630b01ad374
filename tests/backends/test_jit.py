"""Emitted source to machine code: what may not be in it, and what it must not do to the sums of a tile."""

from __future__ import annotations

import gc
import math
import re

import numba
import pytest
from cpu_support import check

from convc.backends.cpu import conv_append, isa, jit
from convc.frontends.builder import Builder

DOUBLED = """def doubled(a, thread, threads):
    y = load_i64(a, 0)
    for i in range(thread, 16):
        store_i64(y, i, 2 * load_i64(y, i))
"""
CALLS = """def calls(a, thread, threads):
    print(a)
"""
X86 = [kind for kind in isa.ISAS.values() if kind.name in ("avx512", "avx2")]


def test_a_kernel_that_calls_python_is_refused() -> None:
    with pytest.raises(Exception, match="print"):
        jit.compile_object("calls", CALLS, isa.choose())


@pytest.mark.parametrize("source", [DOUBLED, CALLS])
@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_left_as_it_was(source: str, on: bool) -> None:
    was = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        name = source[4 : source.index("(")]
        if source == CALLS:
            with pytest.raises(Exception, match="print"):
                jit.compile_object(name, source, isa.choose())
        else:
            jit.compile_object(name, source, isa.choose())
        assert gc.isenabled() is on
    finally:
        (gc.enable if was else gc.disable)()


def test_numba_of_the_callers_own_goes_on_working() -> None:
    """Kernels are a target of their own beside the one that njit compiles for, before and after them."""
    def first(n: int) -> float:
        return sum([math.floor(i / 2) for i in range(n) if i != 3 and bool(i)])

    def second(n: int) -> float:
        total = 0.0
        for i in range(n):
            total += (i, 1.5)[1] * (i // 2) + abs(-i)
        return total

    assert numba.njit(first)(9) == first(9)
    assert jit.compile_object("doubled", DOUBLED, isa.choose())
    assert numba.njit(second)(9) == second(9)
    assert jit.compile_object("again", DOUBLED.replace("doubled", "again"), isa.choose())
    assert numba.njit(first)(7) == first(7)


def test_one_function_is_left_of_a_kernel() -> None:
    """What Numba lowered is part of the C function: no call between, nothing foreign declared."""
    text = jit.compile_llvm("doubled", DOUBLED, isa.choose())
    assert re.findall(r"^(?:define|declare).*@(\w+)\(", text, re.MULTILINE) == ["doubled"]


def tile_loop(rows: int, cols: int, lanes: int, steps: int) -> str:
    fma = "".join(
        f"        acc = tile_fma(acc, x + {4 * s}, 64, w + {s * cols * lanes * 4}, None, None)\n" for s in range(steps)
    )
    return (
        "def sums(a, thread, threads):\n"
        "    x = load_i64(a, 0)\n    w = load_i64(a, 1)\n    y = load_i64(a, 2)\n    end = load_i64(a, 3)\n"
        f"    acc = tile_zero({rows}, {cols}, {lanes})\n"
        "    while w < end:\n"
        f"{fma}"
        f"        w += {steps * cols * lanes * 4}\n        x += {4 * steps}\n"
        f"    points_store(acc, y, {rows * lanes * 4})\n"
    )


@pytest.mark.parametrize("kind", X86, ids=lambda kind: str(kind.name))
@pytest.mark.parametrize("steps", [2, 4])
def test_tiles_that_fill_the_registers_stay_in_them(kind: isa.Isa, steps: int) -> None:
    """The loop of multiply-adds has none of its vectors on the stack."""
    tiles = [(rows, cols) for rows, cols in kind.tiles if rows * cols + cols + 1 <= kind.registers]
    assert tiles
    for rows, cols in tiles:
        lines = jit.compile_assembly("sums", tile_loop(rows, cols, kind.lanes, steps), kind).splitlines()
        loop = _loop(lines)
        assert sum("vfmadd" in line for line in loop) == rows * cols * steps, (rows, cols)
        assert not [line for line in loop if re.search(r"^\tv\w+.*\(%rsp\)", line)], (rows, cols)


def _loop(lines: list[str]) -> list[str]:
    """The lines between the label of the loop that multiplies and the jump to it."""
    labels = {line.split(":")[0]: at for at, line in enumerate(lines) if line.startswith(".LBB")}
    for at, line in enumerate(lines):
        jump = re.match(r"\tj\w+\t(\.LBB\w+)", line)
        if jump and labels.get(jump[1], at) < at:
            loop = lines[labels[jump[1]] : at]
            if any("vfmadd" in one for one in loop):
                return loop
    raise AssertionError("no loop multiplies")


@pytest.mark.parametrize(("processor", "streams"), [("znver4", 1), ("sapphirerapids", 2), ("generic", 2)])
def test_weights_are_asked_for_as_the_processor_takes_them(
    processor: str, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one stream or two, of whole lines, and with the same sums."""
    monkeypatch.setattr(conv_append, "host_processor", lambda: processor)
    b = Builder("asked", seed=1)
    model = check(b.finish(b.conv(b.input("x", (2, 64, 9, 7)), 70, kernel=1)))
    (name,) = [step.kernel for step in model.program.steps if step.family == "conv"]
    source = model.program.kernels[name]
    assert [f"later + {stream} * stream" in source for stream in range(3)] == [stream < streams for stream in range(3)]
