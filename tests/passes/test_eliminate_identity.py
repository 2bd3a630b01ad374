from __future__ import annotations

import pytest
from support import assert_refuses, assert_rewrites

from convc.passes import PASSES

PASS = PASSES["eliminate_identity"]


@pytest.mark.parametrize(
    "line",
    [
        "identity(%a)",
        "dropout(%a) {ratio=0.3}",
        "cast(%a) {to=f32}",
        "clip(%a)",
        "transpose(%a) {perm=[0, 1, 2, 3]}",
        "reshape(%a) {shape=[2, 4, 6, 6]}",
        "expand(%a) {shape=[2, 4, 6, 6]}",
        "concat(%a) {axis=1}",
        "slice(%a) {axis=2, start=0, stop=6}",
        "slice(%a) {axis=-1, start=0, stop=6}",
        'pad(%a) {before=[0, 0, 0, 0], after=[0, 0, 0, 0], mode="reflect"}',
        "max_pool2d(%a) {kernel=[1, 1]}",
        "channel_shuffle(%a) {groups=1}",
        "channel_shuffle(%a) {groups=4}",
        'depth_to_space(%a) {block=1, mode="DCR"}',
        "space_to_depth(%a) {block=1}",
    ],
)
def test_an_operator_that_changes_nothing_goes(line: str) -> None:
    assert_rewrites(
        PASS,
        f"""
        %x = input : f32[2, 4, 6, 6]
        %a = relu(%x)
        %b = {line}
        %y = neg(%b)
        return %y
        """,
        """
        %x = input : f32[2, 4, 6, 6]
        %a = relu(%x)
        %y = neg(%a)
        return %y
        """,
        rules=["drop_identity"],
    )


def test_an_output_keeps_its_public_name() -> None:
    assert_rewrites(
        PASS,
        """
        %x = input : f32[3]
        %a = relu(%x)
        %y = identity(%a)
        return %y
        """,
        """
        %x = input : f32[3]
        %a = relu(%x)
        return %a as "y"
        """,
    )


@pytest.mark.parametrize("line", ["identity(%x)", "dropout(%x)", "reshape(%x) {shape=[3]}"])
def test_an_output_is_never_an_input_itself(line: str) -> None:
    before = f"""
        %x = input : f32[3]
        %y = {line}
        return %y
        """
    after = """
        %x = input : f32[3]
        %y = identity(%x)
        return %y
        """
    assert_rewrites(PASS, before, after, rules=[] if line.startswith("identity") else ["drop_identity"])


NEUTRAL = [
    ("add(%a, %c)", "-0.0"), ("add(%c, %a)", "-0.0"), ("sub(%a, %c)", "0.0"), ("mul(%c, %a)", "1.0"),
    ("div(%a, %c)", "1.0"), ("max(%a, %c)", "-inf"), ("min(%c, %a)", "inf"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "value"), NEUTRAL)
@pytest.mark.parametrize("shape", ["[]", "[1, 4, 1]", "[4, 3]"])
def test_a_neutral_constant_goes(line: str, value: str, shape: str) -> None:
    assert_rewrites(
        PASS,
        f"""
        %x = input : f32[2, 4, 3]
        %c = constant full({value}) : f32{shape}
        %a = relu(%x)
        %b = {line}
        %y = neg(%b)
        return %y
        """,
        """
        %x = input : f32[2, 4, 3]
        %a = relu(%x)
        %y = neg(%a)
        return %y
        """,
        rules=["drop_neutral_constant"],
    )


@pytest.mark.parametrize("line", ["add(%x, %zero)", "sub(%x, %zero)", "mul(%x, %one)", "div(%x, %one)"])
def test_neutral_integers_go(line: str) -> None:
    assert_rewrites(
        PASS,
        f"""
        %x = input : i32[4]
        %zero = constant [0] : i32[1]
        %one = constant [1] : i32[1]
        %a = {line}
        %y = neg(%a)
        return %y, %zero, %one
        """,
        """
        %x = input : i32[4]
        %zero = constant [0] : i32[1]
        %one = constant [1] : i32[1]
        %y = neg(%x)
        return %y, %zero, %one
        """,
    )


@pytest.mark.parametrize("line", ["add(%x, %zero)", "sub(%x, %minus)"])
def test_a_zero_that_changes_the_sign_of_zero_stays(line: str) -> None:
    assert_refuses(
        PASS,
        f"""
        %x = input : f32[4]
        %zero = constant [0.0] : f32[]
        %minus = constant [-0.0] : f32[]
        %y = {line}
        return %y, %zero, %minus
        """,
        "y", "-0.0",
    )  # fmt: skip


def test_a_neutral_constant_that_broadcasts_stays() -> None:
    result = assert_refuses_nothing("mul(%x, %c)", "[2, 1]")
    assert not result.refusals


def assert_refuses_nothing(line: str, shape: str):
    from support import graph_of, run_pass

    graph = graph_of(f"%x = input : f32[3]\n%c = constant full(1.0) : f32{shape}\n%y = {line}\nreturn %y")
    result = run_pass(PASS, graph)
    assert result.graph is graph
    return result


def test_a_mean_over_single_pixels_stays() -> None:
    assert_refuses(
        PASS,
        """
        %x = input : f32[1, 2, 3, 3]
        %y = avg_pool2d(%x) {kernel=[1, 1]}
        return %y
        """,
        "y", "-0.0 into 0.0",
    )  # fmt: skip


def test_inverse_transposes_cancel_and_others_join() -> None:
    assert_rewrites(
        PASS,
        """
        %x = input : f32[2, 3, 4]
        %a = transpose(%x) {perm=[1, 2, 0]}
        %b = transpose(%a) {perm=[2, 0, 1]}
        %c = neg(%b)
        %d = transpose(%a) {perm=[1, 0, 2]}
        return %c, %d
        """,
        """
        %x = input : f32[2, 3, 4]
        %c = neg(%x)
        %d = transpose(%x) {perm=[2, 1, 0]}
        return %c, %d
        """,
    )


def test_reshape_of_reshape_is_one() -> None:
    assert_rewrites(
        PASS,
        """
        %x = input : f32[2, 3, 4]
        %a = reshape(%x) {shape=[6, 4]}
        %b = reshape(%a) {shape=[24]}
        %back = reshape(%b) {shape=[2, 3, 4]}
        %y = neg(%back)
        return %y, %b
        """,
        """
        %x = input : f32[2, 3, 4]
        %b = reshape(%x) {shape=[24]} from "b", "a"
        %y = neg(%x)
        return %y, %b
        """,
    )
