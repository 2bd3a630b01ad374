from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from support import graph_of

from convc.errors import InputError, LimitError, ModelError
from convc.ir.graph import Graph, Output, make_node
from convc.ir.parser import parse
from convc.limits import Limits
from convc.passes import PASSES, PIPELINES, run_passes
from convc.passes.base import Numerics, Pass, PassRecord, PassResult
from convc.passes.context import Context
from convc.passes.manager import Hooks

NET = """
    %x = input : f32[N, 3, 8, 8]
    %w = constant normal(seed=1) : f32[4, 3, 3, 3]
    %s = constant normal(seed=2, mean=1.0) : f32[4]
    %v = constant uniform(seed=3, low=0.5) : f32[4]
    %d = dropout(%x)
    %conv = conv2d(%d, %w) {padding=[1, 1, 1, 1]}
    %bn = batch_norm(%conv, %s, %s, %s, %v)
    %y = relu(%bn)
    %z = exp(%y)
    return %y as "logits", %z
    """


@dataclass(frozen=True)
class Broken:
    result: Graph
    name: str = "broken"
    numerics: Numerics = Numerics.EXACT
    doc: str = ""
    options: dict[str, object] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        return PassResult(self.result)


def test_default_pipeline_and_its_records() -> None:
    graph = graph_of(NET, "(N=2)")
    result, records = run_passes(graph)
    assert [n.op for n in result.operators] == ["conv2d", "exp"]
    assert result.outputs == (Output("logits", "conv"), Output("z", "z"))
    assert result["conv"].source == ("conv", "bn", "y")
    assert [r.name for r in records] == list(PIPELINES["default"])
    assert [r.index for r in records] == list(range(1, len(records) + 1))
    fused = next(r for r in records if r.name == "fuse_batchnorm")
    assert fused.numerics is Numerics.REASSOCIATES
    assert fused.ops_before == {"batch_norm": 1, "conv2d": 1, "exp": 1, "relu": 1}
    assert fused.ops_after == {"conv2d": 1, "exp": 1, "relu": 1}
    assert fused.macs_before == fused.macs_after == 2 * 4 * 64 * 27
    assert fused.changed and fused.seconds >= 0
    assert "1 rewrites" in str(fused)
    epilogue = next(r for r in records if r.name == "fuse_epilogue")
    assert [(r.rule, r.node) for r in epilogue.refusals] == [("fuse_activation", "z")]


def test_pipeline_none_fuses_nothing() -> None:
    graph = graph_of(NET, "(N=2)")
    result, _ = run_passes(graph, "none")
    assert [n.op for n in result.operators] == ["dropout", "conv2d", "batch_norm", "relu", "exp"]


def test_every_pass_is_in_the_table_under_its_name() -> None:
    for name, one in PASSES.items():
        assert isinstance(one, Pass)
        assert one.name == name and one.doc
    for pipeline in PIPELINES.values():
        assert set(pipeline) <= set(PASSES)


