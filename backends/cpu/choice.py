"""What runs a convolution, where there is a choice: the algorithm and the register tile, by predicted cycles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from typing import Any

from convc.backends.cpu import conv, winograd_few, winograd_plan
from convc.backends.cpu.isa import TYPICAL, Isa, Speed
from convc.backends.cpu.phases import Phases
from convc.backends.cpu.winograd_points import Form, forms_of

WORTH = 1.6
"""Times the cycles of the first: what is predicted to take longer is not measured."""
MOST = 5
"""Candidates of one convolution."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Winograd's form, or None for the direct sum, in tiles of rows x cols; `few`: as the kernel for few tiles."""

    form: Form | None
    rows: int
    cols: int
    few: bool = False

    def to_json(self) -> list[int]:
        """Plain JSON values: [rows, cols, few], and the form's tile and kernel where there is one."""
        return [self.rows, self.cols, int(self.few), *(astuple(self.form) if self.form is not None else ())]


def few_tiles(isa: Isa, form: Form) -> Choice:
    """The kernel for few tiles, which knows one register tile alone."""
    return Choice(form, winograd_few.together(isa, form), 1, True)


def read_choices(found: Any, isa: Isa) -> dict[str, Choice]:
    """Choices by name out of JSON that may come from anywhere: what does not fit the instruction set is left out."""
    if not isinstance(found, Mapping):
        return {}
    result: dict[str, Choice] = {}
    for name, value in found.items():
        if isinstance(value, list) and len(value) in {3, 7} and all(type(part) is int for part in value):
            rows, cols, few, *facts = value
            form = Form(*facts) if facts else None
            choice = Choice(form, rows, cols, few == 1)
            if few in {0, 1} and _is_known(choice, isa):
                result[str(name)] = choice
    return result


def _is_known(choice: Choice, isa: Isa) -> bool:
    form = choice.form
    if form is not None and form not in forms_of((form.height, form.breadth)):
        return False
    if choice.few:
        return form in forms_of(winograd_few.KERNEL) and choice == few_tiles(isa, form)
    return (choice.rows, choice.cols) in isa.tiles


@dataclass(frozen=True, slots=True)
class Facts:
    """What the prediction depends on, at nominal sizes: output of `height` x `width`, `kernel` of (rows, columns) over
    `channels` that lie in `planes`, `blocks` of output channels. `apart`: pixels between taps where Winograd's form is
    possible, else 0; `phases`: of the input, on which it is, then in `planes`.
    """

    images: int
    height: int
    width: int
    planes: int
    channels: int
    kernel: tuple[int, int]
    blocks: int
    flat: bool
    apart: int
    phases: Phases | None = None

    @staticmethod
    def of(
        shape: Sequence[int], planes: int, channels: int, kernel: tuple[int, int], blocks: int, flat: bool, apart: int,
        phases: Phases | None = None,
    ) -> Facts:  # fmt: skip
        """Of an output [N, K, H, W]."""
        images, _, height, width = shape
        return Facts(images, height, width, planes, channels, kernel, blocks, flat, apart, phases)

    @property
    def taps(self) -> tuple[int, int]:
        """Of the kernel that Winograd's form is for."""
        return self.kernel if self.phases is None else self.phases.taps

    def terms(self, form: Form, few: bool) -> float:
        """Channels at a point of a form, on average: a phase has none where its kernels are 0."""
        if self.phases is None:
            return self.channels
        every = self.channels * self.phases.count
        return every if few else every * float(self.phases.present(form).mean())

    @property
    def count(self) -> int:
        """Terms of a sum."""
        return self.channels * self.kernel[0] * self.kernel[1]


@cache
def candidates(isa: Isa, facts: Facts, speed: Speed = TYPICAL) -> Sequence[tuple[Choice, float]]:
    """Choices and their cycles on a processor, the fastest first."""
    lines, pixels = max(facts.images * facts.height, 1), max(facts.width, 1)
    if facts.flat:
        lines, pixels = 1, lines * pixels
    weights = facts.count * facts.blocks * isa.lanes * 4 / speed.weights
    tiles = [tile for tile in isa.tiles if tile[1] <= facts.blocks] or [(isa.tiles[-1][0], 1)]
    found: list[tuple[Choice, float]] = []
    for tile in tiles:
        steps = conv.tile_cycles(isa, tile, facts.blocks, max(facts.count, 1), pixels, lines, speed)
        found.append((Choice(None, *tile), facts.count * steps + weights))
    for form in forms_of(facts.taps) if facts.apart and facts.count else ():
        grid = winograd_plan.Grid.of(form, facts.images, facts.height, facts.width, facts.apart)
        few = [few_tiles(isa, form)] if facts.taps == winograd_few.KERNEL else []
        for choice in (*(Choice(form, *tile) for tile in tiles), *few):
            plan = winograd_plan.plan_best(
                isa, form, (choice.rows, choice.cols), facts.planes, facts.terms(form, choice.few), facts.blocks, grid,
                few=choice.few, speed=speed,
            )  # fmt: skip
            found.append((choice, plan.cycles))
    found.sort(key=lambda one: (one[1], one[0].rows))
    return tuple(one for one in found if one[1] <= WORTH * found[0][1])[:MOST]
