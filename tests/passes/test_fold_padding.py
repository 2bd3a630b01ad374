from __future__ import annotations

import pytest
from support import assert_refuses, assert_rewrites

from convc.passes import PASSES

PASS = PASSES["fold_padding"]


def net(pad: str, window: str, extra: str = "", outputs: str = "%y") -> str:
    return f"""
        %x = input : f32[2, 4, 7, 8]
        %w = constant normal(seed=1) : f32[4, 4, 3, 3]
        %p = pad(%x) {pad}
        %y = {window}
        {extra}
        return {outputs}, %w
        """


def after(window: str) -> str:
    return f"""
        %x = input : f32[2, 4, 7, 8]
        %w = constant ... : f32[4, 4, 3, 3]
        %y = {window}
        return %y, %w
        """


ZEROS = "{before=[0, 0, 1, 2], after=[0, 0, 3, 1]}"


@pytest.mark.parametrize(
    ("window", "wanted"),
    [
        ("conv2d(%p, %w)", "conv2d(%x, %w) {padding=[1, 2, 3, 1]}"),
        (
            "conv2d(%p, %w) {stride=[2, 1], padding=[1, 0, 1, 2], dilation=[2, 1]}",
            "conv2d(%x, %w) {stride=[2, 1], padding=[2, 2, 4, 3], dilation=[2, 1]}",
        ),
        (
            "avg_pool2d(%p) {kernel=[4, 4], stride=[2, 2]}",
            "avg_pool2d(%x) {kernel=[4, 4], stride=[2, 2], padding=[1, 2, 3, 1], count_include_pad=true}",
        ),
        (
            "avg_pool2d(%p) {kernel=[5, 4], padding=[1, 1, 1, 1], count_include_pad=true}",
            "avg_pool2d(%x) {kernel=[5, 4], padding=[2, 3, 4, 2], count_include_pad=true}",
        ),
    ],
)
def test_zeros_move_into_the_window(window: str, wanted: str) -> None:
    assert_rewrites(PASS, net(ZEROS, window), after(wanted), rules=["fold_padding"])


def test_minus_infinity_moves_into_max_pool() -> None:
    assert_rewrites(
        PASS,
        net("{before=[0, 0, 1, 1], after=[0, 0, 0, 1], value=-inf}", "max_pool2d(%p) {kernel=[3, 3], stride=[2, 2]}"),
        after("max_pool2d(%x) {kernel=[3, 3], stride=[2, 2], padding=[1, 1, 0, 1]}"),
    )


def test_other_users_keep_the_pad() -> None:
    assert_rewrites(
        PASS,
        net(ZEROS, "conv2d(%p, %w)", "%z = relu(%p)", "%y, %z"),
        """
        %x = input : f32[2, 4, 7, 8]
        %w = constant ... : f32[4, 4, 3, 3]
        %p = pad(%x) {before=[0, 0, 1, 2], after=[0, 0, 3, 1]}
        %y = conv2d(%x, %w) {padding=[1, 2, 3, 1]}
        %z = relu(%p)
        return %y, %z, %w
        """,
    )


@pytest.mark.parametrize(
    ("pad", "window", "reason"),
    [
        ('{before=[0, 0, 1, 1], after=[0, 0, 1, 1], mode="reflect"}', "conv2d(%p, %w)", "%p pads in reflect mode"),
        ("{before=[0, 0, 1, 1], after=[0, 0, 1, 1], value=0.5}", "conv2d(%p, %w)", "%p pads by 0.5"),
        ("{before=[1, 0, 1, 1], after=[0, 0, 1, 1]}", "conv2d(%p, %w)", "batch or channel"),
        ("{before=[0, 0, -1, 1], after=[0, 0, 1, 1]}", "conv2d(%p, %w)", "%p crops"),
        (ZEROS, "conv2d(%p, %w) {prologue=sigmoid}", "%y maps what %p pads"),
        (ZEROS, "max_pool2d(%p) {kernel=[4, 4]}", "%p pads by 0.0, and max_pool2d pads by -inf"),
        (ZEROS, "avg_pool2d(%p) {kernel=[4, 4], padding=[1, 1, 1, 1]}", "counts the padding of %p and not its own"),
        (ZEROS, "avg_pool2d(%p) {kernel=[2, 2]}", "must be below the window's extent"),
        (
            "{before=[0, 0, 0, 0], after=[0, 0, 1, 1]}",
            "avg_pool2d(%p) {kernel=[2, 2], stride=[3, 4], ceil_mode=true}",
            "the output would be",
        ),
    ],
)
def test_refusals(pad: str, window: str, reason: str) -> None:
    assert_refuses(PASS, net(pad, window), "y", reason)


def test_integers_have_no_infinity() -> None:
    assert_refuses(
        PASS,
        """
        %x = input : i32[1, 1, 4, 4]
        %p = pad(%x) {before=[0, 0, 1, 1], after=[0, 0, 1, 1]}
        %y = max_pool2d(%p) {kernel=[3, 3]}
        return %y
        """,
        "y", "no -inf",
    )  # fmt: skip
