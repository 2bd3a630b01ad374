"""What the ONNX importer refuses: by type of error, and by what it says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from onnx_support import floats, model, node

from convc.errors import Error, InputError, LimitError, ModelError
from convc.frontends.onnx import load_onnx
from convc.interp import run_graph
from convc.limits import Limits


def refused(kind: type[Error], source: Any, *parts: str, **options: Any) -> None:
    """Loading raises that kind of error, with a hint; its text holds all parts."""
    with pytest.raises(kind) as caught:
        load_onnx(source, **options)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert all(part in text for part in parts), text
    assert caught.value.hint


def small() -> onnx.ModelProto:
    return model([node("MatMul", "x w", "m"), node("Relu", "m")], {"x": ["N", 3]}, {"w": floats(3, 400)})


# Files


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    refused(ModelError, tmp_path / "none.onnx", "none.onnx does not exist", "check the path")
    refused(ModelError, tmp_path, "is a directory, not an ONNX file")
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    refused(ModelError, empty, "empty.onnx is empty")
    refused(ModelError, str(empty), "empty.onnx is empty")
    refused(ModelError, b"", "the given bytes is empty")
    text = tmp_path / "text.onnx"
    text.write_text("ir_version: 8\ngraph {}\n")
    refused(ModelError, text, "text.onnx is not an ONNX file")
    refused(ModelError, b"\x89PNG\r\n\x1a\n" + bytes(100), "is not an ONNX file")
    refused(ModelError, onnx.ModelProto(), "it has no graph")
    refused(ModelError, b"\x08\x08", "it has no graph")
    refused(InputError, 3, "cannot load a model from int")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(ModelError, tmp_path / "pipe.onnx", "is not a regular file")


def test_a_truncated_file(tmp_path: Path) -> None:
    data = small().SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in (len(data) // 2, len(data) - 1, 40):
        path.write_bytes(data[:length])
        refused(ModelError, path, "cut.onnx is truncated or damaged", "export or download it again")


def test_files_paths_bytes_and_protos_load_alike(tmp_path: Path) -> None:
    proto = small()
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    graphs = [load_onnx(s) for s in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), proto)]
    assert len({str(g) for g in graphs}) == 1
    path.write_bytes(b"overwritten")
    y = run_graph(graphs[0], {"x": floats(2, 3)})["y"]
    np.testing.assert_allclose(y, np.maximum(floats(2, 3) @ floats(3, 400), 0), rtol=1e-4, atol=1e-6)
    assert graphs[0]["w"].array.flags.aligned


def test_opsets_out_of_range() -> None:
    proto = small()
    proto.opset_import[0].version = 6
    refused(ModelError, proto, "opset 6, older than 7")
    proto.opset_import[0].version = 10_000
    refused(ModelError, proto, "opset 10000, newer than", "upgrade the onnx package")


# Operators


def test_all_unknown_operators_at_once_before_anything_else() -> None:
    nodes = [
        node("NonMaxSuppression", "x x", "a"),
        node("Det", "a", "b"),
        node("Det", "b", "c"),
        helper.make_node("Fancy", ["c"], ["y"], name="deep", domain="com.corp"),
    ]
    proto = model(nodes, {"x": [-3]})
    refused(
        ModelError, proto, "operators that are not supported", "NonMaxSuppression (n_a)", "Det (n_b and 1 more)",
        "com.corp::Fancy (deep)",
    )  # fmt: skip


def _conv(**attrs: Any) -> onnx.ModelProto:
    return model([node("Conv", "x w", **attrs)], {"x": [1, 3, 8, 8]}, {"w": floats(4, 3, 3, 3)}, opset=11)


def test_attributes_by_name() -> None:
    refused(ModelError, _conv(bogus=1), "Conv n_y: attribute bogus is not supported in opset 11", "it has: auto_pad")
    refused(ModelError, _conv(group=1.5), "attribute group has another type than INT")
    refused(ModelError, _conv(auto_pad="SAME"), "attribute auto_pad=SAME", "SAME_UPPER")
    refused(ModelError, _conv(strides=[1, 1, 1]), "attribute strides=[1, 1, 1] has 3 values, expected 2")
    refused(ModelError, _conv(kernel_shape=[5, 5]), "kernel_shape=[5, 5], but weight %w is f32[4, 3, 3, 3]")
    refused(ModelError, _conv(strides=[0, 1]), "expected 1 or more")
    refused(ModelError, _conv(group=2), "Conv n_y: conv2d", "groups=2 must divide in_channels=3")
    refused(
        ModelError,
        model([node("Mish", "x")], {"x": [1]}, opset=13),
        "Mish n_y: the operator does not exist in opset 13",
    )


def test_sums_along_an_axis_of_unknown_size() -> None:
    def summed(size: int | str) -> onnx.ModelProto:
        return model([node("CumSum", "x a")], {"x": [2, size]}, {"a": np.array(1)}, opset=13)

    refused(ModelError, summed("N"), "CumSum n_y: the size of axis 1 of f32[2, N] is not fixed", "input_shapes")
    refused(LimitError, summed(1 << 20), "CumSum n_y", "sums y along 1048576 elements")


def test_a_product_with_an_axis_of_unknown_size() -> None:
    proto = model([node("MatMul", "x w")], {"x": [2, "K"]}, {"w": floats(3, 4)})
    refused(ModelError, proto, "MatMul n_y", "f32[2, K], expected 3 at its last axis", "fix the sizes of x")


def test_volumes() -> None:
    proto = model([node("Conv", "x w")], {"x": [1, 3, 8, 8, 8]}, {"w": floats(4, 3, 3, 3, 3)})
    refused(
        ModelError, proto, "Conv n_y: input %x is f32[1, 3, 8, 8, 8]", "3-D convolution and pooling are not supported"
    )


def test_training_is_refused() -> None:
    stats = {name: np.ones(3, np.float32) for name in "gbmv"}
    nodes = [node("BatchNormalization", "x g b m v", "y r s", training_mode=1)]
    refused(ModelError, model(nodes, {"x": [1, 3, 4]}, stats), "training_mode=1", "model.eval()")
    nodes = [node("BatchNormalization", "w g b m v", "z r s", training_mode=1), node("Add", "x r")]
    stats["w"] = floats(1, 3, 4)
    refused(ModelError, model(nodes, {"x": [3]}, stats), "BatchNormalization", "is not computed")
    nodes = [node("BatchNormalization", "x g b m v", "y r s t u")]
    refused(ModelError, model(nodes, {"x": [1, 3, 4]}, stats, opset=9), "running statistics are outputs")
    nodes = [node("BatchNormalization", "x g b m v", spatial=0)]
    refused(ModelError, model(nodes, {"x": [1, 3, 4]}, stats, opset=7), "spatial=0")
    drop = model([node("Dropout", "x r t")], {"x": [3]}, {"r": np.float32(0.5), "t": np.array(True)}, opset=13)
    refused(ModelError, drop, "Dropout n_y: training_mode is not false")
    masked = model([node("Dropout", "x", "y m")], {"x": [3]}, opset=13, outputs="y m")
    refused(ModelError, masked, "output m: m is output 1 of Dropout n_y, which is not computed")
    pooled = model([node("MaxPool", "x", "z i", kernel_shape=[2]), node("Cast", "i", to=1)], {"x": [1, 3, 8]})
    refused(ModelError, pooled, "Cast n_y: i is output 1 of MaxPool n_z")


def test_control_flow() -> None:
    branch = helper.make_graph([node("Relu", "x", "t")], "b", [], [onnx.ValueInfoProto(name="t")])
    proto = model([node("If", "c", then_branch=branch, else_branch=branch)], {"x": [3], "c": np.array(True)})
    refused(ModelError, proto, "If n_y: operator If is not supported where its condition is computed at run time")


@pytest.mark.parametrize(
    ("nodes", "parts"),
    [
        ([node("Reshape", "x s")], ["Reshape n_y", "f32[2, 6] with 12 elements does not become [5, -1]"]),
        ([node("Slice", "x s s s s")], ["Slice n_y"]),
        ([node("Concat", "x w", axis=3)], ["Concat n_y", "axis=3 is out of range"]),
        ([node("Add", "x w")], ["Add n_y", "do not broadcast", "%x: f32[2, 6]"]),
        ([node("Squeeze", "x a")], ["Squeeze n_y", "axis 1 of %x: f32[2, 6] is not 1"]),
        ([node("Split", "x s")], ["Split n_y", "does not divide"]),
        ([node("Transpose", "x", perm=[0, 0])], ["Transpose n_y", "perm"]),
        ([node("Gemm", "x x")], ["Gemm n_y"]),
        ([node("Clip", "x s")], ["Clip n_y: min has shape [2]"]),
        ([node("Pad", "x a")], ["Pad n_y: pads=[1] do not fit 2 axes"]),
        ([node("Reshape", "x v")], ["Reshape n_y: shape (v) is computed at run time"]),
        ([node("Relu", "_")], ["Relu n_y: input 0 is missing"]),
        ([node("Relu", "s")], []),
        ([node("Expand", "x n")], ["Expand n_y", "[-5, 6] do not broadcast"]),
    ],
    ids=str,
)
def test_nodes_that_do_not_fit(nodes: list[onnx.NodeProto], parts: list[str]) -> None:
    weights = {
        "s": np.array([5, -1], np.int64), "a": np.array([1], np.int64), "w": floats(3, 5),
        "n": np.array([-5, 6], np.int64),
    }  # fmt: skip
    proto = model(nodes, {"x": [2, 6], "v": np.zeros(2, np.int64)}, weights, opset=13)
    if parts:
        refused(ModelError, proto, *parts)
    else:
        load_onnx(proto)


# Structure


def test_names() -> None:
    refused(ModelError, model([node("Relu", "x", "y"), node("Abs", "x", "y")], {"x": [1]}), "two values are named y")
    refused(
        ModelError,
        model([node("Relu", "x", "x")], {"x": [1]}, outputs="x"),
        "two values are named x: input, and output",
    )
    refused(
        ModelError,
        model([node("Relu", "weight")], {"weigth": [1]}),
        "weight, which nothing defines",
        "did you mean weigth?",
    )
    refused(ModelError, model([node("Relu", "x")], {"x": [1]}, outputs="z"), "output z is computed by no node")
    refused(ModelError, model([node("Relu", "x")], {"x": [1]}, outputs="y y"), "output y is listed twice")
    refused(ModelError, model([node("Relu", "x")], {"x": [1]}, outputs=""), "has no outputs")


def test_a_cycle_is_named() -> None:
    nodes = [node("Add", "x c", "a"), node("Relu", "a", "b"), node("Neg", "b", "c"), node("Abs", "c")]
    refused(ModelError, model(nodes, {"x": [1]}), "the graph has a cycle: n_a -> n_b -> n_c -> n_a")


def test_types() -> None:
    proto = small()
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    refused(ModelError, proto, "input x has element type string, which is not supported", "f32")
    proto = small()
    proto.graph.initializer[0].data_type = TensorProto.BFLOAT16
    refused(ModelError, proto, "weight w has element type bfloat16")
    refused(
        ModelError,
        model([node("Cast", "x", to=TensorProto.FLOAT8E4M3FN)], {"x": [1]}, opset=19),
        "Cast n_y",
        "float8e4m3fn",
    )
    proto = small()
    proto.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [1])))
    refused(ModelError, proto, "input x is a sequence, expected a tensor")


def test_sparse_tensors() -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(floats(1), "s"), numpy_helper.from_array(np.array([0], np.int64), "i"), [3]
    )
    proto = small()
    proto.graph.sparse_initializer.append(sparse)
    refused(ModelError, proto, "weight s is a sparse tensor", "store it dense")
    refused(
        ModelError,
        model([node("Constant", "", sparse_value=sparse)], {}),
        "Constant n_y: attribute sparse_value is not supported",
    )


def test_sizes_of_inputs() -> None:
    for size in (0, -1):
        proto = small()
        proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = size
        refused(
            ModelError,
            proto,
            f"axis 1 of input x has size {size} (shape [N, {size}])",
            'input_shapes={"x": (None, "N",)}',
        )
    assert load_onnx(proto, input_shapes={"x": (None, 3)})


# Weights


def _declare(dims: list[int], **fields: Any) -> onnx.ModelProto:
    proto = model([node("Relu", "w")], {}, {"w": floats(1)})
    del proto.graph.initializer[:]
    proto.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, **fields))
    return proto


def test_shapes_of_weights() -> None:
    refused(ModelError, _declare([3, 0]), "weight w has shape [3, 0]", "sizes of weights must be 1 or more")
    refused(ModelError, _declare([-4], raw_data=bytes(16)), "weight w has shape [-4]")
    refused(
        ModelError, _declare([4], raw_data=bytes(15)), "f32[4] needs 16 bytes, the model holds 15", "missing or damaged"
    )
    refused(ModelError, _declare([4]), "needs 4 elements, the model holds 0")
    refused(ModelError, _declare([2], float_data=[1, 2, 3]), "needs 2 elements, the model holds 3")


def test_a_weight_declared_larger_than_the_file() -> None:
    refused(LimitError, _declare([1 << 29]).SerializeToString(), "the model holds 0", "do not trust this file")
    refused(LimitError, _declare([1 << 29], raw_data=b"1234"), "needs 2147483648 bytes, the model holds 4")
    refused(LimitError, _declare([1 << 40, 1 << 40]), "more than limits.tensor_bytes")
    refused(LimitError, _declare([(1 << 63) - 1, (1 << 63) - 1]), "more than limits.tensor_bytes")


def test_limits() -> None:
    proto = small()
    refused(LimitError, proto, "limits.nodes=1", limits=Limits(nodes=1))
    refused(LimitError, proto, "limits.model_bytes=100", limits=Limits(model_bytes=100))
    refused(LimitError, proto.SerializeToString(), "limits.model_bytes=100", limits=Limits(model_bytes=100))
    refused(LimitError, proto, "weight w", "limits.tensor_bytes=1000", limits=Limits(tensor_bytes=1000))
    refused(LimitError, proto, "multiply-adds, more than limits.macs=5", limits=Limits(macs=5))
    refused(LimitError, model([node("Relu", "x")], {"x": [1 << 20, 1 << 20]}), "tensor x", "limits.tensor_bytes")
    refused(LimitError, model([node("Relu", "x")], {"x": [1, "H", "W", 1 << 20]}), "tensor x", "limits.tensor_bytes")


def test_a_large_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    refused(LimitError, path, "huge.onnx takes 1099511627776 bytes")


HUGE = [
    ([node("ConstantOfShape", "s")], {"s": np.array([1 << 15, 1 << 16], np.int64)}, "limits.tensor_bytes"),
    ([node("ConstantOfShape", "s")], {"s": np.array([1 << 15, 1 << 14], np.int64)}, "limits.folded_bytes"),
    ([node("Expand", "w s")], {"s": np.array([1 << 31], np.int64), "w": floats(1)}, "limits.tensor_bytes"),
    ([node("Range", "a b c")], {"a": np.array(0), "b": np.array(1 << 40), "c": np.array(1)}, "limits.tensor_bytes"),
    ([node("Tile", "w s")], {"s": np.array([1 << 40], np.int64), "w": floats(1)}, "limits.tensor_bytes"),
    ([node("Pad", "w s")], {"s": np.array([1 << 40, 0], np.int64), "w": floats(1)}, "limits.tensor_bytes"),
    ([node("Resize", "w _ s")], {"s": np.array([1e12], np.float32), "w": floats(1)}, "limits.tensor_bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "weights", "limit"), HUGE, ids=lambda v: v[0].op_type if isinstance(v, list) else "")
def test_operators_that_make_huge_tensors(nodes: list[onnx.NodeProto], weights: dict[str, Any], limit: str) -> None:
    refused(LimitError, model(nodes, {}, weights, opset=13), f"{nodes[0].op_type} n_y", limit)


def test_integer_overflow_in_sizes() -> None:
    nodes = [node("Shape", "x", "s"), node("Mul", "s big", "t"), node("Mul", "t big", "u"), node("Mul", "u zero", "v"),
             node("Concat", "v", "y", axis=0)]  # fmt: skip
    weights = {"big": np.array([1 << 40], np.int64), "zero": np.array([0], np.int64)}
    graph = load_onnx(model(nodes, {"x": ["N"]}, weights))
    assert graph["y"].array.tolist() == [0]
    with pytest.raises(Error):
        load_onnx(model([*nodes[:3], node("Expand", "one u")], {"x": ["N"]}, {**weights, "one": floats(1)}))


# Functions


def _function(name: str, *calls: str) -> onnx.FunctionProto:
    names = ["a", *(f"v{i}" for i in range(1, len(calls))), "b"]
    nodes = [
        helper.make_node(op, [x], [y], domain="here" if op.startswith("f") else "")
        for op, x, y in zip(calls, names, names[1:], strict=False)
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("here", 1)]
    return helper.make_function("here", name, ["a"], ["b"], nodes, opsets)


def _calling(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    return model([helper.make_node("f0", ["x"], ["y"], domain="here")], {"x": [1]}, functions=functions)


def test_functions_that_explode_or_recur() -> None:
    doubling = [_function(f"f{i}", f"f{i + 1}", f"f{i + 1}") for i in range(30)]
    refused(LimitError, _calling(*doubling, _function("f30", "Relu")), "nodes or more", "limits.nodes")
    deep = [_function(f"f{i}", f"f{i + 1}") for i in range(60)]
    refused(LimitError, _calling(*deep, _function("f60", "Relu")), "functions call functions more than 32 deep")
    refused(ModelError, _calling(_function("f0", "f1"), _function("f1", "f0")), "calls itself")
    refused(ModelError, _calling(_function("f0", "Det")), "Det")


# External data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").write_bytes(floats(3, 400).tobytes())
    (tmp_path / "outside.bin").write_bytes(floats(3, 400).tobytes())
    return tmp_path / "model"


def _external(folder: Path, location: str, **entries: Any) -> Path:
    proto = small()
    tensor = proto.graph.initializer[0]
    external_data_helper.set_external_data(tensor, location, **entries)
    tensor.ClearField("raw_data")
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return folder / "model.onnx"


def test_external_data(folder: Path) -> None:
    path = _external(folder, "w.bin")
    assert np.array_equal(load_onnx(path)["w"].array, floats(3, 400))
    (folder / "part").mkdir()
    (folder / "part" / "two.bin").write_bytes(bytes(64) + floats(3, 400).tobytes())
    path = _external(folder, "part/two.bin", offset=64, length=4800)
    assert np.array_equal(load_onnx(path)["w"].array, floats(3, 400))


UNSAFE: list[tuple[str, Callable[[Path], object], str]] = [
    ("/etc/hostname", lambda f: None, "is not a relative path"),
    ("C:\\data", lambda f: None, "is not a relative path"),
    ("", lambda f: None, "is not a relative path"),
    ("../outside.bin", lambda f: None, "leaves or bends the model's folder"),
    ("part/../../outside.bin", lambda f: (f / "part").mkdir(), "leaves or bends the model's folder"),
    ("..\\outside.bin", lambda f: None, "leaves or bends the model's folder"),
    ("none.bin", lambda f: None, "does not exist"),
    ("link.bin", lambda f: (f / "link.bin").symlink_to(f.parent / "outside.bin"), "passes through a symbolic link"),
    ("link.bin", lambda f: (f / "link.bin").symlink_to("w.bin"), "passes through a symbolic link"),
    ("up/outside.bin", lambda f: (f / "up").symlink_to(f.parent, True), "passes through a symbolic link"),
    ("hard.bin", lambda f: os.link(f.parent / "outside.bin", f / "hard.bin"), "is a hard link"),
    ("part", lambda f: (f / "part").mkdir(), "is not a regular file"),
    ("short.bin", lambda f: (f / "short.bin").write_bytes(bytes(100)), "has 100 bytes, expected 4800 at offset 0"),
]  # fmt: skip


@pytest.mark.parametrize(("location", "prepare", "text"), UNSAFE, ids=lambda v: v if isinstance(v, str) else "")
def test_external_data_stays_inside_the_folder(
    folder: Path, location: str, prepare: Callable[[Path], object], text: str
) -> None:
    prepare(folder)
    refused(ModelError, _external(folder, location), "weight w", text)


def test_external_data_offsets(folder: Path) -> None:
    refused(ModelError, _external(folder, "w.bin", offset=8), "has 4800 bytes, expected 4800 at offset 8")
    refused(ModelError, _external(folder, "w.bin", offset=-8), "offset '-8'")
    refused(ModelError, _external(folder, "w.bin", length=48), "has length 48, its shape needs 4800")
    refused(ModelError, _external(folder, "w.bin", offset=10**18), "at offset 1000000000000000000")
    refused(
        ModelError, onnx.load(_external(folder, "w.bin"), load_external_data=False), "the model came without a folder"
    )


# Damage


def test_damaged_files_raise_errors_of_convc() -> None:
    """Whatever byte is changed or missing, the model loads or one of convc's errors says why not."""
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1], strides=[2, 2]), node("Relu", "c", "r"), node("Shape", "r", "s"),
        node("Gather", "s i", "n"), node("Concat", "n m", "t", axis=0),
        node("Reshape", "r t", "f"), node("Gemm", "f g"),
    ]  # fmt: skip
    weights = {
        "w": floats(2, 3, 3, 3), "b": floats(2), "i": np.array([0], np.int64), "m": np.array([-1], np.int64),
        "g": floats(32, 4),
    }  # fmt: skip
    data = model(nodes, {"x": ["N", 3, 8, 8]}, weights, opset=13).SerializeToString()
    random = np.random.default_rng(7)
    loaded = 0
    for trial in range(600):
        damaged = bytearray(data)
        for _ in range(1 + trial % 3):
            damaged[random.integers(len(data))] = random.integers(256)
        if trial % 10 == 0:
            damaged = damaged[: random.integers(len(data))]
        try:
            load_onnx(bytes(damaged), limits=Limits(tensor_bytes=1 << 24, model_bytes=1 << 24, folded_bytes=1 << 20))
            loaded += 1
        except Error:
            pass
    assert loaded > 50