def test_names_and_passes_mix_and_stop_after_ends() -> None:
    graph = graph_of(NET)
    passes = ["eliminate_identity", PASSES["fuse_batchnorm"], "fuse_epilogue"]
    _, records = run_passes(graph, passes, stop_after="fuse_batchnorm")
    assert [r.name for r in records] == ["eliminate_identity", "fuse_batchnorm"]
    assert len(run_passes(graph, passes, stop_after=1)[1]) == 1
    assert run_passes(graph, [])[0] is graph


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: run_passes(g, "defualt"), "passes='defualt' is no pipeline. Hint: use default, none, or"),
        (lambda g: run_passes(g, ["fuse_bn"]), "there is no pass 'fuse_bn'. Hint: the passes are "),
        (lambda g: run_passes(g, [3]), "3 is neither a pass nor the name of one"),
        (lambda g: run_passes(g, "none", stop_after="fuse_epilogue"), "stop_after='fuse_epilogue' is no pass of this"),
    ],
)
def test_bad_calls(call, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call(graph_of(NET))
    assert message in str(caught.value)


GRAPH = graph_of(NET)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (replace(GRAPH, nodes=GRAPH.nodes[1:]), "dropout %d reads %x, which is no node"),
        (replace(GRAPH, outputs=GRAPH.outputs[:1]), "the outputs are not named as before"),
        (replace(GRAPH, outputs=(Output("logits", "conv"), Output("z", "x"))), "output z changed its type"),
        (graph_of('%q = input : f32[1]\n%z = exp(%q)\nreturn %z as "logits", %z'), "the inputs are not those"),
    ],
)  # fmt: skip
def test_the_pass_that_breaks_a_graph_is_named(result: Graph, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        run_passes(GRAPH, [Broken(result)])
    assert str(caught.value).startswith("pass broken broke the graph: ")
    assert message in str(caught.value)


def test_verification_may_be_left_out() -> None:
    result = replace(GRAPH, outputs=GRAPH.outputs[:1])
    assert run_passes(GRAPH, [Broken(result)], verify=False)[0] is result


def test_a_bad_graph_is_refused_before_any_pass() -> None:
    with pytest.raises(ModelError, match="dropout %d reads %x"):
        run_passes(replace(GRAPH, nodes=GRAPH.nodes[1:]), "none")
    with pytest.raises(LimitError):
        run_passes(GRAPH, "none", limits=Limits(nodes=2))


def test_instruments() -> None:
    class Watch(Hooks):
        def __init__(self) -> None:
            self.seen: list[tuple[str, str, int]] = []

        def should_run(self, index: int, one: Pass, graph: Graph) -> bool:
            return one.name != "fuse_batchnorm"

        def before(self, index: int, one: Pass, graph: Graph) -> None:
            self.seen.append(("before", one.name, len(graph.operators)))

        def after(self, index: int, one: Pass, before: Graph, after: Graph, record: PassRecord) -> None:
            assert record.name == one.name
            self.seen.append(("after", one.name, len(after.operators)))

    watch = Watch()
    _, records = run_passes(GRAPH, ["eliminate_identity", "fuse_batchnorm", "fuse_epilogue"], instruments=[watch])
    assert [r.name for r in records] == ["eliminate_identity", "fuse_epilogue"]
    assert watch.seen == [
        ("before", "eliminate_identity", 5), ("after", "eliminate_identity", 4),
        ("before", "fuse_epilogue", 4), ("after", "fuse_epilogue", 4),
    ]  # fmt: skip


def test_dumps(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "dump"
    graph = graph_of(NET)
    result, records = run_passes(graph, ["eliminate_dead", "eliminate_identity", "fuse_batchnorm"], dump_dir=folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "00-input.convc.txt",
        "01-eliminate_dead.after.txt", "01-eliminate_dead.before.txt", "01-eliminate_dead.json",
        *(f"{stem}.{end}" for stem in ("02-eliminate_identity", "03-fuse_batchnorm")
          for end in ("after.txt", "before.txt", "diff", "json")),
    ]  # fmt: skip
    assert parse((folder / "00-input.convc.txt").read_text()) == graph
    assert parse((folder / "03-fuse_batchnorm.after.txt").read_text()) == result
    diff = (folder / "02-eliminate_identity.diff").read_text()
    assert "\n-  %d = dropout(%x) : f32[N, 3, 8, 8]\n" in diff
    assert "\n+  %conv = conv2d(%x, %w)" in diff
    record = json.loads((folder / "03-fuse_batchnorm.json").read_text())
    assert PassRecord.from_json(record) == records[2]


def test_records_pickle() -> None:
    _, records = run_passes(GRAPH)
    assert pickle.loads(pickle.dumps(records)) == records


def test_an_identity_of_an_input_remains_where_it_is_an_output() -> None:
    graph = Graph.build("g", [GRAPH["x"], make_node("dropout", "d", [GRAPH["x"]])], ["d"], {"N": 1})
    result, _ = run_passes(graph)
    assert result["d"].op == "identity"
