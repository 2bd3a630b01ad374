from __future__ import annotations

import math
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.dims import Dim, Size
from convc.errors import Error, LimitError, ModelError
from convc.ir.graph import Graph, Node, Output, constant, graph_input, make_node
from convc.ir.parser import parse
from convc.ir.printer import print_node
from convc.limits import Limits
from convc.types import Activation, DType

EXAMPLE = """graph "resnet18" (H=224, N=1, W=224) {
  %x = input : f32[N, 3, H, W]
  %r = input : f32[N, 64, (H + 1)//2, (W + 1)//2]
  %stem.w = constant sha256:7d6cf20ccb8bca58a1b2ffa1ce1d03ef : f32[64, 3, 7, 7]
  %eps = constant [0.5, 1e-45, nan, -inf, -0.0] : f32[5]
  %one = constant [1] : i64[]
  %flags = constant [true, false] : bool[2, 1]
  %none = constant [] : f32[0, 3]
  %zero = constant full(0.0) : f32[64]
  %stem = conv2d(%x, %stem.w, _, %r) {stride=[2, 2], padding=[3, 3, 3, 3], activation=clip(0.0, 6.0)} : f32[N, 64, (H + 1)//2, (W + 1)//2] from "Conv_0"
  %"a \\"b\\"\\n\\u00e9" = gelu(%stem) {approximate="tanh"} : f32[N, 64, (H + 1)//2, (W + 1)//2] from "Mul_1", "Erf_2"
  %f = slice(%stem) {axis=2, start=0, stop=(H + 1)//2} : f32[N, 64, (H + 1)//2, (W + 1)//2]
  %half = cast(%f) {to=f16} : f16[N, 64, (H + 1)//2, (W + 1)//2]
  return %half as "logits", %"a \\"b\\"\\n\\u00e9", %one
}"""  # noqa: E501


def test_prints_what_it_reads() -> None:
    graph = parse(EXAMPLE)
    assert str(graph) == EXAMPLE
    assert parse(str(graph)) == graph
    assert graph.nominal == {"N": 1, "H": 224, "W": 224}
    assert graph["stem"].source == ("Conv_0",)
    assert graph["stem"].attrs["activation"] == Activation("clip", (0.0, 6.0))
    assert not graph["stem.w"].value.present
    assert graph.outputs[0] == Output("logits", "half")


def test_layout_and_comments_do_not_matter() -> None:
    graph = parse('graph"g"{%x=input:f32[2]# comment }\n%y=add(%x,\n\n%x)return%y}')
    assert str(graph) == 'graph "g" {\n  %x = input : f32[2]\n  %y = add(%x, %x) : f32[2]\n  return %y\n}'


def test_a_graph_without_outputs_reads_back() -> None:
    text = 'graph "g" {\n  return\n}'
    assert str(parse(text)) == text


def test_weights_by_name_or_digest() -> None:
    graph = parse('graph "g" {\n%w = constant normal(seed=3) : f32[5, 5]\nreturn %w\n}')
    text, array = str(graph), graph["w"].array
    for weights in ({"w": array}, {graph["w"].value.digest: array}):
        assert parse(text, weights=weights)["w"].array.tobytes() == array.tobytes()
    with pytest.raises(ModelError, match="line 2, column 17: the weights for %w are f32\\[25\\], expected f32"):
        parse(text, weights={"w": array.reshape(25)})
    with pytest.raises(ModelError, match="the weights for %w have sha256"):
        parse(text, weights={"w": array + 1})
    assert parse(text, weights={"w": array + 1}, check=False)["w"].value.digest == graph["w"].value.digest


def test_generators() -> None:
    graph = parse(
        """graph "g" {
        %a = constant normal(seed=1, mean=2.0, std=0.1) : f32[1000]
        %b = constant uniform(seed=1, low=-1, high=1.0) : f64[1000]
        %c = constant arange(start=2, step=3) : i32[2, 3]
        %d = constant full(7) : u8[3]
        %e = constant arange() : f32[0]
        return %a, %b, %c, %d, %e
        }"""
    )
    assert abs(float(graph["a"].array.mean()) - 2) < 0.02
    assert graph["b"].array.min() < -0.9 and graph["b"].array.max() < 1
    assert graph["c"].array.tolist() == [[2, 5, 8], [11, 14, 17]]
    assert graph["d"].array.tolist() == [7, 7, 7]
    assert parse(str(graph)) == graph


