"""What emitters and the choice of tiles know of a GPU. From data sheets; not fitted on a GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """What the model knows of an architecture; rates a clock and multiprocessor."""

    processors: int
    shared: int
    """Bytes that the blocks of a multiprocessor share, the largest block 1 KB less."""
    multiplies: dict[str, int]
    bytes_l2: float
    bytes_memory: float
    block: int = 1500
    """Clocks to start, fill the ring, and finish a block."""
    launch: int = 3000
    """Clocks of a further kernel in a graph."""
    registers: int = 65536
    threads: int = 2048

    def resident(self, threads: int, registers: int, shared: int) -> int:
        """Blocks that a multiprocessor holds at once; 0 where one does not fit."""
        most = self.registers // (-(-registers // 8) * 8 * threads)
        return min(most, self.shared // (shared + 1024), self.threads // threads)


MACHINES = {
    "sm_80": Machine(108, 163 * 1024, {"f32": 64, "tf32": 512, "f16": 1024, "bf16": 1024}, 36.0, 10.2),
    "sm_90": Machine(132, 227 * 1024, {"f32": 128, "tf32": 640, "f16": 1280, "bf16": 1280}, 32.0, 18.0),
}


def machine(arch: str) -> Machine:
    """The machine of an architecture; consumer parts count as sm_80 with less."""
    return MACHINES["sm_90" if arch.startswith(("sm_9", "sm_10")) else "sm_80"]
