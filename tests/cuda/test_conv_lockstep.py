"""The implicit-GEMM kernels, executed in lock step, against float64; and faults planted in their source."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kernel_support import MATHS, Layer, check, run_conv, run_launch, spec_of, to_memory

from convc.backends.cuda import conv, conv_launch
from convc.backends.cuda.lockstep import LockstepError
from convc.backends.cuda.spec import ConvSizes, ConvSpec, Epilogue, Tile
from convc.errors import LimitError

RAGGED = {
    "3x3": Layer(height=7, width=9, channels=20, outputs=37),
    "stem": Layer(2, 9, 8, 3, 10, (7, 7), (2, 2), (3, 3, 3, 3)),
    "asymmetric": Layer(1, 6, 9, 6, 5, (1, 7), (1, 1), (0, 3, 0, 3)),
    "uneven padding and stride": Layer(2, 8, 7, 5, 9, (3, 2), (2, 3), (0, 1, 2, 0)),
    "dilated": Layer(1, 9, 9, 9, 6, (3, 3), (1, 1), (2, 3, 2, 3), (2, 3)),
    "one pixel": Layer(3, 1, 1, 70, 33, (1, 1), (1, 1), (0, 0, 0, 0)),
    "larger than the image": Layer(1, 3, 2, 5, 4, (5, 5), (1, 1), (2, 2, 2, 2)),
}


@pytest.mark.parametrize("layer", RAGGED.values(), ids=RAGGED)
@pytest.mark.parametrize("math", MATHS)
def test_ragged_shapes(math: str, layer: Layer) -> None:
    check(run_conv(spec_of(math, activation="relu"), replace(layer, extra=1)), math)


@pytest.mark.parametrize("math", MATHS)
def test_pointwise_reads_pixels_as_one_run(math: str) -> None:
    layer = Layer(2, 5, 7, 36, 66, (1, 1), (1, 1), (0, 0, 0, 0), extra=2)
    check(run_conv(spec_of(math, window=False, residual=True, activation="silu"), layer), math)


@pytest.mark.parametrize("math", MATHS)
def test_a_strided_pointwise_needs_the_window(math: str) -> None:
    check(run_conv(spec_of(math), Layer(1, 7, 8, 9, 12, (1, 1), (2, 2), (0, 0, 0, 0))), math)


@pytest.mark.parametrize("math", MATHS)
def test_groups_and_a_permutation_of_the_outputs(math: str) -> None:
    check(run_conv(spec_of(math, residual=True, lanes=True), Layer(groups=3, channels=5, outputs=7, extra=1)), math)
    check(run_conv(spec_of(math), Layer(groups=2, channels=9, outputs=8)), math)


@pytest.mark.parametrize("math", MATHS)
@pytest.mark.parametrize("splits", [2, 5])
def test_parts_of_k_are_added_in_order(math: str, splits: int) -> None:
    """Five splits of a K of three or fewer steps: some have nothing to do."""
    spec = spec_of(math, partial=True, residual=True, activation="clip")
    check(run_conv(spec, Layer(channels=10, outputs=9, splits=splits, extra=1)), math)


def test_an_epilogue_without_bias_and_conversions_of_the_output() -> None:
    check(run_conv(spec_of("f16", bias=False, output="f32"), Layer()), "f16")
    check(run_conv(spec_of("bf16", output="f32"), Layer()), "bf16")
    assert run_conv(spec_of("tf32", output="f32"), Layer()).error < 2e-6


@pytest.mark.parametrize("math", ["f32", "tf32", "f16"])
def test_large_tiles_without_bank_conflicts(math: str) -> None:
    """128 x 128, rows of 128 bytes: every request of shared memory is served at once."""
    tile = Tile(128, 128, 64 if math == "f16" else 32, 64, 32, 2 if math == "f32" else 3)
    outcome = run_conv(ConvSpec(math, tile, epilogue=Epilogue(output="f32")), Layer(1, 9, 9, 12, 40))
    assert outcome.error < 2e-6
    assert set(outcome.ran[0].conflicts.values()) == {1}


@pytest.mark.parametrize("math", ["f32", "f16"])
def test_a_transposed_convolution_is_a_convolution_for_each_phase(math: str) -> None:
    """2x2 with stride 2: output pixel (2 i + a, 2 j + b) is x[i, j] times tap (a, b)."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 3, 4, 8)), rng.standard_normal((1, 8, 4, 8)) / 6
    spec = replace(spec_of(math, output="f32", bias=False), scatter=True)
    y = np.full((1, 6, 8, 8), np.nan, np.float32)
    exact_x, exact_w = to_memory(x, math).astype(float), to_memory(w, math).astype(float)
    for a in range(2):
        for b in range(2):
            sizes = ConvSizes(1, 3, 4, 8, 8, 3, 4, 8, 8, y_strides=(6 * 8 * 8, 2 * 8 * 8, 2 * 8))
            buffers = {
                "x": to_memory(x, math), "taps": conv_launch.pack_taps(spec, sizes),
                "w": conv_launch.pack_weights(spec, w[:, :, [2 * a + b]]), "y": y.reshape(-1)[(a * 8 + b) * 8 :],
            }  # fmt: skip
            run_launch(conv.emit(spec)[1], conv_launch.launch(spec, sizes), buffers)
    want = np.einsum("nhwc,oabc->nhawbo", exact_x, exact_w[0].reshape(8, 2, 2, 8)).reshape(y.shape)
    np.testing.assert_allclose(y, want, atol=1e-5)


