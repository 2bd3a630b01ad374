from __future__ import annotations

import pytest
from support import assert_refuses, assert_rewrites

from convc.passes import PASSES

PASS = PASSES["fold_pool_padding"]


def net(x: str, pad: str, pool: str = "{kernel=[3, 3], stride=[2, 2]}") -> str:
    return f"""
        %in = input : f32[1, 2, 7, 6]
        %w = constant normal(seed=1) : f32[2, 2, 1, 1]
        %x = {x}
        %p = pad(%x) {{before=[0, 0, 1, 1], after=[0, 0, 1, 2]{pad}}}
        %y = max_pool2d(%p) {pool}
        return %y, %w
        """


@pytest.mark.parametrize(
    "x",
    [
        "relu(%in)",
        "clip(%in) {min=0.0, max=6.0}",
        "abs(%in)",
        "conv2d(%in, %w) {activation=relu}",
        "conv2d(%in, %w) {activation=clip(0.0, 6.0)}",
    ],
)
@pytest.mark.parametrize("pad", ["", ", value=-1.0", ", value=-inf"])
def test_zeros_around_what_is_never_negative(x: str, pad: str) -> None:
    assert_rewrites(
        PASS,
        net(x, pad),
        f"""
        %in = input : f32[1, 2, 7, 6]
        %w = constant ... : f32[2, 2, 1, 1]
        %x = {x}
        %y = max_pool2d(%x) {{kernel=[3, 3], stride=[2, 2], padding=[1, 1, 1, 2]}}
        return %y, %w
        """,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (net("tanh(%in)", ""), "%x may be negative, and %p pads by 0.0"),
        (net("conv2d(%in, %w)", ""), "%x may be negative"),
        (net("conv2d(%in, %w) {activation=clip(-1.0, 6.0)}", ""), "%x may be negative"),
        (net("relu(%in)", ", value=0.5"), "%p pads by 0.5, which may win"),
        (net("relu(%in)", ", value=nan"), "%p pads by nan, which may win"),
        (net("relu(%in)", ', mode="edge"'), "%p pads in edge mode"),
        (net("relu(%in)", "", "{kernel=[2, 2], dilation=[3, 3]}"), "a window may see padding alone"),
        (net("relu(%in)", "", "{kernel=[2, 2]}"), "must be below the window's extent"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    assert_refuses(PASS, text, "y", reason)
