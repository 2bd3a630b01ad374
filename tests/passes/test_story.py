"""The story of a node through the passes, in Python and on the command line; examples/custom_pass.py."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from support import assert_refuses, assert_rewrites, graph_of

import convc
from convc.cli.main import main
from convc.passes import PIPELINES, Numerics
from convc.passes.driver import RewritePass

ROOT = Path(__file__).resolve().parents[2]
NET = """
    %x = input : f32[N, 4, 8, 8]
    %w = constant normal(seed=1) : f32[6, 4, 3, 3]
    %one = constant full(1.0) : f32[6]
    %c = conv2d(%x, %w) {padding=[1, 1, 1, 1]} from "net/conv"
    %bn = batch_norm(%c, %one, %one, %one, %one) from "net/bn"
    %r = relu(%bn) from "net/relu"
    %d = dropout(%r)
    %s = channel_shuffle(%d) {groups=2}
    %e = exp(%s)
    return %e, %r
    """


@pytest.fixture(scope="module")
def model() -> convc.CompiledModel:
    return convc.compile(graph_of(NET, "(N=2)"), target="reference")


def test_what_became_of_a_node_that_was_absorbed(model: convc.CompiledModel) -> None:
    story = model.explain("bn")
    assert story.began[0].startswith("batch_norm %bn: f32[N, 6, 8, 8]")
    assert [event.rule for event in story.events if event.kind == "rewrite"][:2] == [
        "fuse_batchnorm_after", "fuse_activation",
    ]  # fmt: skip
    assert len(story.ended) == 1 and story.ended[0].startswith("conv2d %c: f32[N, 6, 8, 8]")


def test_a_refusal_is_told_with_its_reason(model: convc.CompiledModel) -> None:
    events = [event for event in model.explain("s").events if event.kind == "refusal"]
    assert any("%e is an output of the graph" in event.text for event in events)
    assert "not sink_permutation at %s" in str(model.explain("%s"))


def test_names_of_the_description_are_known(model: convc.CompiledModel) -> None:
    assert model.explain("net/relu").ended == model.explain("r").ended
    assert json.loads(json.dumps(model.explain("net/bn").to_json()))["node"] == "net/bn"


def test_a_node_that_is_gone_and_one_that_no_pass_touched(model: convc.CompiledModel) -> None:
    assert "drop_identity" in str(model.explain("d"))
    assert "no pass touched it" in str(model.explain("x"))


def test_an_unknown_node_is_refused_with_similar_names(model: convc.CompiledModel) -> None:
    with pytest.raises(convc.InputError, match="no stage of the passes has a node %bm") as error:
        model.explain("bm")
    assert "%bn" in error.value.hint


def test_the_kernel_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "net.txt"
    source.write_text(str(graph_of("%x = input : f32[1, 16, 4, 4] %y = relu(%x) return %y")))
    assert main(["inspect", "passes", str(source), "--explain", "y"]) == 0
    assert "runs as f32" in capsys.readouterr().out
    assert main(["inspect", "passes", str(source), "--explain", "y", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["node"] == "y" and any("relu" in kernel for kernel in told["kernels"])


# ---- passes of users' own ------------------------------------------------------------------------------------------


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "custom_pass.py"))
    example["main"]()
    out = capsys.readouterr().out
    assert "fold_relu_into_clip (exact): 1 rewrites, 1 refusals" in out
    assert "not clipped_relu at %second: %relu_1 is an output of the graph" in out
    assert "is now conv2d %conv" in out and "runs as f32_conv" in out
    one: RewritePass = example["FOLD_RELU_INTO_CLIP"]
    assert one.numerics is Numerics.EXACT
    head = "%x = input : f32[2, 3, 4, 4] %r = relu(%x)"
    assert_rewrites(
        one,
        f"{head} %y = clip(%r) {{min=-1.0, max=2.0}} return %y",
        "%x = input : f32[2, 3, 4, 4]\n%y = clip(%x) {min=0.0, max=2.0}\nreturn %y",
    )
    assert_refuses(one, f"{head} %y = clip(%r) {{max=-2.0}} return %y", "y", "its upper bound, -2.0, is below zero")
    assert_refuses(one, f"{head} %y = clip(%r) {{max=2.0}} return %y, %r", "y", "%r is an output")


def test_passes_by_name_and_a_stop() -> None:
    graph = graph_of(NET, "(N=2)")
    some = convc.compile(graph, target="reference", passes=["fold_constants", "fuse_batchnorm"])
    assert [record.name for record in some.records] == ["fold_constants", "fuse_batchnorm"]
    part = convc.compile(graph, target="reference", stop_after="fuse_batchnorm")
    assert part.records[-1].name == "fuse_batchnorm" and len(part.records) < len(PIPELINES["default"])
    assert len(convc.compile(graph, target="reference", stop_after=2).records) == 2
    with pytest.raises(convc.InputError, match="stop_after='fuse' is no pass of this pipeline"):
        convc.compile(graph, target="reference", stop_after="fuse")
