"""The ONNX exporter: every operator as ONNX Runtime computes it, and back through the importer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_support import assert_close, floats, model, node, runtime
from support import graph_of, random_inputs

from convc.errors import InputError, LimitError, ModelError
from convc.frontends.onnx import load_onnx, save_onnx, to_onnx
from convc.frontends.onnx.export_ops import EXPORTERS
from convc.interp import run_graph
from convc.ir.graph import Graph, Output, constant, graph_input, make_node
from convc.ops import OPS
from convc.types import Array, DType


def round_trip(graph: Graph, inputs: Mapping[str, Array] | None = None) -> onnx.ModelProto:
    """Export, and compare the graph, ONNX Runtime on the export, and the export imported again."""
    inputs = inputs or random_inputs(graph)
    expected = list(run_graph(graph, inputs).values())
    proto = to_onnx(graph)
    assert [o.name for o in proto.graph.output] == [o.name for o in graph.outputs]
    assert_close(runtime(proto, inputs), expected)
    assert_close(list(run_graph(load_onnx(proto), inputs).values()), expected)
    return proto


F = "f32[2, 6, 9, 8]"
X = f"%x = input : {F}"
UNARY = {
    "relu": "", "leaky_relu": "{alpha=0.3}", "clip": "{min=-0.5, max=0.25}", "sigmoid": "",
    "hard_sigmoid": "{alpha=0.3, beta=0.4}", "hard_swish": "", "silu": "", "tanh": "", "elu": "{alpha=0.5}", "selu": "",
    "celu": "{alpha=2.0}", "softplus": "", "softsign": "", "mish": "", "gelu": "", "erf": "", "exp": "", "log": "",
    "sqrt": "", "reciprocal": "", "neg": "", "abs": "", "floor": "", "ceil": "", "round": "", "sign": "", "sin": "",
    "cos": "", "identity": "", "dropout": "{ratio=0.25}", "cast": "{to=i32}", "global_avg_pool": "",
    "global_max_pool": "", "softmax": "{axis=1}", "log_softmax": "", "lrn": "{size=3, alpha=0.1, beta=0.5, bias=2.0}",
    "reduce_mean": "{axes=[2, 3]}", "reduce_sum": "{axes=[1], keepdims=false}", "reduce_max": "{axes=[0]}",
    "reduce_min": "{axes=[2]}", "reduce_prod": "{axes=[3]}", "reduce_l2": "{axes=[1, 3]}",
    "argmax": "{axis=1, keepdims=false, last=true}", "transpose": "{perm=[0, 2, 3, 1]}", "reshape": "{shape=[12, 72]}",
    "expand": "{shape=[3, 2, 6, 9, 8]}", "slice": "{axis=2, start=1, stop=8, step=3}", "channel_shuffle": "{groups=3}",
    "pad": '{before=[0, 1, 2, 0], after=[0, 0, -1, 3], value=1.5}',
    "max_pool2d": "{kernel=[3, 2], stride=[2, 1], padding=[1, 0, 1, 1], dilation=[2, 1]}",
    "avg_pool2d": "{kernel=[3, 3], stride=[2, 2], padding=[1, 1, 1, 1], ceil_mode=true, count_include_pad=true}",
    "resize": '{size=[2, 6, 18, 24], scales=[1.0, 1.0, 2.0, 3.0], mode="linear"}',
    "space_to_depth": "{block=1}",
}  # fmt: skip
MORE = [
    ("gelu", '{approximate="tanh"}'), ("clip", "{max=0.25}"), ("reduce_sum", "{axes=[]}"), ("reduce_l2", "{axes=[]}"),
    ("slice", "{axis=2, start=8, stop=-1, step=-2}"), ("avg_pool2d", "{kernel=[2, 2], dilation=[2, 1]}"),
    ("pad", '{before=[0, 0, 1, 2], after=[0, 0, 0, 3], mode="reflect"}'),
    ("pad", '{before=[0, 0, 1, 2], after=[0, 0, 0, 3], mode="wrap"}'),
    ("resize", '{size=[2, 6, 5, 20], scales=[1.0, 1.0, 0.5555555555555556, 2.5], '
     'coordinates="asymmetric", nearest="floor"}'),
    ("resize", '{size=[2, 6, 17, 15], scales=[1.0, 1.0, 1.8888888, 1.875], mode="linear", '
     'coordinates="align_corners"}'),
    ("resize", '{size=[2, 6, 18, 16], scales=[1.0, 1.0, 2.0, 2.0], nearest="floor", '
     'coordinates="tf_half_pixel_for_nn"}'),
    ("resize", '{size=[2, 6, 4, 4], scales=[1.0, 1.0, 0.5, 0.5], mode="cubic", antialias=true, cubic_a=-0.5}'),
    ("resize", '{size=[2, 6, 15, 13], scales=[1.0, 1.0, 1.7, 1.7], mode="linear", coordinates="half_pixel_symmetric"}'),
]  # fmt: skip


@pytest.mark.parametrize(("op", "attrs"), [*UNARY.items(), *MORE], ids=lambda v: str(v))
def test_operators_of_one_input(op: str, attrs: str) -> None:
    graph = graph_of(f"{X}\n%y = {op}(%x) {attrs}\nreturn %y")
    positive = {"x": np.abs(floats(2, 6, 9, 8)) + 0.1}
    round_trip(graph, positive if op in {"log", "sqrt", "reciprocal"} else None)


BINARY = {"add", "sub", "mul", "div", "pow", "max", "min", "mod", "equal", "less", "less_or_equal", "greater",
          "greater_or_equal"}  # fmt: skip


@pytest.mark.parametrize("op", sorted(BINARY))
@pytest.mark.parametrize("dtype", ["f32", "i32"])
def test_operators_of_two_inputs(op: str, dtype: str) -> None:
    graph = graph_of(f"%a = input : {dtype}[2, 1, 5]\n%b = input : {dtype}[4, 1]\n%y = {op}(%a, %b)\nreturn %y")
    a, b = np.abs(floats(2, 1, 5)) * 9, floats(4, 1, seed=3) * 3
    b[np.abs(b) < 1] = 1
    inputs = {"a": a, "b": np.abs(b) if op == "pow" else b}
    round_trip(graph, {k: v.astype(np.float32 if dtype == "f32" else np.int32) for k, v in inputs.items()})


OTHERS = {
    "logical_and logical_or logical_not where": """
        %a = input : f32[3, 4]  %b = input : f32[4]
        %p = less(%a, %b)  %q = greater(%a, %b)  %o = logical_or(%p, %q)  %n = logical_not(%p)
        %c = logical_and(%o, %n)  %y = where(%c, %a, %b)  return %y""",
    "prelu": f"{X}  %s = input : f32[6, 1, 1]  %y = prelu(%x, %s)  return %y",
    "mod": "%a = input : f32[5]  %b = input : f32[5]  %y = mod(%a, %b) {fmod=true}  return %y",
    "matmul": "%a = input : f32[2, 3, 4]  %b = input : f32[4, 5]  %y = matmul(%a, %b)  return %y",
    "linear": "%x = input : f32[3, 4]  %w = input : f32[5, 4]  %b = input : f32[5]  %y = linear(%x, %w, %b)  return %y",
    "linear deep": """
        %x = input : f32[2, 3, 4]  %w = input : f32[5, 4]  %b = input : f32[5]  %r = input : f32[2, 3, 5]
        %y = linear(%x, %w, %b, %r) {activation=gelu}  %z = linear(%x, %w)  return %y, %z""",
    "conv2d": """
        %x = input : f32[2, 6, 9, 8]  %w = input : f32[4, 3, 3, 2]  %b = input : f32[4]
        %y = conv2d(%x, %w, %b) {stride=[2, 1], padding=[1, 0, 2, 1], dilation=[1, 2], groups=2}  return %y""",
    "conv2d epilogue": """
        %x = input : f32[2, 6, 9, 8]  %w = input : f32[6, 6, 1, 1]  %r = input : f32[2, 6, 9, 8]
        %y = conv2d(%x, %w, _, %r) {activation=leaky_relu(0.2)}  %z = conv2d(%x, %w, _, %r)
        %u = conv2d(%x, %w) {activation=silu}  %v = conv2d(%x, %w) {activation=clip(0.0, 6.0)}
        return %y, %z, %u, %v""",
    "conv_transpose2d": """
        %x = input : f32[2, 6, 5, 4]  %w = input : f32[6, 2, 3, 3]  %b = input : f32[4]
        %y = conv_transpose2d(%x, %w, %b)
             {stride=[2, 2], padding=[1, 0, 1, 1], groups=2, output_padding=[1, 0], activation=relu}
        return %y""",
    "batch_norm": """
        %x = input : f32[2, 6, 9]  %g = input : f32[6]  %b = input : f32[6]  %m = input : f32[6]
        %v = constant full(2.0) : f32[6]  %y = batch_norm(%x, %g, %b, %m, %v) {epsilon=0.01}  return %y""",
    "instance_norm group_norm": """
        %x = input : f32[2, 6, 9, 8]  %g = input : f32[6]  %b = input : f32[6]
        %y = instance_norm(%x, %g, %b)  %z = group_norm(%x, %g, %b) {groups=3, epsilon=0.001}  return %y, %z""",
    "layer_norm": """
        %x = input : f32[2, 6, 9]  %g = input : f32[6, 9]  %b = input : f32[6, 9]  %h = input : f32[2, 1, 9]
        %c = input : f32[9]
        %y = layer_norm(%x, %g, %b) {axis=1}  %z = layer_norm(%x)  %u = layer_norm(%x, %h, %c) {axis=1}
        %v = layer_norm(%x, _, %b) {axis=-2}  return %y, %z, %u, %v""",
    "concat gather": """
        %a = input : f32[2, 3]  %b = input : f32[2, 2]  %i = constant [2, -1] : i64[2]
        %c = concat(%a, %b) {axis=1}  %y = gather(%c, %i) {axis=1}  return %y""",
    "depth_to_space space_to_depth": """
        %x = input : f32[2, 8, 3, 4]  %d = depth_to_space(%x) {block=2, mode="CRD"}  %y = space_to_depth(%d) {block=2}
        return %d, %y""",
}  # fmt: skip


def _lines(text: str) -> str:
    return "\n".join(text.replace("  %", "\n%").replace("  return", "\nreturn").splitlines())


@pytest.mark.parametrize("name", OTHERS)
def test_operators_of_several_inputs(name: str) -> None:
    round_trip(graph_of(_lines(OTHERS[name])))


def test_every_operator_has_an_exporter_and_a_test() -> None:
    assert set(EXPORTERS) == set(OPS) - {"input", "constant"}
    tested = set(UNARY) | BINARY | {word for text in OTHERS for word in text.split()}
    assert set(EXPORTERS) <= tested


@pytest.mark.parametrize("sizes", [{"N": 1, "H": 6, "W": 8}, {"N": 3, "H": 9, "W": 7}], ids=str)
def test_symbolic_sizes(sizes: dict[str, int]) -> None:
    graph = graph_of(
        _lines("""
        %x = input : f32[N, 4, H, W]  %one = constant full(1.0) : f32[1]
        %p = max_pool2d(%x) {kernel=[2, 2], stride=[2, 2]}
        %flat = reshape(%p) {shape=[N, 4, (H//2)*(W//2)]}
        %swap = reshape(%x) {shape=[N*H, 4*W]}
        %wide = expand(%one) {shape=[N, H - 1]}
        %cut = slice(%x) {axis=2, start=1, stop=H - 1}
        %mix = channel_shuffle(%x) {groups=2}
        %up = resize(%x) {size=[N, 4, 2*H, 2*W], scales=[1.0, 1.0, 2.0, 2.0]}
        return %flat, %swap, %wide, %cut, %mix, %up"""),
        "(N=1, H=6, W=8)",
    )
    proto = round_trip(graph, random_inputs(graph, **sizes))
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["N", 4, "H", "W"]
    assert load_onnx(proto).nominal == {"N": 1, "H": 6, "W": 8}
    assert proto.graph.output[2].type.tensor_type.shape.dim[1].dim_param == "H - 1"


def test_the_opset_is_the_newest_that_is_needed() -> None:
    plain = to_onnx(graph_of(f"{X}\n%y = relu(%x)\nreturn %y"))
    newer = to_onnx(graph_of(f"{X}\n%y = gelu(%x)\nreturn %y"))
    assert [plain.opset_import[0].version, newer.opset_import[0].version] == [18, 20]
    assert plain.ir_version <= newer.ir_version


def test_names_and_sources_are_kept() -> None:
    source = model(
        [node("Conv", "x w", "c/out"), node("Relu", "c/out")], {"x": ["N", 3, 8, 8]}, {"w": floats(4, 3, 3, 3)}
    )
    graph = load_onnx(source)
    proto = to_onnx(graph)
    assert [n.output[0] for n in proto.graph.node] == ["c/out", "y"]
    assert [n.name for n in proto.graph.node] == ["n_c/out", "n_y"]
    assert proto.graph.initializer[0].name == "w" and proto.graph.name == "net"
    assert str(load_onnx(proto)) == str(graph)
    merged = graph_of(f'{X}\n%y = relu(%x) from "conv", "bn"\nreturn %y')
    assert to_onnx(merged).graph.node[0].doc_string == "from conv, bn"


def test_nodes_that_come_from_one_node_have_names_of_their_own() -> None:
    graph = graph_of(f'{X}\n%a = relu(%x) from "n"\n%b = neg(%a) from "n"\n%n = abs(%b) from "m"\nreturn %n')
    names = [n.name for n in round_trip(graph).graph.node]
    assert names[0] == "n" and len(set(names)) == 3


def test_output_names() -> None:
    """Outputs that rename, repeat, pass on an input or a constant, or take the name of an inner value."""
    x = graph_input("x", DType.F32, (3,))
    c = constant("c", floats(3))
    a = make_node("add", "a", [x, c])
    b = make_node("neg", "b", [a])
    outputs = [Output("logits", "b"), Output("again", "b"), Output("a", "b"), Output("in", "x"), Output("weight", "c")]
    graph = Graph.build("g", [x, c, a, b], outputs)
    round_trip(graph)
    clash = Graph.build("g", [x, a, c], [Output("x", "a")])
    with pytest.raises(ModelError, match="output and input are both named x"):
        to_onnx(clash)


def test_networks_of_the_onnx_project_round_trip() -> None:
    data = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    for name in ("squeezenet", "shufflenet"):
        graph = load_onnx(data / f"light_{name}.onnx")
        (source,) = graph.inputs
        x = np.random.default_rng(0).random(source.type.concrete({}), np.float32)
        assert_close(runtime(to_onnx(graph), {source.name: x}), list(run_graph(graph, {source.name: x}).values()))


def test_saving_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    graph = graph_of(f"{X}\n%y = relu(%x)\nreturn %y")
    save_onnx(graph, path)
    assert str(load_onnx(path)) == str(load_onnx(to_onnx(graph)))
    before = path.read_bytes()
    x = graph_input("x", DType.F32, (3,))
    with pytest.raises(ModelError):
        save_onnx(Graph.build("g", [x, make_node("neg", "a", [x])], [Output("x", "a")]), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    with pytest.raises(InputError, match="cannot write"):
        save_onnx(graph, tmp_path / "no" / "model.onnx")


def test_what_cannot_be_exported() -> None:
    resize = '{size=[2, 6, 11, 8], scales=[1.0, 1.0, 1.2, 1.0], mode="linear"}'
    with pytest.raises(ModelError, match=r"resize %y: .* do not agree"):
        to_onnx(graph_of(f"{X}\n%y = resize(%x) {resize}\nreturn %y"))
    graph = Graph.build("g", [constant("c", np.zeros(1 << 29, np.float32))], ["c"])
    with pytest.raises(LimitError, match="2 GiB"):
        to_onnx(graph)
