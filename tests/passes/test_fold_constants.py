from __future__ import annotations

import numpy as np
import pytest
from support import assert_refuses, assert_rewrites, graph_of, run_pass

from convc.ir.parser import parse
from convc.limits import Limits
from convc.passes import PASSES

PASS = PASSES["fold_constants"]


def test_arithmetic_on_constants_becomes_a_constant_under_its_name() -> None:
    result = assert_rewrites(
        PASS,
        """
        %x = input : f32[1, 2]
        %w = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] : f32[2, 3]
        %t = transpose(%w) {perm=[1, 0]}
        %two = constant [2.0] : f32[]
        %s = mul(%t, %two)
        %r = slice(%s) {axis=0, start=1, stop=3}
        %y = linear(%x, %r)
        return %y
        """,
        """
        %x = input : f32[1, 2]
        %r = constant [4.0, 10.0, 6.0, 12.0] : f32[2, 2]
        %y = linear(%x, %r)
        return %y
        """,
    )
    assert [r.node for r in result.rewrites] == ["t", "s", "r"]


def test_a_constant_that_others_read_stays() -> None:
    assert_rewrites(
        PASS,
        """
        %x = input : i64[2]
        %c = constant [1, 2] : i64[2]
        %d = neg(%c)
        %y = add(%x, %c)
        %z = add(%y, %d)
        return %z
        """,
        """
        %x = input : i64[2]
        %c = constant [1, 2] : i64[2]
        %d = constant [-1, -2] : i64[2]
        %y = add(%x, %c)
        %z = add(%y, %d)
        return %z
        """,
    )


def test_an_output_becomes_an_identity_of_a_constant() -> None:
    assert_rewrites(
        PASS,
        """
        %c = constant [4.0, nan, -1.0] : f32[3]
        %y = sqrt(%c)
        return %y as "root"
        """,
        """
        %y.1 = constant [2.0, nan, nan(0xffc00000)] : f32[3]
        %y = identity(%y.1)
        return %y as "root"
        """,
    )


def test_dtype_is_that_of_the_operator() -> None:
    graph = graph_of(
        """
        %a = constant [0.1, 65504.0] : f16[2]
        %x = input : f16[2]
        %b = mul(%a, %a)
        %y = add(%x, %b)
        return %y
        """
    )
    folded = run_pass(PASS, graph).graph["b"].array
    assert folded.dtype == np.float16
    assert folded[1] == np.inf


def test_growth_is_refused() -> None:
    assert_refuses(
        PASS,
        """
        %c = constant [1.0] : f32[1, 1]
        %big = expand(%c) {shape=[4096, 4096]}
        %y = reduce_sum(%big) {axes=[0, 1]}
        return %y
        """,
        "big", "67108864 bytes are made of 4",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(Limits(tensor_bytes=32), "limits.tensor_bytes=32"), (Limits(folded_bytes=60), "folding exceeds 60 bytes")],
)
def test_limits_refuse(limits: Limits, reason: str) -> None:
    graph = graph_of(
        """
        %c = constant arange() : f32[8]
        %a = neg(%c)
        %b = concat(%a, %a) {axis=0}
        return %b
        """
    )
    result = run_pass(PASS, graph, limits)
    assert "b" in result.graph
    assert result.graph["b"].op == "concat"
    assert any(reason in r.reason for r in result.refusals if r.node == "b")


def test_symbolic_sizes_are_refused() -> None:
    graph = graph_of(
        """
        %x = input : f32[N, 1]
        %c = constant [1.0] : f32[1, 1]
        %e = expand(%c) {shape=[N, 1]}
        %y = add(%x, %e)
        return %y
        """,
        "(N=2)",
    )
    result = run_pass(PASS, graph)
    assert result.graph is graph
    assert "symbolic" in result.refusals[0].reason


def test_missing_data_is_refused() -> None:
    text = str(
        graph_of(
            """
            %c = constant normal(seed=1) : f32[40]
            %y = neg(%c)
            return %y
            """
        )
    )
    result = run_pass(PASS, parse(text))
    assert [r.reason for r in result.refusals] == ["constant %c has no data"]


def test_what_cannot_be_evaluated_is_refused() -> None:
    assert_refuses(
        PASS,
        """
        %c = constant arange() : f32[4]
        %i = constant [7] : i64[1]
        %y = gather(%c, %i) {axis=0}
        return %y
        """,
        "y", "cannot be evaluated",
    )  # fmt: skip


def test_too_much_arithmetic_is_refused() -> None:
    graph = graph_of(
        """
        %a = constant full(1.0) : f32[3000, 3000]
        %y = matmul(%a, %a)
        return %y
        """
    )
    assert "multiply-adds" in run_pass(PASS, graph).refusals[0].reason