HEAD = 'graph "g" {\n  %x = input : f32[2, 3]\n'


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("", "line 1, column 1", "found the end of the text, expected 'graph'"),
        ('graph "g" {\n', "line 2, column 1", "expected a node name such as %x"),
        (HEAD + "  %y relu(%x)", "line 3, column 6", "found 'relu(%x)', expected '='"),
        (HEAD + "  %y = rleu(%x)", "line 3, column 8", "found 'rleu(%x)', expected an operator"),
        (HEAD + "  %y = relu(%z)", "line 3, column 13", "found %z, expected a node defined above"),
        (
            HEAD + "  %y = relu(%x) {alpha=1.0}",
            "line 3, column 18",
            "expected an attribute of relu. Hint: it has: none",
        ),
        (HEAD + "  %y = elu(%x) {alpha=1.0, alpha=1.0}", "line 3, column 28", "alpha is given twice"),
        (HEAD + '  %y = elu(%x) {alpha="1.0"}', "line 3, column 23", "expected a number"),
        (HEAD + "  %y = argmax(%x) {axis=1.5}", "line 3, column 25", "expected an integer"),
        (
            HEAD + "  %y = argmax(%x) {axis=7}",
            "line 3, column 8",
            "argmax %y: axis=7 is out of range for rank 2 (inputs",
        ),
        (HEAD + "  %y = argmax(%x) {keepdims=maybe}", "line 3, column 29", "expected true or false"),
        (HEAD + "  %y = cast(%x) {to=f31}", "line 3, column 21", "expected an element type"),
        (HEAD + "  %y = relu(%x) : f32[3, 2]", "line 3, column 19", "%y is declared f32[3, 2], expected f32[2, 3]"),
        (HEAD + "  %x = relu(%x)", "line 3, column 3", "%x is defined twice"),
        (HEAD + "  %y = relu(%x, %x)", "line 3, column 8", "relu got 2 inputs"),
        (HEAD + "  %y = add(_, %x)", "line 3, column 8", "input a is missing"),
        (HEAD + "  %y = reshape(%x) {shape=[2, (3]}", "line 3, column 28", "size '(3' cannot be read"),
        (HEAD + "  %y = input : f32[2, ]", "line 3, column 16", "size '' cannot be read"),
        (HEAD + "  %c = constant [1.0, 2.0] : f32[3]", "line 3, column 17", "found 2 elements, expected 3 elements"),
        (HEAD + "  %c = constant [1.0, x] : f32[2]", "line 3, column 23", "expected a number"),
        (HEAD + "  %c = constant [1.5] : i32[1]", "line 3, column 18", "expected an integer"),
        (HEAD + "  %c = constant [300] : u8[1]", "line 3, column 18", "expected a value of u8"),
        (HEAD + "  %c = constant [1] : bool[1]", "line 3, column 18", "expected true or false"),
        (HEAD + "  %c = constant [1.0] : f32[N]", "line 3, column 17", "expected fixed sizes"),
        (HEAD + "  %c = constant [nan(0x1ffffffff)] : f32[1]", "line 3, column 18", "expected the bits of a f32"),
        (HEAD + "  %c = constant gauss() : f32[1]", "line 3, column 17", "expected a generator"),
        (HEAD + "  %c = constant normal(sed=1) : f32[1]", "line 3, column 24", "expected an option of normal"),
        (HEAD + "  %c = constant normal(seed=-1) : f32[1]", "line 3, column 17", "normal: "),
        (
            HEAD + "  %c = constant sha256:12 : f32[1]",
            "line 3, column 17",
            "expected sha256: and 32 hexadecimal digits",
        ),
        (HEAD + '  %y = relu(%x) from "a", b\n', "line 3, column 27", "expected a quoted string"),
        (HEAD + "  return %y }", "line 3, column 10", "expected a node defined above"),
        (HEAD + "  return %x } x", "line 3, column 15", "found 'x', expected the end of the text"),
        (HEAD + '  %y = relu(%x) from "\\q"', "line 3, column 22", "a string with JSON's escapes"),
    ],
)
def test_errors_say_where_and_what(text: str, where: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse(text)
    assert f"{where}: " in str(caught.value)
    assert message in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        ("full(0.0) : f32[1000000, 1000000]", Limits()),
        ("normal(seed=1) : f32[99999999999999999999]", Limits()),
        ("full(0.0) : f32[100]", Limits(model_bytes=399)),
    ],
)
def test_a_short_text_cannot_ask_for_much_memory(value: str, limits: Limits) -> None:
    with pytest.raises(LimitError, match="%c"):
        parse(f'graph "g" {{ %c = constant {value} return %c }}', limits=limits)


def test_the_number_of_nodes_is_limited() -> None:
    with pytest.raises(LimitError, match="limits.nodes=1"):
        parse(HEAD + "%y = relu(%x) return %y }", limits=Limits(nodes=1))


@pytest.mark.parametrize(
    "size",
    ["(" * 5000 + "N" + ")" * 5000, "-" * 1900 + "N", "N" * 3000, "9" * 25, "*".join(["(a + b + c + d + e)"] * 90)],
)
def test_nesting_is_bounded(size: str) -> None:
    with pytest.raises(Error):
        Limits().check_tensor("x", parse(f'graph "g" {{ %x = input : f32[{size}] return %x }}')["x"].type, {})


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FLOATS = st.floats(allow_nan=True)
SYMBOLS = [Dim.symbol(s) for s in ("N", "H", "W_2")]


