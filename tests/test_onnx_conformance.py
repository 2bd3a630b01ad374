"""The ONNX project's own test data, through the importer and the interpreter: node tests, PyTorch exports, networks."""

from __future__ import annotations

import importlib
import pkgutil
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cpu_support import TARGETS
from onnx import TensorProto, numpy_helper, version_converter
from onnx.backend.test.case import node as node_cases
from onnx.backend.test.loader import load_model_tests

import convc
from convc.errors import ModelError, TargetError
from convc.frontends.onnx import load_onnx
from convc.frontends.onnx.table import IMPORTERS
from convc.frontends.onnx.tensors import DTYPES
from convc.interp import run_graph
from convc.types import Array

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"

REFUSED = {
    r"test_(averagepool|maxpool)_3d_.*": "3-D convolution and pooling are not supported",
    r"test_convtranspose_3d": "3-D convolution and pooling are not supported",
    r"test_batchnorm_.*_training_mode": "training_mode=1",
    r"test_training_dropout.*": "training_mode is not false",
    r"test_dropout_default_mask.*": "is not computed",
    r"test_maxpool_with_argmax_.*": "is not computed",
    r"test_resize_tf_crop_and_resize.*": "tf_crop_and_resize is not supported",
    r"test_reduce_.*_empty_set.*": "has size 0",
    r"test_reshape_allowzero_reordered": "has size 0",
    r"test_split_zero_size_splits_.*": "has size 0",
    r"test_if.*": "condition is computed at run time",
    r"test_not_[234]d": "older than 7",
    r"test_identity_(sequence|opt)": "expected a tensor",
    r"test_scatternd_(add|max|min|multiply).*": "reduction=",
}
"""Node tests that convc refuses, as patterns, and words of the refusal."""

UNLIKE = {
    r"test_resize_downsample_scales_(linear|cubic)_align_corners": "the last sample belongs to a plane of broken "
    "size; convc, PyTorch and ONNX Runtime take the size that comes out",
    r"test_col2im_5d": "images have two axes",
}
"""Node tests that are left out, with the reason."""


WITHOUT_KERNELS = (
    r"test_(cumsum_(?!.*int32).*|reduce_log_sum_exp_.*|reduce_(max|min)_bool_inputs|einsum_(sum|inner_prod|batch_matmul)"
    r"|pow_types_.*int.*|maxpool_2d_uint8|tile)"
)
"""Node tests of float64 and integers, and one of eight axes, that the CPU has no kernels for."""

COMPILED = [target for target in TARGETS if target != "cpu:portable"]
"""Targets that carry float16, as some node tests do."""


def _modules() -> list[str]:
    """Modules of node tests for operators that convc imports, found by name."""
    wanted = {op.lower() for op in IMPORTERS} | {"rangeop"}
    names = sorted(m.name for m in pkgutil.iter_modules(node_cases.__path__))
    return [name for name in names if name.replace("_", "") in wanted]


_FOUND: dict[str, list[Any]] = {}


def _cases(module: str) -> list[Any]:
    """Test cases of one module; importing it makes them."""
    if module not in _FOUND:
        before = len(node_cases._NodeTestCases)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(f"{node_cases.__name__}.{module}")
        _FOUND[module] = node_cases._NodeTestCases[before:]
    return _FOUND[module]


def _supported(proto: onnx.ModelProto) -> bool:
    """Whether all operators are known and all types are carried."""
    operators = all(n.domain == "" and (n.op_type in IMPORTERS or n.op_type == "If") for n in proto.graph.node)
    values = [*proto.graph.input, *proto.graph.output]
    kinds = {v.type.tensor_type.elem_type for v in values if v.type.HasField("tensor_type")}
    casts = {a.i for n in proto.graph.node for a in n.attribute if n.op_type == "Cast" and a.name == "to"}
    return operators and kinds | casts <= set(DTYPES)


def _array(value: Any) -> Array:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def _run(proto: onnx.ModelProto, inputs: Mapping[str, Array], fixed: Sequence[str], target: str) -> dict[str, Array]:
    """Outputs, with the inputs named by `fixed` made constants."""
    baked = onnx.ModelProto()
    baked.CopyFrom(proto)
    baked.graph.initializer.extend(numpy_helper.from_array(inputs[name], name) for name in fixed)
    graph, given = load_onnx(baked), {k: v for k, v in inputs.items() if k not in fixed}
    return run_graph(graph, given) if target == "reference" else convc.compile(graph, target=target).run(given)


def _run_either_way(proto: onnx.ModelProto, inputs: Mapping[str, Array], target: str) -> dict[str, Array]:
    """Shapes and parameters are inputs in node tests; where a constant is needed, all but the first become one."""
    try:
        return _run(proto, inputs, [], target)
    except ModelError:
        names = list(inputs)
        whole = inputs[names[0]].dtype.kind in "iu" or proto.graph.node[0].op_type == "Range"
        return _run(proto, inputs, names if whole else names[1:], target)


