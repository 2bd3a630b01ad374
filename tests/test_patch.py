from __future__ import annotations

import time

import pytest
from support import graph_of

from convc.errors import ModelError
from convc.ir.graph import Graph, Node, constant, graph_input, make_node
from convc.ir.patch import Applied, Draft, Patch
from convc.types import DType

BODY = """
    %x = input : f32[4]
    %c = constant [1.0, 2.0, 3.0, 4.0] : f32[4]
    %a = add(%x, %c)
    %b = relu(%a)
    %d = mul(%b, %c)
    %y = add(%b, %d)
    return %y as "out", %b
    """


def lines(graph: Graph) -> list[str]:
    return [line.split(" : ")[0].strip() for line in str(graph).splitlines()[1:-1]]


def test_reading() -> None:
    draft = Draft(graph_of(BODY))
    assert draft["a"].op == "add"
    assert [n.name for n in draft.users("b")] == ["d", "y"]
    assert draft.is_output("y") and draft.is_output("b") and not draft.is_output("out")
    assert draft.only_user("a") == draft["b"]
    assert draft.only_user("b") is None
    assert draft.only_user("y") is None
    assert [n.name for n in draft.operands(draft["a"]) if n] == ["x", "c"]
    assert "d" in draft and "z" not in draft and len(draft) == 6
    assert draft.names == ("x", "c", "a", "b", "d", "y")
    with pytest.raises(ModelError, match="no node %z"):
        draft["z"]


def test_without_edits_the_graph_is_the_same_object() -> None:
    graph = graph_of(BODY)
    assert Draft(graph).freeze() is graph


def test_redirect_keeps_public_names_and_drops_what_died() -> None:
    draft = Draft(graph_of(BODY))
    applied = draft.apply(Patch(redirect={"y": "b"}))
    assert applied == Applied(("y", "d"), (), ("b", "c"))
    assert lines(draft.freeze()) == [
        "%x = input", "%c = constant [1.0, 2.0, 3.0, 4.0]", "%a = add(%x, %c)", "%b = relu(%a)",
        'return %b as "out", %b',
    ]  # fmt: skip


def test_new_nodes_come_where_the_patch_applies() -> None:
    graph = graph_of(BODY)
    draft = Draft(graph)
    fresh = constant(draft.fresh_name("c"), graph["c"].array * 2)
    applied = draft.apply(Patch(nodes=(fresh, make_node("mul", "d", [graph["b"], fresh]))))
    assert applied == Applied((), ("c.1", "d"), ("b", "c"))
    assert lines(draft.freeze())[3:6] == ["%b = relu(%a)", "%c.1 = constant [2.0, 4.0, 6.0, 8.0]", "%d = mul(%b, %c.1)"]
    assert graph["d"].inputs == ("b", "c")


def test_nodes_of_the_patch_may_read_what_it_redirects() -> None:
    graph = graph_of(BODY)
    draft = Draft(graph)
    draft.apply(Patch(nodes=(make_node("neg", "n", [graph["b"]]),), redirect={"b": "n"}))
    assert lines(draft.freeze())[3:] == [
        "%b = relu(%a)", "%n = neg(%b)", "%d = mul(%n, %c)", "%y = add(%n, %d)", 'return %y as "out", %n as "b"',
    ]  # fmt: skip


def test_a_node_may_come_to_read_a_later_one() -> None:
    graph = graph_of(
        """
        %x = input : f32[4]
        %a = neg(%x)
        %b = relu(%x)
        %y = add(%a, %b)
        return %y
        """
    )
    draft = Draft(graph)
    draft.apply(Patch(nodes=(make_node("sub", "a", [graph["b"], graph["x"]]),), redirect={"y": "a"}))
    assert lines(draft.freeze()) == ["%x = input", "%b = relu(%x)", "%a = sub(%b, %x)", 'return %a as "y"']


def test_chains_of_dead_nodes_go_but_inputs_stay() -> None:
    graph = graph_of(
        """
        %x = input : f32[4]
        %z = input : f32[4]
        %a = neg(%z)
        %b = relu(%a)
        %y = add(%x, %b)
        return %y
        """
    )
    draft = Draft(graph)
    assert draft.apply(Patch(nodes=(make_node("relu", "y", [graph["x"]]),))).removed == ("b", "a")
    assert [n.name for n in draft.freeze().inputs] == ["x", "z"]


def test_a_new_node_that_nobody_reads_is_not_kept() -> None:
    draft = Draft(graph_of(BODY))
    applied = draft.apply(Patch(nodes=(make_node("neg", "n", [draft["a"]]),)))
    assert applied == Applied(("n",), (), ("a",))


def test_fresh_names() -> None:
    draft = Draft(graph_of('%x = input : f32[2]\n%"x.1" = relu(%x)\nreturn %"x.1"'))
    assert [draft.fresh_name(base) for base in ("x", "x", "y", "x.2", "x.1")] == ["x.2", "x.3", "y.1", "x.4", "x.1.1"]


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (lambda d: Patch(), "the patch is empty"),
        (lambda d: Patch(redirect={"y": "q"}), "%y is redirected to %q, which is no node"),
        (lambda d: Patch(redirect={"q": "y"}), "no node %q"),
        (lambda d: Patch(redirect={"a": "b"}), "relu %b would read itself"),
        (lambda d: Patch(redirect={"y": "d", "d": "b"}), "%d is redirected to and from"),
        (lambda d: Patch(nodes=(make_node("cast", "a", [d["x"]], {"to": DType.F64}),)), r"f64\[4\] replaces f32\[4\]"),
        (
            lambda d: Patch(nodes=(make_node("reduce_sum", "s", [d["a"]], {"axes": (0,)}),), redirect={"a": "s"}),
            r"%a: f32\[4\] is redirected to %s: f32\[1\]",
        ),
        (lambda d: Patch(nodes=(make_node("neg", "n", [graph_input("q", DType.F32, (4,))]),)), "reads %q, which is no"),
        (lambda d: Patch(nodes=(d["a"], d["a"])), "defines %a twice"),
    ],
)
def test_a_bad_patch_changes_nothing(patch, message: str) -> None:
    graph = graph_of(BODY)
    draft = Draft(graph)
    with pytest.raises(ModelError, match=message):
        draft.apply(patch(draft))
    assert draft.freeze() is graph


def test_a_cycle_is_found_when_frozen() -> None:
    draft = Draft(graph_of(BODY))
    draft.apply(Patch(nodes=(make_node("add", "a", [draft["d"], draft["c"]]),)))
    with pytest.raises(ModelError, match="cycle"):
        draft.freeze()


def test_time_follows_the_size_of_the_patches() -> None:
    nodes: list[Node] = [graph_input("x", DType.F32, (4,))]
    for i in range(1000):
        nodes.append(make_node("relu" if i % 2 else "neg", f"n{i}", [nodes[-1]]))
    graph = Graph.build("long", nodes, [nodes[-1].name])
    start = time.perf_counter()
    draft = Draft(graph)
    for i in range(1, 1000, 2):
        node = draft[f"n{i}"]
        fused = make_node("tanh", draft.fresh_name(node.name), [draft[node.operands[0]]])
        draft.apply(Patch(nodes=(fused,), redirect={node.name: fused.name}))
    result = draft.freeze()
    assert time.perf_counter() - start < 0.5
    assert len(result) == 1001
    assert [n.op for n in result.operators[:4]] == ["neg", "tanh", "neg", "tanh"]