def test_sizes_that_grow_without_end() -> None:
    """Squares of squares, and halves of halves: refused before they fill memory or the stack."""
    squares = [node("Shape", "x", "s0"), *(node("Mul", f"s{i} s{i}", f"s{i + 1}") for i in range(40))]
    proto = model([*squares, node("Expand", "one s40")], {"x": ["N"]}, {"one": floats(1)}, opset=13)
    refused(ModelError, proto, "Mul n_s", "a size has more than 1024 symbols")
    sums = [node("Shape", "x", "s0")]
    for i in range(40):
        sums += [node("Div", f"s{i} two", f"h{i}"), node("Add", f"h{i} s{i}", f"s{i + 1}")]
    proto = model([*sums, node("Expand", "one s40")], {"x": ["N"]}, {"one": floats(1), "two": np.array([2])}, opset=13)
    refused(ModelError, proto, "a size has more than 1024 symbols")
    pools = [node("MaxPool", f"v{i}", f"v{i + 1}", kernel_shape=[3], strides=[2]) for i in range(500)]
    proto = model([*pools, node("Relu", "v500")], {"v0": [1, 1, "W"]}, opset=13)
    pooled = load_onnx(proto)  # one division in all: (a // b + c) // d is (a + b * c) // (b * d)
    assert str(pooled[pooled.outputs[0].node].type.shape[2]).count("//") == 1
    halves = [node("Shape", "x", "t0")]
    for i in range(40):
        halves += [node("Div", f"t{i} two", f"g{i}"), node("Mul", f"g{i} three", f"t{i + 1}")]
    values = {"one": floats(1), "two": np.array([2]), "three": np.array([3])}
    proto = model([*halves, node("Expand", "one t40")], {"x": ["N"]}, values, opset=13)
    refused(ModelError, proto, "Div n_g", "or 32 divisions inside each other")


def test_many_small_computed_values_count() -> None:
    nodes = [node("ConstantOfShape", "s", f"v{i}") for i in range(20)]
    proto = model([*nodes, node("Sum", " ".join(f"v{i}" for i in range(20)))], {}, {"s": np.array([60_000])})
    refused(LimitError, proto, "limits.folded_bytes=1000000", limits=Limits(folded_bytes=1_000_000))
