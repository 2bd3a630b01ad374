"""Show what is in MODEL and what was done to it.

Examples
--------
  convc inspect model zoo:resnet50              layers with shapes, parameters and MACs
  convc inspect model net.onnx --text           the graph in convc's textual form
  convc inspect model net.onnx --save-onnx o.onnx   the graph after all passes, as ONNX
  convc inspect passes net.onnx --refusals      what each pass did, and each reason not to
  convc inspect passes net.onnx --pass fuse_batchnorm --diff    the graph before and after one pass
  convc inspect passes net.onnx --explain NODE  the story of one node through all passes
  convc inspect net.onnx --html net.html        all of it on one page, to read in a browser
  convc inspect program net.convc               the steps that run, with their places in the arena
  convc inspect kernels net.convc --source NAME the emitted source of a kernel; --llvm, --asm: what becomes of it
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from convc.cli import models
from convc.cli.inspect_html import add_arguments as add_html_arguments
from convc.cli.inspect_html import with_view, write_html
from convc.cli.inspect_passes import show_passes
from convc.cli.inspect_program import at, show_kernels, show_program
from convc.cli.output import count, note, print_json, say, table
from convc.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("what", choices=list(VIEWS), help="what to show (default: model)")
    parser.add_argument("model", metavar="MODEL", help=models.MODEL_HELP)
    models.add_compile_options(parser, rewrites=True)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--text", action="store_true", help="model: print the textual form")
    parser.add_argument("--optimised", action="store_true", help="model: after all passes")
    parser.add_argument("--save-onnx", metavar="FILE", help="model: write the graph after all passes as ONNX")
    parser.add_argument("--pass", dest="one_pass", metavar="PASS", help="passes: show one, by name or number, in full")
    parser.add_argument("--diff", action="store_true", help="passes: with --pass, the graph before and after it")
    parser.add_argument("--rewrites", action="store_true", help="passes: list every rewrite")
    parser.add_argument("--refusals", action="store_true", help="passes: list every refusal with its reason")
    parser.add_argument("--explain", metavar="NODE", help="passes: tell the story of one node through all passes")
    parser.add_argument("--source", metavar="NAME", help="kernels: print the source of one kernel")
    parser.add_argument("--llvm", metavar="NAME", help="kernels: print the LLVM IR of one kernel")
    parser.add_argument("--asm", metavar="NAME", help="kernels: print the assembly of one kernel (cuda: SASS)")
    parser.add_argument("--ptx", metavar="NAME", help="kernels: print the PTX of one kernel, for cuda")
    add_html_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the chosen view."""
    if args.input_shape and models.is_compiled(args.model):
        raise InputError(f"{args.model} is compiled already", hint="leave out --input-shape")
    models.keep_apart(args, args.html, args.save_onnx)
    if args.html:
        write_html(args)
    else:
        VIEWS[args.what](args)
    return 0


def complete(words: list[str]) -> list[str]:
    """The command line with the view, where it was left out."""
    return with_view(words, VIEWS)


def show_model(args: argparse.Namespace) -> None:
    """Layers of the graph: as it was read for a source, as it runs for a compiled model or where asked for."""
    from convc.report.figures import model_figures

    if models.is_compiled(args.model):
        graph = models.load_or_compile(args).graph
    elif args.optimised or args.save_onnx:
        graph = models.run_passes(args)[0]
    else:
        graph = models.read_graph(args)
    if args.save_onnx:
        from convc.frontends.onnx import save_onnx

        save_onnx(graph, args.save_onnx)
        note(f"wrote {args.save_onnx}")
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
        ["layer", "operator", "!output", ">parameters", ">MACs", ">sees"],
        [
            (
                f["name"], f["operator"], "x".join(map(str, f["shape"])),
                *(count(f[k]) if f[k] else "" for k in figures), _field(f["field"]),
            )
            for f in layers
        ],
    )  # fmt: skip
    totals = f"{count(graph.parameters())} parameters, {count(graph.macs())} MACs"
    say(f"{len(layers)} operators, {totals}{at(graph.nominal)}")


def _field(field: Sequence[int] | str | None) -> str:
    """A receptive field: 427, 5x9, whole, or nothing."""
    if field is None or isinstance(field, str):
        return field or ""
    height, width = field
    return str(height) if height == width else f"{height}x{width}"


VIEWS: dict[str, Callable[[argparse.Namespace], None]] = {
    "model": show_model,
    "passes": show_passes,
    "program": show_program,
    "kernels": show_kernels,
}