def _compare(found: Mapping[str, Array], expected: Sequence[Array], rtol: float, atol: float) -> None:
    assert len(found) == len(expected)
    for got, want in zip(found.values(), expected, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape, (got.dtype, got.shape, want.dtype, want.shape)
        half = want.dtype == np.float16
        rtol, atol = max(rtol, 2e-3 if half else 1e-4), max(atol, 1e-3 if half else 1e-6)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


def _matching(table: Mapping[str, str], name: str) -> str | None:
    return next((text for pattern, text in table.items() if re.fullmatch(pattern, name)), None)


@pytest.mark.parametrize("target", ["reference", *(pytest.param(t, marks=pytest.mark.slow) for t in COMPILED)])
@pytest.mark.parametrize("module", _modules())
def test_nodes_of_the_onnx_project(module: str, target: str) -> None:
    ran = 0
    for case in _cases(module):
        if not _supported(case.model) or _matching(UNLIKE, case.name):
            continue
        ran += 1
        names = [i.name for i in case.model.graph.input]
        for inputs, outputs in case.data_sets:
            refusal = _matching(REFUSED, case.name)
            if refusal is not None:
                with pytest.raises(ModelError, match=re.escape(refusal)):
                    load_onnx(case.model)
                continue
            given = dict(zip(names, map(_array, inputs), strict=True))
            if target != "reference" and re.fullmatch(WITHOUT_KERNELS, case.name):
                with pytest.raises(TargetError, match="Hint: "):
                    _run_either_way(case.model, given, target)
                continue
            try:
                found = _run_either_way(case.model, given, target)
                _compare(found, [_array(v) for v in outputs], case.rtol, case.atol)
            except Exception as error:
                raise AssertionError(f"{case.name}: {error}") from error
    assert ran, f"{module} has no test case that convc can run"


def test_most_supported_operators_have_node_tests() -> None:
    assert len(_modules()) > 90


def _stored(folder: Path) -> list[tuple[list[Array], list[Array]]]:
    def read(pattern: str, at: Path) -> list[Array]:
        files = sorted(at.glob(pattern), key=lambda f: int(f.stem.rpartition("_")[2]))
        return [numpy_helper.to_array(TensorProto.FromString(f.read_bytes())) for f in files]

    return [(read("input_*.pb", d), read("output_*.pb", d)) for d in sorted(folder.glob("test_data_set_*"))]


@pytest.mark.parametrize("kind", ["pytorch-converted", "pytorch-operator"])
def test_layers_exported_from_pytorch(kind: str) -> None:
    """The files are of opset 6; the converter brings them to 13."""
    left_out = re.compile(r".*3d.*|test_PReLU_\dd_multiparam")  # 3-D, and a slope that opset 7 does not broadcast
    ran = 0
    for case in load_model_tests(kind=kind):
        if left_out.fullmatch(case.name):
            continue
        folder = Path(case.model_dir or "")
        proto = onnx.load(folder / "model.onnx")
        try:
            proto = version_converter.convert_version(proto, 13)
        except RuntimeError:
            continue
        graph = load_onnx(proto)
        for inputs, outputs in _stored(folder):
            found = run_graph(graph, dict(zip([i.name for i in graph.inputs], inputs, strict=True)))
            _compare(found, outputs, 1e-3, 1e-5)
            ran += 1
    assert ran > 20


NETWORKS = {
    "bvlc_alexnet": 654.56, "densenet121": 2834.16, "inception_v1": 1431.56, "inception_v2": 2018.85,
    "resnet50": 4089.18,
    "shufflenet": 124.66, "squeezenet": 349.15, "vgg19": 19632.06, "zfnet512": 1481.73,
}  # fmt: skip
"""Multiply-adds in millions."""


QUICK = {"squeezenet", "shufflenet", "resnet50"}


def _some_slow(names: Sequence[str], quick: set[str]) -> list[Any]:
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", _some_slow([*NETWORKS], QUICK))
def test_networks_of_the_onnx_project(name: str) -> None:
    graph = load_onnx(DATA / "light" / f"light_{name}.onnx")
    (source,) = graph.inputs
    shape = source.type.concrete({})
    count = int(np.prod(shape))
    x = (np.arange(count).reshape(shape) / count).astype(np.float32)
    expected = TensorProto.FromString((DATA / "light" / f"light_{name}_output_0.pb").read_bytes())
    _compare(run_graph(graph, {source.name: x}), [numpy_helper.to_array(expected)], 1e-3, 1e-7)
    assert round(graph.macs() / 1e6, 2) == NETWORKS[name]


@pytest.mark.parametrize("name", _some_slow(["resnet50", "shufflenet"], {"shufflenet"}))
def test_networks_take_another_batch(name: str) -> None:
    """Their Reshape has the batch baked in."""
    path = DATA / "light" / f"light_{name}.onnx"
    (source,) = load_onnx(path).inputs
    graph = load_onnx(path, input_shapes={source.name: ("N", None, None, None)})
    x = np.random.default_rng(0).random((2, 3, 224, 224), np.float32)
    (found,) = run_graph(graph, {source.name: x}).values()
    (single,) = run_graph(graph, {source.name: x[1:]}).values()
    assert found.shape == (2, 1000)
    np.testing.assert_allclose(found[1:], single, rtol=1e-5)
