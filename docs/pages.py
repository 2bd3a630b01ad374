"""Pages that are made when the site is built: a page for each pass, the command line, the stages of a small network.

`pages()` maps file names to texts; `conf.py` writes them below `generated/`.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from pass_examples import EXAMPLES, Example

from convc.backends.cpu.cost import CpuCost
from convc.backends.cpu.isa import ISAS, Isa
from convc.backends.cpu.lower import lower
from convc.cli.main import VERBS, build_parser
from convc.frontends.builder import Builder
from convc.ir.graph import Graph
from convc.passes import PASSES, PIPELINES
from convc.passes.base import Numerics, Pass, PassResult
from convc.passes.context import Context
from convc.passes.driver import RewritePass
from convc.passes.manager import run_passes
from convc.passes.spend_budget import with_budget

ISA: Isa = ISAS["avx512"]
"""Pages are the same on every machine: costs and kernels are those of one instruction set."""
CONTEXT = Context(cost=CpuCost(ISA))
LABELS = ("Shapes", "Borders", "Invariants", "Certificate of each rewrite", "Numerics", "Rejects", "Source", "Sources")
NUMERICS = {
    Numerics.EXACT: "outputs are equal bit for bit",
    Numerics.REASSOCIATES: "the same mathematics in another order",
    Numerics.APPROXIMATE: "another function, only under a budget, with a certificate for each rewrite",
}


def pages() -> dict[str, str]:
    """Every generated page, by file name."""
    found = {f"passes/{name}.md": pass_page(PASSES[name]) for name in PASSES}
    found["passes/index.md"] = pass_index()
    found["command-line.md"] = command_line()
    return {**found, **stages()}


# ---- Markdown ------------------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """Text of a docstring as Markdown: what stands in backticks is code, all other marks are themselves."""
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(part if index % 2 else re.sub(r"([\\*_\[\]<>#|$~^{}])", r"\\\1", part)
                   for index, part in enumerate(parts))  # fmt: skip


def fence(text: str, language: str = "text") -> str:
    marks = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{marks}{language}\n{text.rstrip()}\n{marks}\n"


def graph_text(graph: Graph) -> str:
    """The textual form with elements of constants left out, but for whole numbers and a few others."""
    return re.sub(r"constant (sha256:[0-9a-f]+|\[[^\]]*\.[^\]]*(,[^\],]*){4,}\])", "constant ...", str(graph))


def paragraphs(text: str) -> Iterator[str]:
    """Markdown of docstring text: indented runs become code, lists stay lists."""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.splitlines()
        if not lines:
            continue
        if all(line.startswith("    ") for line in lines):
            yield fence("\n".join(line[4:] for line in lines))
        else:
            yield prose(block) + "\n"


# ---- passes --------------------------------------------------------------------------------------------------------


def described(one: Pass) -> tuple[str, dict[str, str]]:
    """The docstring of the module that defines a pass: its first part, and its labelled parts by label."""
    module = next(m for m in map(_module, PASSES) if one in vars(m).values())
    text = inspect.cleandoc(module.__doc__ or "")
    pieces = re.split(rf"(?:(?<=\s)|^)({'|'.join(LABELS)}): ", text)
    labelled = {label: part.strip("\n ") for label, part in zip(pieces[1::2], pieces[2::2], strict=True)}
    return pieces[0].rstrip(), labelled


def _module(name: str) -> Any:
    return import_module(f"convc.passes.{name}")


def pass_page(one: Pass) -> str:
    """What a pass does, an example made by running it, when it refuses, what it may do to the numbers, its options."""
    first, labelled = described(one)
    head, _, rest = first.partition("\n\n")
    equation = " = " in head or "->" in head
    lines = [f"# {one.name}\n", f"{prose(one.doc[:1].upper() + one.doc[1:])}.\n"]
    lines += ["## What it does\n", fence(re.sub(r"; +", "\n", head)) if equation else prose(head) + "\n"]
    lines += paragraphs(rest)
    lines += [f"**{label}.** {prose(labelled[label])}\n" for label in LABELS[:4] if label in labelled]
    lines += rules(one)
    lines += ["## Example\n", *example(one, EXAMPLES[one.name])]
    lines += ["## When it refuses\n", rejects(labelled.get("Rejects", "nothing."))]
    lines += refused(one, EXAMPLES[one.name])
    extra = labelled.get("Numerics", "")
    lines += ["## Numerics\n", f"**{one.numerics}**: {NUMERICS[one.numerics]}."]
    words = re.sub(r"\W+$", "", extra)
    lines += [f" In its own words: {prose(extra)}\n" if words != one.numerics.value else "\n"]
    lines += ["## Options and place\n", options(one), places(one)]
    for label in ("Source", "Sources"):
        if label in labelled:
            lines += ["## Source\n", prose(labelled[label]) + "\n"]
    return "\n".join(lines)


def rules(one: Pass) -> list[str]:
    """The rules of a pass that has several."""
    if not isinstance(one, RewritePass) or len(one.rules) < 2:
        return []
    rows = [f"| `{rule.name}` | {_operators(rule.roots)} | {prose(_first(rule.match))} |" for rule in one.rules]
    return ["It tries these rules at each node, in order:\n", "| rule | asked at | what it looks for |",
            "| --- | --- | --- |", *rows, ""]  # fmt: skip


def _operators(roots: frozenset[str]) -> str:
    listed = sorted(roots)
    return ", ".join(f"`{op}`" for op in listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def _first(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")


def run(one: Pass, example: Example, graph: Graph) -> PassResult:
    """What the pass makes of a graph."""
    if example.budget is not None:
        (one,) = with_budget((one,), example.budget, None)
    return one.run(graph, CONTEXT)


def example(one: Pass, given: Example) -> list[str]:
    result = run(one, given, given.rewritten)
    under = f", under a budget of {given.budget}" if given.budget else ""
    lines = [f"Before{under}:\n", fence(graph_text(given.rewritten)), "After:\n", fence(graph_text(result.graph))]
    lines += ["The record says:\n", fence("\n".join(map(str, result.rewrites)))]
    certificate = result.rewrites[0].certificate
    if certificate:
        lines += ["with the certificate\n", fence("\n".join(f"{k}: {v:.6g}" for k, v in certificate.items()))]
    return lines


def refused(one: Pass, given: Example) -> list[str]:
    if given.left is None:
        return []
    result = run(one, given, given.left)
    reasons = "\n".join(map(str, result.refusals))
    return ["It leaves this as it is:\n", fence(graph_text(given.left)), "and says why:\n", fence(reasons)]


def rejects(text: str) -> str:
    return f"It leaves alone: {prose(text)}\n"


def options(one: Pass) -> str:
    if not one.options:
        return "It has no options.\n"
    listed = ", ".join(f"`{name}` (`{value!r}`)" for name, value in one.options.items())
    return f"Options, with what they are by default: {listed}.\n"


def places(one: Pass) -> str:
    numbers = [str(index) for index, name in enumerate(PIPELINES["default"], 1) if name == one.name]
    if not numbers:
        return "It is not in the default pipeline.\n"
    return f"In the default pipeline it is number {' and '.join(numbers)}.\n"


def pass_index() -> str:
    """The table of passes, the default pipeline, and the contents."""
    rows = [f"| [{name}]({name}.md) | {one.numerics} | {prose(one.doc)} |" for name, one in PASSES.items()]
    order = "\n".join(f"{index:2d} {name}" for index, name in enumerate(PIPELINES["default"], 1))
    return "\n".join([
        "# Passes\n",
        "A pass turns a graph into another one and leaves a record: each rewrite, and each refusal with its reason. "
        "What it may do to the numbers is part of it, and tests hold it to that. The graphs on these pages were made "
        "by running the passes; `...` stands for the elements of a constant.\n",
        "| pass | numerics | what it does |", "| --- | --- | --- |", *rows, "",
        "The default pipeline, in order:\n", fence(order),
        "```{toctree}", ":hidden:", "", *PASSES, "```", "",
    ])  # fmt: skip


# ---- the command line ----------------------------------------------------------------------------------------------


def command_line() -> str:
    """Every verb with its arguments, from the parser."""
    top = build_parser(None)
    about_all = f"{prose(top.description or '')} {prose(top.epilog or '')}\n"
    lines = ["# Command line\n", about_all, fence(top.format_usage())]
    about = inspect.cleandoc(import_module("convc.cli.main").__doc__ or "")
    lines += [prose(about[about.index("Exit codes") :]) + "\n"]
    lines += ["| verb | |", "| --- | --- |"]
    lines += [*(f"| [{verb}](#convc-{verb}) | {prose(text)} |" for verb, text in VERBS.items()), ""]
    for verb in VERBS:
        lines += verb_section(verb)
    return "\n".join(lines)


def verb_section(verb: str) -> list[str]:
    parser = build_parser(verb)
    (choices,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    one: argparse.ArgumentParser = choices.choices[verb]
    description, _, examples = inspect.cleandoc(one.description or "").partition("\n\nExamples\n--------\n")
    usage = textwrap.fill(re.sub(r"\s+", " ", one.format_usage()).strip(), 84, subsequent_indent="    ")
    lines = [f"(convc-{verb})=", f"## convc {verb}\n", *paragraphs(description), fence(usage)]
    if examples:
        lines += ["Examples:\n", fence(inspect.cleandoc(examples))]
    lines += ["| argument | meaning |", "| --- | --- |"]
    return [*lines, *(f"| {_argument(a)} | {_meaning(a)} |" for a in one._actions), ""]


def _argument(action: argparse.Action) -> str:
    names: tuple[str, ...] = tuple(action.option_strings)
    value = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper())
    if isinstance(value, tuple):
        value = " ".join(value)
    if not names:
        return f"`{value if action.metavar else action.dest}`"
    takes = f" {value}" if action.nargs != 0 else ""
    return ", ".join(f"`{name}{takes}`".replace("|", "\\|") for name in names)


def _meaning(action: argparse.Action) -> str:
    text = prose((action.help or "").replace("%%", "%"))
    if action.choices and not action.option_strings:
        text += f": {', '.join(f'`{c}`' for c in action.choices)}"
    default = ", ".join(map(str, action.default)) if isinstance(action.default, tuple) else action.default
    shown = action.default not in (None, False, argparse.SUPPRESS, []) and "default" not in text
    return text + (f" (default: `{default}`)" if shown else "")


# ---- the stages of a small network ---------------------------------------------------------------------------------


def small() -> Graph:
    """The network of how-it-works.md."""
    b = Builder("small", seed=0)
    x = b.input("image", ("N", 3, "H", "W"), nominal={"N": 1, "H": 32, "W": 32})
    y = b.relu(b.batch_norm(b.conv(x, 16, kernel=3, bias=False, name="conv"), name="norm"), name="relu")
    return b.finish({"scores": b.linear(b.flatten(b.global_avg_pool(y, name="pool"), name="flat"), 10, name="head")})


def stages() -> Mapping[str, str]:
    """Each form that the small network takes, as text files."""
    graph = small()
    after, records = run_passes(graph, cost=CONTEXT.cost)
    program = lower(after, ISA)
    story = [f"{record.index:2d} {record.name}: {rewrite}" for record in records for rewrite in record.rewrites]
    name = next(step.kernel for step in program.steps if step.family == "conv")
    return {
        "stages/graph.txt": graph_text(graph) + "\n",
        "stages/rewrites.txt": "\n".join(story) + "\n",
        "stages/optimised.txt": graph_text(after) + "\n",
        "stages/program.txt": f"{program}\n",
        "stages/kernel.txt": program.kernels[name],
    }


def write(folder: Path) -> list[Path]:
    """Write every page below `folder`; files that hold the same text already stay untouched, others go."""
    found = pages()
    for old in folder.rglob("*"):
        if old.is_file() and str(old.relative_to(folder)) not in found:
            old.unlink()
    for name, text in found.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, encoding="utf-8")
    return [folder / name for name in found]


if __name__ == "__main__":
    print("\n".join(map(str, write(Path(__file__).parent / "generated"))))