@st.composite
def sizes(draw: st.DrawFn, depth: int = 2) -> Size:
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from([1, 2, 7, *SYMBOLS]))
    a, b = draw(sizes(depth - 1)), draw(sizes(depth - 1))
    return draw(st.sampled_from([a + b, a * b, a // draw(st.integers(2, 5)), a // b if b != 0 else a, 3 * a + 5]))


@st.composite
def constants(draw: st.DrawFn, name: str) -> Node:
    kind = draw(st.sampled_from(list(DType))).numpy
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    count = int(np.prod(shape, dtype=int))
    data = draw(st.binary(min_size=count * kind.itemsize, max_size=count * kind.itemsize))
    values = np.frombuffer(data, kind).copy() if kind != np.bool_ else np.frombuffer(data, np.uint8) % 2 == 1
    if count and draw(st.booleans()):
        values[:] = values[0]
    return constant(name, values.reshape(shape))


@st.composite
def operators(draw: st.DrawFn, name: str, x: Node) -> Node:
    rank = x.type.rank
    source = draw(st.lists(NAMES, max_size=2))
    pads = st.lists(st.integers(0, 3), min_size=rank, max_size=rank)
    op, attrs = draw(
        st.sampled_from(
            [
                ("relu", {}),
                ("leaky_relu", {"alpha": draw(FLOATS)}),
                ("clip", {"min": draw(FLOATS), "max": draw(FLOATS)}),
                ("gelu", {"approximate": draw(st.sampled_from(["none", "tanh"]))}),
                ("reduce_sum", {"axes": tuple(range(rank)), "keepdims": draw(st.booleans())}),
                ("transpose", {"perm": tuple(draw(st.permutations(range(rank))))}),
                ("pad", {"before": draw(pads), "after": draw(pads), "value": draw(FLOATS)}),
                ("reshape", {"shape": (*x.type.shape, 1)}),
                ("cast", {"to": draw(st.sampled_from([DType.F16, DType.F32, DType.F64]))}),
                *([("slice", {"axis": -1, "start": 0, "stop": x.type.shape[-1]})] if rank else []),
            ]
        )
    )
    return make_node(op, name, [x], attrs, source=source)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    names = draw(st.lists(NAMES, min_size=2, max_size=9, unique=True))
    shape = draw(st.lists(sizes(), max_size=3))
    nodes = [graph_input(names[0], DType.F32, shape)]
    chain = [nodes[0]]
    for name in names[1:]:
        if draw(st.booleans()):
            nodes.append(draw(constants(name)))
        else:
            chain.append(draw(operators(name, draw(st.sampled_from(chain)))))
            nodes.append(chain[-1])
    outputs = [Output(draw(NAMES), node.name) for node in draw(st.lists(st.sampled_from(nodes), max_size=3))]
    dims = {"N": draw(st.integers(1, 99)), "H": 5}
    return Graph.build(draw(NAMES), nodes, outputs, dims)


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_every_graph_reads_back(graph: Graph) -> None:
    text = str(graph)
    back = parse(text)
    assert back == graph
    assert str(back) == text
    whole = parse(text, weights=graph.weights())
    assert whole == graph
    for node in graph.constants:
        assert whole[node.name].array.tobytes() == node.array.tobytes()


def test_elements_are_exact() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 16 * 500, dtype=np.uint32)
    for chunk in bits.view(np.float32).reshape(500, 16):
        node = constant("c", chunk)
        back = parse(f'graph "g" {{ {print_node(node)} return %c }}')["c"]
        assert back.array.tobytes() == chunk.tobytes()


def test_damaged_texts_raise_errors_of_convc_only() -> None:
    rng = random.Random(0)
    alphabet = '%=(){}[]:,_"#\\ \n.-+*/09aNf32xE'
    for _ in range(1500):
        text = EXAMPLE
        for _ in range(rng.randint(1, 3)):
            at, width = rng.randrange(len(text)), rng.choice([0, 1, 1, 5, 40])
            text = text[:at] + "".join(rng.choices(alphabet, k=rng.randint(0, 3))) + text[at + width :]
        try:
            parse(text)
        except Error as error:
            assert str(error)


@pytest.mark.slow
def test_large_graphs_are_fast() -> None:
    lines = ['graph "big" (N=1) {', "  %x = input : f32[N, 8, 32, 32]", "  %w = constant full(1.0) : f32[8, 8, 3, 3]"]
    last = "x"
    for i in range(1000):
        attrs = "{padding=[1, 1, 1, 1], activation=clip(0.0, 6.0)}"
        lines.append(f'  %c{i} = conv2d(%{last}, %w, _, %x) {attrs} : f32[N, 8, 32, 32] from "Conv_{i}"')
        lines.append(f"  %r{i} = relu(%c{i}) : f32[N, 8, 32, 32]")
        last = f"r{i}"
    text = "\n".join([*lines, f"  return %{last}", "}"])
    start = time.perf_counter()
    graph = parse(text)
    middle = time.perf_counter()
    assert str(graph) == text
    assert middle - start < 0.3
    assert time.perf_counter() - middle < 0.3


def test_nan_attributes_are_equal() -> None:
    graph = parse(HEAD + "%y = clip(%x) {min=nan} return %y }")
    assert math.isnan(graph["y"].attrs["min"])
    assert parse(str(graph)) == graph
