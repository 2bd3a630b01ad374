"""Instruction sets that kernels are emitted for, and which of them this machine runs."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache

from convc.errors import TargetError


@dataclass(frozen=True, slots=True)
class Isa:
    """An instruction set: float32 lanes and number of vector registers, and the LLVM processor that has it.

    `tune` names the processor whose scheduling model LLVM uses: of those for AVX-512, Sapphire Rapids' alone keeps the
    14x2 tile in registers; the others load pixels so early that 12 to 14 accumulators spill at every step.
    `tiles` are register tiles (pixels x blocks of lanes) that fit without spills: rows * cols accumulators, cols
    weights and one pixel. `unroll`: k-steps of a tile in one turn of its loop.
    """

    name: str
    lanes: int
    registers: int
    machine: str
    cpu: str
    needs: tuple[str, ...]
    tiles: tuple[tuple[int, int], ...]
    tune: str = ""
    unroll: int = 2


@dataclass(frozen=True, slots=True)
class Speed:
    """What a processor does in a cycle, as far as it decides what runs a convolution fastest: vectors of multiply-adds,
    bytes of weights that arrive from memory, from the third-level cache where they were read before, and from `near`,
    the second-level cache; and the share of the time which memory takes that is waited for, although weights were asked
    for while others were multiplied.

    Of the kernel for few tiles: `few_row`, cycles of a row of points of a 3 x 3 kernel (less where additions are made
    beside multiply-adds), and `few_waited`, as `waited`.
    """

    multiply_adds: float = 2.0
    weights: float = 4.0
    again: float = 4.0
    near: float = 14.0
    waited: float = 1.0
    few_row: float = 10.0
    few_waited: float = 0.0


TYPICAL = Speed()


ISAS: dict[str, Isa] = {
    "avx512": Isa(
        "avx512", 16, 32, "x86_64", "x86-64-v4", ("avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"),
        ((14, 2), (9, 3), (8, 3), (7, 3), (6, 4), (14, 1), (4, 6), (2, 8), (1, 12)),
        tune="sapphirerapids",
    ),
    "avx2": Isa(
        "avx2", 8, 16, "x86_64", "x86-64-v3", ("avx2", "fma"), ((6, 2), (4, 3), (7, 1), (3, 4), (2, 4), (1, 8)),
        unroll=4,
    ),
    "neon": Isa(
        "neon", 4, 32, "aarch64", "generic", ("neon",), ((7, 3), (6, 4), (14, 1), (12, 2), (4, 4), (1, 12))
    ),
    "portable": Isa("portable", 4, 16, "", "", (), ((6, 2), (4, 3), (7, 1), (2, 4), (1, 8))),
}  # fmt: skip


@cache
def host_features() -> frozenset[str]:
    """Features of this machine's processor, in LLVM's names."""
    import llvmlite.binding as llvm

    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


@cache
def host_processor() -> str:
    """This machine's processor, in LLVM's name."""
    import llvmlite.binding as llvm

    return str(llvm.get_host_cpu_name()) or "generic"


def one_stream(processor: str) -> bool:
    """Whether a processor, by LLVM's name, takes weights from memory soonest in one stream, as Zen does. Xeons follow
    several by themselves.
    """
    return processor.startswith("znver")


def speed_of(isa: Isa, processor: str) -> Speed:
    """Of a processor, by LLVM's name. Zen reads 27 GB/s; Zen 4 makes multiply-adds of 16 lanes in two halves."""
    if not processor.startswith("znver"):
        return TYPICAL
    if (isa.lanes, processor) == (16, "znver4"):
        return Speed(multiply_adds=1.0, weights=7.0, again=20.0, waited=0.5, few_row=6.0, few_waited=0.3)
    return Speed(weights=7.0, again=20.0, near=28.0, waited=0.5)


def available() -> tuple[str, ...]:
    """Instruction sets that this machine runs, best first."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    return tuple(
        isa.name
        for isa in ISAS.values()
        if isa.machine in {"", machine} and (isa.machine == "" or set(isa.needs) <= host_features())
    )


def choose(name: str = "") -> Isa:
    """The named instruction set, or the best that this machine runs. Raises TargetError."""
    present = available()
    if not name:
        return ISAS[present[0]]
    if name not in ISAS:
        raise TargetError(f"instruction set {name!r} is not known", hint=f"use one of {', '.join(ISAS)}")
    if name not in present:
        raise TargetError(f"this machine does not run {name}", hint=f"it runs {', '.join(present)}")
    return ISAS[name]
