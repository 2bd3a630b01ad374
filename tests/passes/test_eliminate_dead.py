from __future__ import annotations

from support import assert_rewrites, graph_of, run_pass

from convc.passes import PASSES

PASS = PASSES["eliminate_dead"]


def test_what_no_output_needs_goes_and_inputs_stay() -> None:
    result = assert_rewrites(
        PASS,
        """
        %x = input : f32[2]
        %unused = input : f32[3]
        %c = constant [1.0, 2.0] : f32[2]
        %a = relu(%x)
        %b = add(%a, %c)
        %d = neg(%unused)
        return %a
        """,
        """
        %x = input : f32[2]
        %unused = input : f32[3]
        %a = relu(%x)
        return %a
        """,
    )
    assert {r.node for r in result.rewrites} == {"c", "b", "d"}


def test_a_graph_without_dead_nodes_is_returned_itself() -> None:
    graph = graph_of("%x = input : f32[2]\n%y = relu(%x)\nreturn %y")
    assert run_pass(PASS, graph).graph is graph
