from __future__ import annotations

import pytest

from convc.backends.cpu import isa
from convc.backends.cpu.peak import loaded_multiply_adds_a_second, multiply_adds_a_second
from convc.backends.cpu.split import Work, crossing_cycles, misplaced, pixel_parts


def conv(pixels: int, channels: int, inputs: int, outputs: int, area: int) -> Work:
    return Work(
        pixels,
        channels,
        inputs * outputs * 4.0,
        inputs * area * 4.0,
        outputs * area * 4.0,
        inputs * outputs * area / 32,
    )


def test_one_thread_cuts_nothing() -> None:
    assert pixel_parts(conv(26, 23, 728, 728, 361), 1) == 1


def test_rows_are_cut_where_weights_are_few_and_channels_where_they_are_many() -> None:
    assert pixel_parts(conv(26, 23, 728, 728, 361), 2) == 2
    assert pixel_parts(conv(4, 64, 512, 2048, 49), 2) == 1


def test_what_has_one_tile_of_pixels_is_cut_by_channels() -> None:
    assert pixel_parts(conv(1, 64, 64, 2048, 1), 4) == 1


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 6, 7, 16])
def test_parts_divide_the_threads(threads: int) -> None:
    for work in (conv(26, 23, 728, 728, 361), conv(4, 16, 512, 512, 49), conv(7, 4, 64, 128, 3136)):
        assert threads % pixel_parts(work, threads) == 0


def test_nothing_crosses_where_only_rows_are_cut() -> None:
    assert crossing_cycles(1e6, 1e6, 1, 8) == 0.0
    assert crossing_cycles(1e6, 1e6, 2, 2) > 0.0


@pytest.mark.parametrize(
    ("pieces", "threads", "off"), [(2, 2, 0.0), (4, 2, 0.0), (3, 2, 1 / 6), (1, 2, 0.5), (5, 1, 0.0)]
)
def test_pieces_off_their_rows(pieces: int, threads: int, off: float) -> None:
    assert misplaced(pieces, threads) == pytest.approx(off)


def test_both_limits_are_of_one_size() -> None:
    one = isa.choose()
    loaded, registers = loaded_multiply_adds_a_second(one), multiply_adds_a_second(one)
    assert 0.2 * registers < loaded < 1.5 * registers  # processors change their clock in between
