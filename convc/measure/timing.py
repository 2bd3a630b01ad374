"""Timing in turns, and the figures of what was timed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from convc.collector import collector_off

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
SETTLE_SECONDS = 0.04
"""Other engines' idle threads spin for a while after an inference (27 ms, measured), beside the next contestant."""
TURN_SECONDS = 0.02
"""Of timed runs after each such rest."""


@dataclass(frozen=True)
class Figures:
    """Seconds of one inference over many runs; `percentiles` by their number; `throughput` in items a second."""

    runs: int
    min: float
    median: float
    mean: float
    max: float
    percentiles: Mapping[str, float]
    throughput: float

    @staticmethod
    def of(samples: Sequence[float], *, items: int = 1, percentiles: Sequence[float] = PERCENTILES) -> Figures:
        """The figures of samples in seconds, each an inference over `items` items."""
        found = np.asarray(samples, np.float64)
        mean = float(found.mean())
        return Figures(
            len(found), float(found.min()), float(np.median(found)), mean, float(found.max()),
            {f"{p:g}": float(np.percentile(found, p)) for p in percentiles}, items / mean if mean else 0.0,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; times in seconds."""
        return asdict(self)


@dataclass(frozen=True)
class Budget:
    """How long to measure: turns for nothing, then until `seconds` a contestant and `runs` turns are both met."""

    warmup: int = 3
    seconds: float = 1.0
    runs: int = 5


def race(
    contestants: Mapping[str, Callable[[], object]],
    budget: Budget,
    *,
    settle: bool = False,
    tell: Callable[[str, int, int], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every run of each contestant, in turns A B A B, so that a machine that drifts treats all alike.

    With `settle`, each turn rests for a moment, runs once untimed, and then as often as fits `TURN_SECONDS`. `tell`
    gets (stage, done, total).
    """
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    each = 0.0
    for _ in range(budget.warmup):
        start = time.perf_counter()
        for run in contestants.values():
            run()
        each = (time.perf_counter() - start) / max(len(contestants), 1)
    runs = max(int(TURN_SECONDS / each), 1) if settle and each else 1
    total = budget.seconds * len(contestants)
    turns = 0
    gc.collect()
    with collector_off():
        begin = time.perf_counter()
        while turns < budget.runs or time.perf_counter() - begin < total:
            for name, run in contestants.items():
                if settle:
                    time.sleep(SETTLE_SECONDS)
                    run()
                for _ in range(runs):
                    start = time.perf_counter()
                    run()
                    samples[name].append(time.perf_counter() - start)
            turns += 1
            if tell is not None:
                share = min((time.perf_counter() - begin) / total if total else 1.0, turns / max(budget.runs, 1))
                tell("measuring", int(min(share, 1.0) * 100), 100)
    return samples


__all__ = ["PERCENTILES", "Budget", "Figures", "race"]
