"""Show what is in MODEL and what was done to it.

Examples
--------
  convc inspect model zoo:resnet50              layers with shapes, parameters and MACs
  convc inspect model net.onnx --text           the graph in convc's textual form
  convc inspect passes net.onnx --refusals      what each pass did, and each reason not to
  convc inspect passes net.onnx --explain NODE  the story of one node through all passes
  convc inspect program net.convc               the steps that run, with their places in the arena
  convc inspect kernels net.convc --source NAME the emitted source of a kernel
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convc.cli import models
from convc.cli.output import count, print_json, say, size, table
from convc.errors import InputError

if TYPE_CHECKING:
    from convc.passes.base import PassRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("what", choices=list(VIEWS), help="what to show")
    parser.add_argument("model", metavar="MODEL", help=models.MODEL_HELP)
    models.add_compile_options(parser)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--text", action="store_true", help="model: print the textual form")
    parser.add_argument("--rewrites", action="store_true", help="passes: list every rewrite")
    parser.add_argument("--refusals", action="store_true", help="passes: list every refusal with its reason")
    parser.add_argument("--explain", metavar="NODE", help="passes: tell the story of one node through all passes")
    parser.add_argument("--source", metavar="NAME", help="kernels: print the source of one kernel")


def run(args: argparse.Namespace) -> int:
    """Print the chosen view."""
    if args.input_shape and models.is_compiled(args.model):
        raise InputError(f"{args.model} is compiled already", hint="leave out --input-shape")
    VIEWS[args.what](args)
    return 0


def show_model(args: argparse.Namespace) -> None:
    """Layers of the graph: as it was read for a source, as it runs for a compiled model."""
    from convc.report.figures import model_figures

    graph = models.load_or_compile(args).graph if models.is_compiled(args.model) else models.read_graph(args)
    if args.text:
        say(graph)
        return
    found = model_figures(graph)
    if args.json:
        print_json(found)
        return
    layers = found["layers"]
    figures = ("parameters", "macs")
    say(f"{graph.name}: {', '.join(f'{n.name}: {n.type}' for n in graph.inputs)}")
    table(
        ["layer", "operator", "output", ">parameters", ">MACs"],
        [
            (f["name"], f["operator"], "x".join(map(str, f["shape"])), *(count(f[k]) if f[k] else "" for k in figures))
            for f in layers
        ],
    )  # fmt: skip
    totals = f"{count(graph.parameters())} parameters, {count(graph.macs())} MACs"
    say(f"{len(layers)} operators, {totals}{_at(graph.nominal)}")


def show_passes(args: argparse.Namespace) -> None:
    """The record of each pass: of the compiled model, or of the passes run now over a source."""
    from convc.report.figures import pass_figures

    if args.explain:
        story = models.load_or_compile(args).explain(args.explain)
        if args.json:
            print_json(story.to_json())
        else:
            say(story)
        return
    records = records_of(args)
    if args.json:
        print_json(pass_figures(records))
        return
    table(PASS_COLUMNS, [pass_row(record) for record in records])
    for record in records:
        lines: list[object] = []
        if args.rewrites:
            lines += record.rewrites
        if args.refusals:
            lines += [f"not {refusal}" for refusal in record.refusals]
        if lines:
            say(f"\n{record.index}. {record.name}")
            say("\n".join(f"  {line}" for line in lines))


def records_of(args: argparse.Namespace) -> Sequence[PassRecord]:
    """Records of a compiled model, or of running the passes over a source."""
    if models.is_compiled(args.model):
        records: Sequence[PassRecord] = models.load_or_compile(args).records
        return records
    from convc.passes.manager import run_passes

    return run_passes(models.read_graph(args), models.parse_passes(args.passes))[1]


PASS_COLUMNS = [">", "pass", "numerics", ">ms", ">rewrites", ">refused", ">operators", ">MACs"]


def pass_row(record: PassRecord) -> tuple[object, ...]:
    """A row under PASS_COLUMNS; operators and MACs before and after."""
    return (
        record.index, record.name, record.numerics, f"{record.seconds * 1e3:.1f}", len(record.rewrites),
        len(record.refusals), _change(sum(record.ops_before.values()), sum(record.ops_after.values()), str),
        _change(record.macs_before, record.macs_after, count),
    )  # fmt: skip


def _change(before: int, after: int, text: Callable[[int], str]) -> str:
    return text(before) if before == after else f"{text(before)} -> {text(after)}"


def show_program(args: argparse.Namespace) -> None:
    """Steps with the places of their arrays: arena offsets at nominal sizes, or input and output names."""
    from convc.report.figures import program_figures

    program = models.load_or_compile(args).program
    found = program_figures(program)
    if args.json:
        print_json(found)
        return
    steps = found["steps"]
    arena = f"arena of {size(found['arena_bytes'])}{_at(program.nominal)}"
    say(f"{program.name} for {program.target}: {len(steps)} steps, {arena}")
    table(
        [">", "!kernel", "reads", "writes"],
        [
            (index, step["kernel"], _places(step["inputs"]), _places(step["outputs"]))
            for index, step in enumerate(steps)
        ],
    )


def _at(sizes: Mapping[str, int]) -> str:
    return f" at {' '.join(f'{symbol}={value}' for symbol, value in sizes.items())}" if sizes else ""


def _places(found: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"%{p['value']}" + (f"@{p['offset']:#x}" if p["place"] == "arena" else f" ({p['place']})") for p in found
    )


def show_kernels(args: argparse.Namespace) -> None:
    """Kernels with how often they are called; or the source of one."""
    from convc.report.figures import kernel_figures

    model = models.load_or_compile(args)
    if args.source:
        if args.source not in model.sources:
            raise InputError(
                f"the model has no kernel {args.source}", hint=f"it has {', '.join(sorted(model.sources))}"
            )
        say(model.sources[args.source].rstrip("\n"))
        return
    listed = kernel_figures(model.program)
    if args.json:
        print_json(listed)
        return
    table(["!kernel", ">calls", ">lines of source"], [tuple(kernel.values()) for kernel in listed])


VIEWS: dict[str, Callable[[argparse.Namespace], None]] = {
    "model": show_model,
    "passes": show_passes,
    "program": show_program,
    "kernels": show_kernels,
}
