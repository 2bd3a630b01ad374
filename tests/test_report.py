"""The report: figures equal to --json, nothing from elsewhere, texts escaped, graphs kept, readable drawings."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import pickle
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_support import HOSTILE, Page, described, residual

import convc
from convc.cli.inspect_html import with_view
from convc.cli.main import main
from convc.errors import InputError, ModelError
from convc.model import CompiledModel
from convc.passes.base import Numerics
from convc.passes.stages import Outline, Stages
from convc.report.blocks import FLAT, Block, find_blocks, scope_of
from convc.report.drawing import NODE_WIDTH, draw
from convc.report.layering import arrange
from convc.report.page import render


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return convc.compile(residual(), threads=1)


def outlines(**reads: str) -> list[Outline]:
    """Nodes by name (dots for double underscores) with the names they read, as drawings see them."""
    names = [name.replace("__", ".") for name in reads]
    return [
        Outline(name, "relu", tuple(read.split()), {}, "f32[1]", (1,), (name,), 0)
        for name, read in zip(names, reads.values(), strict=True)
    ]


def tree(block: Block, nodes: list[Outline]) -> Any:
    return [{m.label: tree(m, nodes)} if isinstance(m, Block) else nodes[m].name for m in block.members]


# The page


def test_figures_equal_those_of_json(model: CompiledModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from convc.measure.profile import profile

    saved = tmp_path / "net.convc"
    model.save(saved)
    measured = profile(model, seconds=0, rounds=1)
    convc.load(saved).report(tmp_path / "r.html", profile=measured)
    data = Page((tmp_path / "r.html").read_text("utf-8")).data
    for what in ("model", "passes", "program", "kernels"):
        assert main(["inspect", what, str(saved), "--json"]) == 0
        assert data[what] == json.loads(capsys.readouterr().out), what
    assert data["sources"] == dict(model.sources)
    figures = json.loads(json.dumps(measured.to_json()))
    assert data["profile"]["kernels"] == figures["kernels"]
    assert [step["seconds"] for step in data["profile"]["steps"]] == [step["seconds"] for step in figures["steps"]]
    assert data["memory"]["total"] == data["program"]["arena_bytes"] == data["totals"]["arena"]
    assert len(data["step_nodes"]) == len(data["program"]["steps"])


def test_each_node_has_its_past_and_what_became_of_it() -> None:
    data = Page(render(described(residual()))).data
    names = [node[0] for node in data["nodes"]]
    last, first = data["graphs"][data["at"][-1]], data["graphs"][data["at"][0]]

    def rules(places: list[list[int]]) -> list[str]:
        return [data["passes"][position]["rewrites"][number]["rule"] for position, number in places]

    (conv,) = [index for index in last["nodes"] if data["nodes"][index][1] == "conv2d"]
    before, after, heirs = data["histories"][conv]
    assert rules(before)[0] == "fuse_batchnorm_after" and "fuse_activation" in rules(before)
    assert after == [] and heirs == [names[conv]]
    (norm,) = [index for index in first["nodes"] if data["nodes"][index][1] == "batch_norm"]
    before, after, heirs = data["histories"][norm]
    assert before == [] and rules(after)[0] == "fuse_batchnorm_after" and names[conv] in heirs
    assert data["histories"][first["nodes"][0]] is None and len(data["histories"]) == len(names)


def test_the_page_is_whole_and_loads_nothing(model: CompiledModel) -> None:
    text = render(model)
    page = Page(text)
    (data, _), (_, script) = page.scripts
    assert data == {"type": "application/json", "id": "data"}
    for tag, attrs in page.tags:
        assert not {"src", "href", "srcset", "style"} & set(attrs) and not any(name.startswith("on") for name in attrs)
        assert tag not in {"link", "img", "iframe", "object", "base"}
    for part in (script, page.texts["style"]):
        assert not re.search(
            r"https?:|//[a-z]|@import|url\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", part
        )
    (policy,) = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    digests = [
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (script, page.texts["style"])
    ]
    assert policy == f"default-src 'none'; script-src 'sha256-{digests[0]}'; style-src 'sha256-{digests[1]}'"


def test_texts_of_a_model_are_data_only() -> None:
    text = render(described(residual(HOSTILE)))
    page = Page(text)
    assert (len(page.scripts) == 2 and text.isascii() is False) or len(page.scripts) == 2
    body = text.replace(page.scripts[1][1], "")
    for name in HOSTILE[:2]:
        assert name not in body
    assert not re.search(r"[<>&]", page.scripts[0][1])
    names = {node[0] for node in page.data["nodes"]}
    assert names >= set(HOSTILE)


@pytest.mark.parametrize("network", ["densenet121", "inception_v3"])
def test_large_networks_stay_small(network: str) -> None:
    model = described(convc.zoo.build(network))
    text = render(model)
    assert len(text.encode()) < 5e6
    data = Page(text).data
    assert model.stages is not None and data["at"] == list(model.stages.at)
    for stage, graph in zip(model.stages.graphs, data["graphs"], strict=True):
        members = [m for block in graph["blocks"] for m in block["members"]]
        assert sorted(m for m in members if m >= 0) == sorted(graph["nodes"])
        assert sorted(-m for m in members if m < 0) == list(range(1, len(graph["blocks"])))
        assert len(graph["nodes"]) + len(graph["constants"]) == len(stage.nodes) + len(stage.outputs)


def test_a_model_without_stages_steps_or_passes(tmp_path: Path) -> None:
    model = convc.compile(residual(), target="reference", passes=[])
    model.stages = None
    model.report(tmp_path / "r.html")
    data = Page((tmp_path / "r.html").read_text("utf-8")).data
    assert (data["at"], data["passes"], data["memory"]["buffers"]) == ([0], [], [])


def test_a_report_is_written_whole_or_not_at_all(model: CompiledModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*r\.html: .* Hint: check folder"):
        model.report(tmp_path / "nowhere" / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_inspect_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, page = tmp_path / "net.txt", tmp_path / "r.html"
    source.write_text(
        'graph "g" {\n  %x = input : f32[1, 3, 4, 4]\n  %y = relu(%x) : f32[1, 3, 4, 4]\n  return %y\n}\n'
    )
    assert main(["inspect", str(source), "--html", str(page)]) == 0
    assert capsys.readouterr().out.startswith(f"{page}: ")
    assert Page(page.read_text("utf-8")).data["profile"]["rounds"] >= 1
    assert main(["inspect", "passes", str(source), f"--html={page}", "--no-profile"]) == 0
    assert Page(page.read_text("utf-8")).data["profile"] is None


def test_the_view_may_be_left_out() -> None:
    views = ["model", "passes"]
    assert with_view(["inspect", "a.onnx", "--html", "r"], views) == ["inspect", "model", "a.onnx", "--html", "r"]
    assert with_view(["inspect", "a.onnx"], views) == ["inspect", "model", "a.onnx"]
    for words in (["inspect", "model"], ["inspect", "passes", "a.onnx", "--html=r"]):
        assert with_view(words, views) == words


def test_certificates_come_along_and_figures_that_are_not_finite_are_null() -> None:
    model = described(residual())
    at, record = next((at, record) for at, record in enumerate(model.records) if record.rewrites)
    figures = {"weight_error": 0.25, "output_error": float("nan")}
    rewrites = tuple(replace(rewrite, certificate=figures) for rewrite in record.rewrites)
    changed = replace(record, rewrites=rewrites, numerics=Numerics.APPROXIMATE)
    model.records = (*model.records[:at], changed, *model.records[at + 1 :])
    found = Page(render(model)).data["passes"][at]
    assert found["numerics"] == "approximate"
    assert found["rewrites"][0]["certificate"] == {"weight_error": 0.25, "output_error": None}


# Graphs kept with a model


def test_graphs_before_and_after_each_pass_are_kept() -> None:
    model = described(residual(), ("eliminate_dead", "fuse_batchnorm", "fuse_epilogue"))
    stages = model.stages
    assert stages is not None and stages.at == (0, 0, 1, 2)
    ops = [[node.op for node in stages.nodes(at) if node.op not in {"input", "constant"}] for at in range(3)]
    assert ops[0] == ["conv2d", "batch_norm", "relu", "add"] and ops[1] == ["conv2d", "relu", "add"]
    for record, before, after in zip(model.records, stages.at, stages.at[1:], strict=False):
        assert dict(record.ops_before) == Counter(ops[before]) and dict(record.ops_after) == Counter(ops[after])
        assert record.macs_after == sum(node.macs for node in stages.nodes(after))
    assert {node.name for node in stages.nodes(2)} == {node.name for node in model.graph.nodes}


def test_graphs_survive_saving_and_pickling_without_weights(model: CompiledModel, tmp_path: Path) -> None:
    assert model.stages is not None
    assert Stages.from_json(json.loads(json.dumps(model.stages.to_json()))) == model.stages
    model.save(tmp_path / "net.convc")
    assert convc.load(tmp_path / "net.convc").stages == model.stages
    assert pickle.loads(pickle.dumps(model)).stages == model.stages
    big = described(convc.zoo.build("resnet18"))
    assert len(pickle.dumps(big.stages)) < 200_000


@pytest.mark.parametrize(
    "wrong",
    [
        {}, [], {"outlines": 3, "graphs": [], "at": []}, {"outlines": [], "graphs": [], "at": []},
        {"outlines": [], "graphs": [[[0], []]], "at": [0]}, {"outlines": [], "graphs": [[[], [["y", "z"]]]], "at": [0]},
        {"outlines": [["a", "relu", ["b"], {}, "f32[1]", [1], [], 0]], "graphs": [[[0], []]], "at": [0]},
        {"outlines": [["a", "relu", [], {}, "f32[1]", [1e999], [], 0]], "graphs": [[[0], []]], "at": [0]},
        {"outlines": [], "graphs": [[[], []]], "at": [1]},
    ],
)  # fmt: skip
def test_stages_that_convc_did_not_write_are_refused(wrong: Any, model: CompiledModel, tmp_path: Path) -> None:
    from test_artifact import rewrite

    path = tmp_path / "net.convc"
    model.save(path)
    rewrite(path, lambda members, facts: members.update({"stages.json": json.dumps(wrong).encode()}))
    with pytest.raises(ModelError, match="was not written by convc"):
        convc.load(path)


# Blocks and drawings


def test_scopes_are_prefixes_of_names() -> None:
    assert scope_of("layer1.0.conv1") == ("layer1", "layer1.0")
    assert scope_of("/layer1/layer1.0/Conv") == ("/layer1", "/layer1/layer1.0")
    assert scope_of("Conv_0") == scope_of("a.") == scope_of(".") == scope_of("") == ()


def test_blocks_take_in_nodes_that_they_surround() -> None:
    nodes = outlines(
        a__conv="", relu="a.conv", a__norm="relu", b__conv="a.norm", b__0__norm="b.conv", b__0__relu="b.0.norm"
    )
    assert tree(find_blocks(nodes), nodes) == [
        {"a": ["a.conv", "relu", "a.norm"]},
        {"b": ["b.conv", {"0": ["b.0.norm", "b.0.relu"]}]},
    ]


def test_blocks_that_form_a_circle_are_dissolved() -> None:
    nodes = outlines(a__x="", b__x="a.x", b__z="a.x", a__y="b.x", tail="a.y b.z")
    assert sorted(map(str, tree(find_blocks(nodes), nodes))) == ["a.x", "a.y", "b.x", "b.z", "tail"]


def test_a_long_run_without_scopes_is_cut() -> None:
    nodes = outlines(**{f"n{i}": f"n{i - 1}" if i else "" for i in range(FLAT + 10)})
    parts = find_blocks(nodes).members
    assert [part.key for part in parts if isinstance(part, Block)] == ["#n0", "#n10", "#n20", "#n30", "#n40"]
    assert len(parts) == 5 and all(isinstance(part, Block) and len(part.members) == 10 for part in parts)


def test_chains_are_straight_and_what_skips_them_runs_beside() -> None:
    """Entry, four nodes in a row, and an edge from the first to the last."""
    placed = arrange([100.0] * 5, [(0, 1), (1, 2), (2, 3), (3, 4), (0, 3)])
    assert placed.layers == (0, 1, 2, 3, 4)
    assert len(set(placed.centres)) == 1
    assert len(placed.stems[0]) == 2 and all(abs(x - placed.centres[0]) > 50 for x in placed.stems[0])


def test_where_lines_part_the_longest_goes_straight_on() -> None:
    """A fork into three nodes in a row and a single one, joined again."""
    placed = arrange([100.0] * 6, [(0, 1), (1, 2), (2, 3), (0, 4), (3, 5), (4, 5)])
    assert len({placed.centres[n] for n in (0, 1, 2, 3, 5)}) == 1
    assert abs(placed.centres[4] - placed.centres[0]) >= 100


def test_branches_stand_side_by_side_under_the_middle() -> None:
    placed = arrange([100.0] * 5, [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)])
    assert placed.layers == (0, 1, 1, 1, 2)
    left, middle, right = sorted(placed.centres[1:4])
    assert middle == placed.centres[0] == placed.centres[4] and middle - left == right - middle >= 100


@pytest.mark.parametrize("network", ["resnet18", "googlenet", "shufflenet_v2", "densenet121"])
def test_drawings_go_down_and_nothing_overlaps(network: str) -> None:
    stages = described(convc.zoo.build(network)).stages
    assert stages is not None
    nodes = [node for node in stages.nodes(0) if node.op != "constant"]
    for block in draw(nodes, range(len(nodes))):
        layers, centres = block["layers"], block["centres"]
        for a, b in block["edges"]:
            assert b == -2 or a == -1 or layers[a] < layers[b]
            start, end = 0 if a == -1 else layers[a], block["exit"][0] if b == -2 else layers[b]
            assert end - start == 1 or len(block["stems"][str(a)]) >= end - start - 1
        for layer in set(layers):
            row = sorted(c for c, at in zip(centres, layers, strict=True) if at == layer)
            assert all(b - a >= NODE_WIDTH for a, b in itertools.pairwise(row))
        assert all(NODE_WIDTH / 2 - 0.1 <= c <= block["width"] - NODE_WIDTH / 2 + 0.1 for c in centres)
