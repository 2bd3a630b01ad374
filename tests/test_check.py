"""Wrong kernels, passes and programs, planted on purpose, are found and reduced to what is wrong."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from measure_support import write_small

from convc.check.locate import Fault, Locator
from convc.check.subgraph import extract, frontier
from convc.cli import check
from convc.cli.main import main
from convc.compiler import Reference, optimise
from convc.frontends.builder import Builder
from convc.ir.graph import Graph, Node, make_node
from convc.ir.patch import Draft, Patch
from convc.model import CompiledModel, Options
from convc.passes.base import Numerics, Pass
from convc.passes.driver import RewritePass, Rule
from convc.passes.manager import resolve
from convc.passes.pattern import required
from convc.types import Array

PASSES = ("fold_constants", "fuse_batchnorm", "fuse_epilogue", "eliminate_dead")


def network() -> Graph:
    """Two convolutions, the second with a residual, a pool and a linear; N is free."""
    b = Builder("net", seed=3)
    x = b.input("x", ("N", 4, 8, 8), nominal={"N": 1})
    y = b.relu(b.batch_norm(b.conv(x, 8, kernel=3, name="conv1"), name="bn1"), name="relu1")
    z = b.batch_norm(b.conv(y, 8, kernel=3, name="conv2"), name="bn2")
    z = b.relu(b.add(z, y, name="sum"), name="relu2")
    pooled = b.max_pool2d(z, kernel=(2, 2), stride=(2, 2), name="pool")
    return b.finish({"scores": b.linear(b.flatten(b.global_avg_pool(pooled)), 5, name="head")})


class Wrong(Reference):
    """The interpreter on a graph in which some nodes have been changed behind its back."""

    def __init__(self, graph: Graph, bend: Callable[[Graph], Graph]) -> None:
        super().__init__(graph)
        self.bent = Reference(bend(graph))

    def run(self, inputs: Sequence[Array], sizes: Mapping[str, int]) -> list[Array]:
        return self.bent.run(inputs, sizes)


def locate(bend: Callable[[Graph], Graph] = lambda graph: graph, passes: Sequence[str | Pass] = PASSES) -> Fault:
    graph, options = network(), Options("reference")

    def compile(part: Graph, passes: Sequence[Pass]) -> CompiledModel:
        after, records = optimise(part, options, passes)
        return CompiledModel(after, records, options, Wrong(after, bend))

    inputs = {"x": np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)}
    found = Locator(graph, inputs, compile, list(enumerate(resolve(passes), 1)), 1e-4).locate()
    assert found is not None
    json.dumps(found.to_json())
    return found


def remake(graph: Graph, change: Callable[[Node], Mapping[str, object] | None]) -> Graph:
    """The graph with other attributes for some nodes."""
    made: dict[str, Node] = {}
    for node in graph.nodes:
        attrs = change(node) if node.op != "constant" else None
        operands = [made[i] if i is not None else None for i in node.inputs]
        made[node.name] = node if attrs is None else make_node(node.op, node.name, operands, {**node.attrs, **attrs})
    return Graph.build(graph.name, made.values(), graph.outputs, graph.nominal)


def test_a_wrong_fused_kernel_is_reduced_to_what_is_fused() -> None:
    def bend(graph: Graph) -> Graph:  # a residual convolution forgets its activation
        return remake(graph, lambda n: {"activation": None} if n.op == "conv2d" and n.input("residual") else None)

    found = locate(bend)
    assert (found.node, found.operator, found.cause, found.made_by) == ("relu2", "relu", "kernel", "fuse_epilogue")
    assert [node.name for node in found.part.operators] == ["conv2", "bn2", "sum", "relu2"]
    assert found.culprits == ("conv2d %conv2",)
    assert found.pass_index == 3
    assert set(found.inputs) == {"relu1"} and found.inputs["relu1"].dtype == np.float32


def test_a_kernel_that_is_wrong_without_fusion_is_reduced_to_its_node() -> None:
    found = locate(
        lambda g: remake(g, lambda n: {"padding": (1, 1, 0, 0), "ceil_mode": True} if n.op == "max_pool2d" else None)
    )
    assert (found.node, found.cause, found.made_by, found.pass_index) == ("pool", "kernel", None, None)
    assert [node.name for node in found.part.operators] == ["pool"]


def test_a_pass_that_changes_the_meaning_is_named() -> None:
    bad = RewritePass(
        "bad_relu", Numerics.EXACT, "turns relu into leaky_relu",
        (Rule("bad", frozenset({"relu"}), lambda draft, node: node, make_leaky),),
    )  # fmt: skip
    found = locate(passes=["fold_constants", "fuse_batchnorm", bad, "fuse_epilogue"])
    assert (found.node, found.cause, found.made_by, found.pass_index) == ("relu1", "pass", "bad_relu", 3)
    assert [node.name for node in found.part.operators] == ["relu1"] and found.kernels == ()


def make_leaky(draft: Draft, node: Node) -> Patch:
    return Patch(nodes=(make_node("leaky_relu", node.name, [required(draft, node, "x")], {"alpha": 0.5}),))


def test_a_program_that_is_wrong_as_a_whole_keeps_its_nodes() -> None:
    def bend(graph: Graph) -> Graph:  # wrong only where a pool follows a convolution
        ops = {node.op for node in graph.operators}
        wrong = {"conv2d", "max_pool2d"} <= ops
        return remake(graph, lambda n: {"stride": (2, 2), "padding": (0, 0, 0, 0), "kernel": (1, 1)}
                      if wrong and n.op == "max_pool2d" else None)  # fmt: skip

    found = locate(bend)
    assert (found.node, found.cause) == ("pool", "program")
    assert {"conv2", "pool"} <= {node.name for node in found.part.operators}
    assert "conv1" not in found.part


def test_parts_of_a_graph_have_what_they_read_as_inputs() -> None:
    graph = network().bind(N=1)
    part = extract(graph, ["relu2"], {"conv2", "relu1"})
    assert [node.name for node in part.inputs] == ["relu1", "conv2"]
    assert [node.name for node in part.operators] == ["bn2", "sum", "relu2"]
    assert frontier(graph, graph.operators, 3) == ["relu1"]
    assert frontier(graph, graph.operators, 4) == ["relu1", "conv2"]
    assert frontier(graph, graph.operators, len(graph.operators)) == ["head"]


# The command


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_small(tmp_path_factory.mktemp("check"))


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    return parser.parse_args([*words, "--threads", "1"])


def test_a_network_that_is_right(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    assert main(["check", small, "--json", "--seed", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same"] and found["read_alike"] and found["engine"] == "" and found["fault"] is None
    errors = found["outputs"][0]
    assert errors["compiled"]["error"] < 1e-5 and errors["onnxruntime"]["error"] < 1e-5
    assert main(["check", small, "--no-onnxruntime"]) == 0
    text = capsys.readouterr().out
    assert "does what the interpreter does" in text and "onnxruntime" not in text


def test_a_wrong_kernel_inside_a_fused_group_is_found_and_written(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(name: str, source: str) -> str:  # the last multiply-adds of each sum are forgotten, where relu is fused
        wrong = re.sub(r"end_w = weights \+ stop \*", r"end_w = weights + (stop - 3) *", source)
        assert "relu" not in name or "conv" not in name or wrong != source
        return wrong if "relu" in name else source

    words = (
        "--no-onnxruntime",
        "--reduce",
        str(tmp_path / "wrong"),
        "--passes",
        "fold_constants,fuse_batchnorm,fuse_epilogue",
    )
    assert check.run(parse(small, *words, "--json"), edit) == 1
    found = json.loads(capsys.readouterr().out)
    fault = found["fault"]
    assert not found["same"] and fault["node"] == "act" and fault["made_by"] == "fuse_epilogue"
    assert fault["culprits"] == ["conv2d %stem"] and fault["cause"] == "kernel" and fault["pass_index"] == 3
    assert len(fault["kernels"]) == 1 and "relu" in fault["kernels"][0]
    assert [line.partition(":")[0] for line in fault["part"]] == ["conv2d %stem", "batch_norm %norm", "relu %act"]
    written = {Path(path).name for path in found["files"]}
    assert {"failing.onnx", "failing.txt", "inputs.npz", "expected.npz", "found.npz", "report.json"} <= written
    assert not [path for path in (tmp_path / "wrong").iterdir() if path.suffix == ".tmp"]
    inputs = str(tmp_path / "wrong" / "inputs.npz")
    for name in ("failing.onnx", "failing.txt"):
        again = (str(tmp_path / "wrong" / name), "--input", inputs, "--no-onnxruntime", *words[3:])
        assert check.run(parse(*again, "--no-locate"), edit) == 1
        assert "DIFFERENT" in capsys.readouterr().out
        assert check.run(parse(*again)) == 0
    assert check.run(parse(small, *words[:1], *words[3:]), edit) == 1
    text = capsys.readouterr().out
    assert "first node that is off: relu %act" in text
    assert "right ahead of pass 3, fuse_epilogue, and wrong after it" in text
    assert f"conv2d %stem is computed wrongly by {fault['kernels'][0]}" in text


def test_a_compiled_file_is_checked_against_its_own_graph(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", small, "-o", str(tmp_path / "small.convc"), "--threads", "1"]) == 0
    assert main(["check", str(tmp_path / "small.convc"), "--no-onnxruntime"]) == 0
    assert "does what the interpreter does" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_named(small: str, tmp_path: Path) -> None:
    from convc.check.reduce import write_fault
    from convc.errors import InputError

    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the folder .*file/wrong: .* Hint: choose another"):
        write_fault(locate(lambda g: remake(g, lambda n: {"kernel": (1, 1)} if n.op == "max_pool2d" else None)),
                    tmp_path / "file" / "wrong", "cpu")  # fmt: skip
