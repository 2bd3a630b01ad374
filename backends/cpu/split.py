"""How a convolution is cut among threads.

What a core reads that another has written, and what it writes where another has read, crosses between them: 4.3 GB/s
measured on a machine whose third-level cache gives 20. Where every step cuts the rows of its maps alike, only the rows
at the cuts cross, and each thread reads all weights; where output channels are cut, each thread reads its weights, and
all inputs cross. Both are combined where threads are many.
"""

from __future__ import annotations

from dataclasses import dataclass

from convc.backends.cpu.isa import TYPICAL

APART_BYTES_A_CYCLE = 1.2
"""What crosses between two cores."""
WEIGHT_BYTES_A_CYCLE = TYPICAL.weights
"""What a stream of weights from memory reaches on a typical processor: 13 GB/s a core, of which hardly any passes while
the tiles multiply.
"""


@dataclass(frozen=True, slots=True)
class Work:
    """A convolution: tiles of pixels, tiles of output channels; bytes of weights, of what is read and of what is
    written; cycles of all multiply-adds.
    """

    pixels: int
    channels: int
    weights: float
    read: float
    written: float
    cycles: float


def crossing_cycles(read: float, written: float, parts: int, threads: int) -> float:
    """Cycles for what crosses on the way to one of `threads` threads, where channels are cut into `parts`."""
    if parts == 1:
        return 0.0
    return (read * parts / threads * (1 - 1 / parts) + written / threads) / APART_BYTES_A_CYCLE


def misplaced(pieces: int, threads: int) -> float:
    """The largest part of all rows that a thread's share of `pieces` equal pieces lies off its share of the rows."""
    return max(abs(pieces * thread // threads / pieces - thread / threads) for thread in range(threads))


def pixel_parts(work: Work, threads: int) -> int:
    """Parts into which the pixels are cut: a divisor of `threads`; the threads of each part share its channels."""

    def cycles(parts: int) -> float:
        tiles = -(-parts * work.channels // threads)
        share = tiles * -(-work.pixels // parts) / (work.pixels * work.channels)
        weights = min(tiles / work.channels, 1.0) * work.weights / WEIGHT_BYTES_A_CYCLE
        return share * work.cycles + weights + crossing_cycles(work.read, work.written, threads // parts, threads)

    return min((parts for parts in range(threads, 0, -1) if threads % parts == 0), key=cycles)
