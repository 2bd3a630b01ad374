"""The site: an example of each pass, pages from docstrings and the parser, links, and a build without warnings."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
from support import assert_same_outputs

from convc.cli.main import VERBS, build_parser
from convc.ir.verify import verify
from convc.passes import PASSES, Numerics

DOCS = Path(__file__).parent.parent / "docs"
sys.path.insert(0, str(DOCS))

from pages import described, graph_text, pages, run, write  # noqa: E402
from pass_examples import EXAMPLES  # noqa: E402


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


def test_every_pass_has_an_example() -> None:
    assert list(EXAMPLES) == list(PASSES)


@pytest.mark.parametrize("name", PASSES)
def test_an_example_is_rewritten_and_computes_the_same(name: str) -> None:
    one, given = PASSES[name], EXAMPLES[name]
    result = run(one, given, given.rewritten)
    verify(result.graph)
    assert result.rewrites
    if one.numerics is not Numerics.APPROXIMATE:
        assert_same_outputs(given.rewritten, result.graph, one.numerics)
    else:
        assert given.budget is not None and 0 < result.rewrites[-1].certificate["output_error"] <= given.budget


@pytest.mark.parametrize("name", PASSES)
def test_an_example_of_each_refusal_is_left_alone_with_a_reason(name: str) -> None:
    one, given = PASSES[name], EXAMPLES[name]
    says = described(one)[1].get("Rejects", "nothing")
    assert (given.left is None) == says.startswith("nothing"), f"{name} rejects {says}"
    if given.left is not None:
        result = run(one, given, given.left)
        assert not result.rewrites and result.refusals
        assert all(refusal.reason and refusal.node for refusal in result.refusals)


@pytest.mark.parametrize("name", PASSES)
def test_the_page_of_a_pass(name: str, made: dict[str, str]) -> None:
    page = made[f"passes/{name}.md"]
    sections = ["What it does", "Example", "When it refuses", "Numerics", "Options and place"]
    assert re.findall(r"^## (.*)$", page, re.MULTILINE)[: len(sections)] == sections
    first, _ = described(PASSES[name])
    for piece in first.splitlines()[0].split("; "):
        assert piece.strip() in page.replace("\\", ""), piece
    for graph in (EXAMPLES[name].rewritten, run(PASSES[name], EXAMPLES[name], EXAMPLES[name].rewritten).graph):
        assert graph_text(graph) in page
    assert "sha256:" not in page and f"**{PASSES[name].numerics}**" in page
    assert name in made["passes/index.md"]


def test_every_argument_is_in_the_reference(made: dict[str, str]) -> None:
    page = made["command-line.md"]
    for verb in VERBS:
        (section,) = re.findall(rf"^## convc {verb}$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
        (subparsers,) = [a for a in build_parser(verb)._actions if isinstance(a, argparse._SubParsersAction)]
        for action in subparsers.choices[verb]._actions:
            for name in action.option_strings or [action.metavar or action.dest]:
                assert f"`{name}" in section, f"{verb} {name}"


def test_links_and_inclusions_lead_somewhere(made: dict[str, str]) -> None:
    known = {f"generated/{name}" for name in made} | {path.name for path in DOCS.glob("*.md")}
    for path in DOCS.glob("*.md"):
        text = path.read_text("utf-8")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)|\{literalinclude\} (\S+)", text):
            assert "".join(target) in known, f"{path.name} names {target}"
    listed = set(re.findall(r"^([\w/-]+)$", (DOCS / "index.md").read_text("utf-8"), re.MULTILINE))
    assert {f"{name}" for name in known if name.endswith(".md") and "/passes/" not in name} <= {
        f"{name}.md" for name in listed
    } | {"index.md"}


def test_the_small_network_is_the_one_that_the_page_builds(made: dict[str, str]) -> None:
    text = (DOCS / "how-it-works.md").read_text("utf-8")
    names: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], names)
    assert graph_text(names["graph"]) + "\n" == made["stages/graph.txt"]  # type: ignore[arg-type]
    assert "fuse_batchnorm" in made["stages/rewrites.txt"] and "def f32_conv" in made["stages/kernel.txt"]


def test_the_benchmarks_find_where_their_figures_go() -> None:
    text = (DOCS / "performance.md").read_text("utf-8")
    marks = re.findall(r"^<!-- figures: (begin|end)", text, re.MULTILINE)
    assert marks == ["begin", "end"]


def test_generated_pages_replace_older_ones(tmp_path: Path) -> None:
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / "gone.md").write_text("# gone")
    written = write(tmp_path)
    assert not (tmp_path / "passes" / "gone.md").exists() and all(path.exists() for path in written)
    times = {path: path.stat().st_mtime_ns for path in written}
    assert {path: path.stat().st_mtime_ns for path in write(tmp_path)} == times


@pytest.mark.skipif(
    any(util.find_spec(name) is None for name in ("sphinx", "furo", "myst_parser")), reason="the docs extra is missing"
)
def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "-q", "-d", str(tmp_path / "trees"), str(DOCS)]
    result = subprocess.run([*command, str(site)], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert (site / "generated" / "passes" / "fuse_batchnorm.html").exists()
    for path in site.rglob("*.html"):
        text = path.read_text("utf-8")
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text):
            assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", tag), f"{path.name}: {tag}"
    for path in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", path.read_text("utf-8")), path.name
