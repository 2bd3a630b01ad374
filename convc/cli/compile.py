"""Compile MODEL and save it as a .convc file.

Examples
--------
  convc compile resnet50.onnx -o resnet50.convc
  convc compile zoo:fcn -o fcn.convc --input-shape x:1x3x480x640 --dump-dir dumps
  convc compile zoo:resnet18 --stop-after fuse_batchnorm        prints the graph at that point
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from convc.cli import models
from convc.cli.output import count, print_json, say, size
from convc.errors import InputError

if TYPE_CHECKING:
    from convc.ir.graph import Graph


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("model", metavar="MODEL", help=models.SOURCE_HELP)
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the compiled model")
    models.add_compile_options(parser, rewrites=True)
    parser.add_argument("--dump-dir", metavar="FOLDER", help="write the graph before and after each pass into FOLDER")
    parser.add_argument(
        "--stop-after", metavar="PASS", help="write the graph after PASS, or after 'read', as text; nothing is compiled"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Compile, save, and print a summary."""
    if models.is_compiled(args.model):
        raise InputError(f"{args.model} is compiled already", hint="give the model that it was made from")
    models.keep_apart(args, args.output)
    if args.stop_after:
        return _write_text(args, _graph_after(args, args.stop_after))
    if not args.output:
        raise InputError("no output file is given", hint="add -o NAME.convc")
    start = time.perf_counter()
    model = models.compile_source(args)
    seconds = time.perf_counter() - start
    model.save(args.output)
    summary = {
        "model": args.model,
        "output": args.output,
        "bytes": Path(args.output).stat().st_size,
        "target": model.program.target,
        "seconds": seconds,
        "operators": len(model.graph.operators),
        "steps": len(model.program.steps),
        "kernels": len(model.sources),
        "parameters": model.graph.parameters(),
        "macs": model.graph.macs(),
        "passes": [record.to_json() for record in model.records],
    }
    if args.json:
        print_json(summary)
    else:
        say(f"{args.output}: {size(summary['bytes'])}, for {summary['target']}, compiled in {seconds:.2f} s")
        say(
            f"{summary['operators']} operators, {count(summary['parameters'])} parameters, "
            f"{count(summary['macs'])} MACs; {summary['steps']} steps, {summary['kernels']} kernels"
        )
    return 0


def _graph_after(args: argparse.Namespace, stage: str) -> Graph:
    if stage == "read":
        return models.read_graph(args)
    return models.run_passes(args, stop_after=stage, dump_dir=args.dump_dir)[0]


def _write_text(args: argparse.Namespace, graph: Graph) -> int:
    if not args.output:
        say(graph)
        return 0
    from convc.files import atomic_write

    with atomic_write(args.output) as file:
        file.write(f"{graph}\n".encode())
    return 0
