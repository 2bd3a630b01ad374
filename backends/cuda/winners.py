"""What was measured to compute a convolution fastest on a GPU, by class of shapes.

A class takes together layers whose pixels, outputs and depth differ by less than a fifth or so. The project keeps a
table for each generation of GPUs (`winners_sm_90.json`), filled by `benchmarks/gpu.py --winners`; `tune=True` keeps
what it measures in the user's folder. Where a class is in neither, the model of `choice.py` decides.
"""

from __future__ import annotations

import json
import math as maths
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from convc.backends.cuda.choice import CANDIDATES, SPLITS
from convc.backends.cuda.spec import Math, Tile

Kind = Literal["plain", "window", "square", "scatter"]
STEPS_AN_OCTAVE = 2
"""Classes between a number and its double."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A layer as the choice sees it: rows, columns and depth of the product of each group. `kind`: "plain" 1x1,
    "window" of several taps, "square" where Winograd's form is possible, too, "scatter" for a transposed phase.
    """

    math: Math
    kind: Kind
    pixels: int
    outputs: int
    depth: int
    groups: int

    @property
    def key(self) -> str:
        """Its class."""
        numbers = (self.pixels, self.outputs, self.depth)
        places = (str(round(STEPS_AN_OCTAVE * maths.log2(max(number, 1)))) for number in numbers)
        return " ".join((self.math, self.kind, *places, str(self.groups)))


@dataclass(frozen=True, slots=True)
class Winner:
    """The tile, into how many parts K is split; `winograd`: by Winograd's kernels, whose tile the model chooses."""

    tile: Tile
    splits: int
    winograd: bool = False

    def to_json(self) -> list[int]:
        """Plain JSON values."""
        return [*astuple(self.tile), self.splits, int(self.winograd)]


def read_winners(found: Any) -> dict[str, Winner]:
    """Winners by class out of JSON that may come from anywhere: what no kernel could do is left out."""
    if not isinstance(found, Mapping):
        return {}
    result: dict[str, Winner] = {}
    for key, value in found.items():
        if isinstance(key, str) and isinstance(value, list) and len(value) == 8 and all(type(v) is int for v in value):
            winner = Winner(Tile(*value[:6]), value[6], value[7] == 1)
            if _is_known(key.split(" "), winner):
                result[key] = winner
    return result


def _is_known(facts: list[str], winner: Winner) -> bool:
    if len(facts) != 6 or winner.tile not in CANDIDATES.get(facts[0], ()) or winner.splits not in SPLITS:
        return False
    may_split, may_transform = facts[1] != "scatter", facts[1] == "square" and facts[0] == "f32"
    return (may_split or winner.splits == 1) and (may_transform or not winner.winograd)


@cache
def project_winners(arch: str) -> Mapping[str, Winner]:
    """The project's table for an architecture; without entries where nobody has measured."""
    path = Path(__file__).with_name(f"winners_{arch.rstrip('a')}.json")
    return read_winners(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
