"""The choice of tiles: what fits, what the model prefers, and that candidates are sound."""

from __future__ import annotations

import pytest
from kernel_support import MATHS

from convc.backends.cuda import choice, conv
from convc.backends.cuda.spec import ConvSpec, Epilogue, Tile


@pytest.mark.parametrize("math", MATHS)
def test_every_candidate_can_be_emitted_and_fits(math: str) -> None:
    """16-bit outputs take 8 lanes a thread, float32 4: tiles must divide in both."""
    for tile in choice.CANDIDATES[math]:
        for output in ("f32", "f16"):
            conv.emit(ConvSpec(math, tile, epilogue=Epilogue(output=output)))  # type: ignore[arg-type]
        for arch in ("sm_80", "sm_90a"):
            assert conv.resident(ConvSpec(math, tile), choice.machine(arch)) >= 1  # type: ignore[arg-type]


def test_few_pixels_are_split_many_are_not() -> None:
    few = choice.choose("tf32", 49, 512, 4608)
    many = choice.choose("tf32", 256 * 49, 512, 4608)
    assert few.splits > 1 and many.splits == 1
    assert choice.choose("tf32", 49, 512, 4608, split=False).splits == 1
    assert many.tile.bm * many.tile.bn > few.tile.bm * few.tile.bn or few.splits >= 8


def test_more_work_never_takes_less_time() -> None:
    for math in ("f32", "tf32", "f16"):
        times = [choice.choose(math, n * 784, 256, 1152).clocks for n in (1, 8, 32, 256)]  # type: ignore[arg-type]
        assert times == sorted(times)


def test_a_tile_that_does_not_fit_is_never_chosen() -> None:
    huge = Tile(256, 128, 64, 64, 64, 8)
    assert conv.resident(ConvSpec("f16", huge), choice.machine("sm_80")) == 0
    assert choice.clocks(huge, "f16", 10**6, 512, 512, 1, 1, choice.machine("sm_80")) == float("inf")
