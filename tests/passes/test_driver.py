from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from support import graph_of, run_pass

from convc.errors import ModelError
from convc.ir.graph import Node, make_node
from convc.ir.patch import Draft, Patch
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule

CHAIN = """
    %x = input : f32[4]
    %a = neg(%x)
    %b = neg(%a)
    %c = abs(%b)
    %d = neg(%c)
    return %d
    """


def rule(name: str, root: str, match, rewrite) -> Rule:
    return Rule(name, frozenset({root}), match, rewrite, lambda m: f"matched %{m.name}")


def one_pass(*rules: Rule) -> RewritePass:
    return RewritePass("test", Numerics.EXACT, "", rules)


def to(op: str):
    return lambda draft, node: Patch(nodes=(make_node(op, node.name, [draft[node.operands[0]]]),))


def test_rules_run_in_order_until_none_applies() -> None:
    first = rule("neg_to_abs", "neg", lambda d, n: n, to("abs"))
    second = rule("abs_to_sign", "abs", lambda d, n: n if d.users(n.name) else None, to("sign"))
    result = run_pass(one_pass(first, second), graph_of(CHAIN))
    assert [(r.rule, r.node) for r in result.rewrites] == [
        ("neg_to_abs", "a"), ("neg_to_abs", "b"), ("abs_to_sign", "c"), ("neg_to_abs", "d"),
        ("abs_to_sign", "a"), ("abs_to_sign", "b"),
    ]  # fmt: skip
    assert result.rewrites[0].note == "matched %a"
    assert [n.op for n in result.graph.operators] == ["sign", "sign", "sign", "abs"]


def test_rules_that_undo_each_other_are_stopped() -> None:
    there = rule("there", "neg", lambda d, n: n, to("abs"))
    back = rule("back", "abs", lambda d, n: n, to("neg"))
    with pytest.raises(ModelError, match="still rewriting .* after 140 steps"):
        run_pass(one_pass(there, back), graph_of(CHAIN))


def test_refusals_are_kept_once_and_dropped_where_the_rule_applied_later() -> None:
    asked: list[str] = []

    def match(draft: Draft, node: Node) -> Node | Reject | None:
        asked.append(node.name)
        operand = draft[node.operands[0]]
        return node if operand.op in {"input", "sign"} else Reject(node.name, f"%{operand.name} is {operand.op}")

    negations = rule("only_after_sign", "neg", match, to("sign"))
    result = run_pass(one_pass(negations), graph_of(CHAIN))
    assert [r.node for r in result.rewrites] == ["a", "b"]
    assert result.refusals == (Reject("d", "%c is abs", "only_after_sign"),)
    assert asked.count("d") >= 1

    backwards = graph_of("%x = input : f32[4]\n%a = abs(%x)\n%b = neg(%a)\nreturn %b")
    later = rule("abs_to_sign", "abs", lambda d, n: n if asked.count("b") > 1 else None, to("sign"))
    assert len(run_pass(one_pass(negations, later), backwards).refusals) == 1


def test_a_refusal_at_a_node_that_is_gone_is_dropped() -> None:
    refuse = rule("refuse", "neg", lambda d, n: Reject(n.name, "no"), to("abs"))
    drop = rule("drop", "abs", lambda d, n: n, lambda d, n: Patch(nodes=(make_node("abs", "c", [d["x"]]),)))
    once = rule("drop", "abs", lambda d, n: n if n.operands != ("x",) else None, drop.rewrite)
    result = run_pass(one_pass(refuse, once), graph_of(CHAIN))
    assert [r.node for r in result.refusals] == ["d"]


def test_matches_and_passes_hold_no_state() -> None:
    one = one_pass(rule("neg_to_abs", "neg", lambda d, n: n, to("abs")))
    first, second = run_pass(one, graph_of(CHAIN)), run_pass(one, graph_of(CHAIN))
    assert first.graph == second.graph and first.rewrites == second.rewrites
    with pytest.raises(FrozenInstanceError):
        one.name = "other"  # type: ignore[misc]


def test_thousand_nodes_take_little_time() -> None:
    import time

    lines = ["%x = input : f32[4]", "%n0 = neg(%x)"]
    lines += [f"%n{i} = neg(%n{i - 1})" for i in range(1, 1000)]
    graph = graph_of("\n".join([*lines, "return %n999"]))
    start = time.perf_counter()
    result = run_pass(one_pass(rule("neg_to_abs", "neg", lambda d, n: n, to("abs"))), graph)
    assert len(result.rewrites) == 1000
    assert time.perf_counter() - start < 1.0