def test_an_image_gives_the_same_bits_anywhere_in_a_batch() -> None:
    spec = spec_of("tf32", activation="relu")
    alone = run_conv(spec, Layer(1, 6, 5, 9, 13))
    assert np.array_equal(alone.got, run_conv(spec, Layer(1, 6, 5, 9, 13)).got)


def test_indices_that_do_not_fit_in_32_bits_are_refused() -> None:
    """The scattered output of a large transposed convolution is counted once, not once a pixel."""
    for spec in (spec_of("f32"), spec_of("f32", partial=True)):
        with pytest.raises(LimitError, match=r"a convolution of \d+ elements\. Hint: use a smaller batch"):
            conv_launch.launch(spec, ConvSizes(64, 1024, 1024, 32, 32, 1024, 1024, 32, 32, offsets=((0, 0), (0, 1))))
    whole = 2048 * 2048 * 8
    sizes = ConvSizes(2, 1024, 1024, 8, 8, 1024, 1024, 8, 8, y_strides=(whole, 2 * 2048 * 8, 16))
    assert conv_launch.launch(replace(spec_of("f32"), scatter=True), sizes).grid[0] == 2 * 1024 * 1024 // 32


def replaced(old: str, new: str) -> Callable[[str], str]:
    def edit(source: str) -> str:
        assert re.search(old, source), old
        return re.sub(old, new, source, count=1)

    return edit


FAULTS = {
    "one group of copies too few is waited for": (r"wait\(1\)", "wait(2)", "not waited for"),
    "no barrier before a slot is read": (r"(        wait\(1\)\n)        barrier\(\)\n", r"\1", "barrier missing"),
    "no barrier before the sums are read": (r"    barrier\(\)\n    er = ", "    er = ", "barrier missing"),
    "the ring is reused too early": (r"    wait\(0\)\n    barrier\(\)\n", "", "in flight|barrier missing"),
    "an index off by one row": (r"x0 \+ off\)", "x0 + off + x_row)", ""),
    "an index off by one element": (r"x0 \+ off\)", "x0 + off + 1)", "misaligned"),
    "a tap's row is not checked": (r"inside\(ih0 \+ dh, height\) & ", "", "out of bounds"),
    "a pixel beyond the last is stored": (r"inside\(m0, pixels\)", "inside(m0, pixels + 1)", "out of bounds"),
    "outputs beyond the last are stored": (r"inside\(col, padded_outputs\)", "inside(col, 64)", "out of bounds|twice"),
    "a store is left out": (r"ok0 = some & ", "ok0 = some & (col > 0) & ", ""),
    "weights beyond the last are read": (r"wanted1 = inside\(n, outputs\)", "wanted1 = inside(n, 64)", "out of bounds"),
    "a slot is written while it is read": (r"(rd == \d+, )0", r"\g<1>16", ""),
    "a branch on the thread": (r"while row < (\d+)", r"while row < \1 + lane", "branches"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_caught(fault: tuple[str, str, str]) -> None:
    """Lock step refuses the kernel with `message`; where that is empty, it does, or the result is wrong."""
    old, new, message = fault
    spec, layer = spec_of("tf32"), Layer(1, 7, 6, 24, 20)
    check(run_conv(spec, layer), "tf32")
    if message:
        with pytest.raises(LockstepError, match=message):
            run_conv(spec, layer, replaced(old, new))
        return
    try:
        outcome = run_conv(spec, layer, replaced(old, new))
    except LockstepError:
        return
    with pytest.raises(AssertionError):
        check(outcome, "tf32")
