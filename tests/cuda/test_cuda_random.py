"""Random networks for CUDA, executed in lock step: joins, picks, shuffles and residuals in every combination."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from cuda_support import check_lockstep
from support import random_inputs


def _maker() -> Any:
    """The maker of random networks that the CPU is tested with."""
    path = Path(__file__).parent.parent / "backends" / "test_random_networks.py"
    spec = importlib.util.spec_from_file_location("random_networks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Maker


MAKER = _maker()
QUICK = 24


@pytest.mark.parametrize(
    "seed", [*range(QUICK), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(QUICK, 120))]
)
def test_random_networks_in_lock_step(seed: int) -> None:
    graph = MAKER(seed).graph()
    passes = ("none", "default")[seed % 2]
    check_lockstep(graph, random_inputs(graph, seed), passes=passes, tolerance=1e-4)
