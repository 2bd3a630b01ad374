"""Compare MODEL, compiled, with the interpreter in float64, and with ONNX Runtime where it is installed.

Where they differ, the smallest part of the network that is wrong is found, with the pass and the kernel that make it
so. Exit code 1 where they differ.

Examples
--------
  convc check net.onnx
  convc check net.onnx --input x=cat.npy --reduce wrong
  convc check zoo:resnet50 --target cpu:avx2 --json
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.cli import inputs, models
from convc.cli.output import WIDTH, print_json, progress, say, table

if TYPE_CHECKING:
    from convc.check.compare import Comparison
    from convc.check.locate import Fault
    from convc.compiler import Edit
    from convc.ir.graph import Graph
    from convc.model import CompiledModel
    from convc.passes.base import Pass


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("model", metavar="MODEL", help=models.MODEL_HELP)
    inputs.add_input_options(parser)
    models.add_compile_options(parser)
    parser.add_argument("--tolerance", type=float, metavar="E", help="of an output's largest magnitude (default: 1e-4)")
    parser.add_argument("--no-onnxruntime", action="store_true", help="leave ONNX Runtime out")
    parser.add_argument("--no-locate", action="store_true", help="do not search for the node that is wrong")
    parser.add_argument("--reduce", metavar="FOLDER", help="write the part that is wrong and its arrays into FOLDER")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace, edit: Edit | None = None) -> int:
    """Compare, locate, tell. `edit` may replace the source of a kernel."""
    from convc.check.compare import compare
    from convc.check.locate import Locator
    from convc.compiler import compile_graph
    from convc.measure.accuracy import TOLERANCE
    from convc.model import Options
    from convc.passes.manager import resolve

    compiled = models.is_compiled(args.model)
    tolerance = TOLERANCE if args.tolerance is None else args.tolerance
    with progress(args.model) as report:
        if compiled:
            model = models.load_or_compile(args)
            graph, options, passes = model.graph, model.options, resolve(())
        else:
            graph = models.read_graph(args)
            options = Options(args.target or "cpu", args.threads, precision=args.precision)
            passes = resolve(models.parse_passes(args.passes))
            model = compile_graph(graph, options, passes, progress=report, edit=edit)
        given = inputs.gather(model, args)
        original = Path(args.model) if Path(args.model).suffix == ".onnx" and not args.input_shape else None
        comparison = compare(graph, model, given, tolerance=tolerance, onnx=original, engine=not args.no_onnxruntime)
        fault = None
        if not comparison.same and not args.no_locate:

            def again(part: Graph, passes: Sequence[Pass]) -> CompiledModel:
                return compile_graph(part, options, passes, edit=edit)

            # Passes that rewrote nothing come last: some take long to find that out, and they are hardly ever needed.
            every = list(enumerate(passes, 1))
            records = model.records[len(model.records) - len(passes) :] if not compiled else ()
            rewrote = [one for one, record in zip(every, records, strict=True) if record.rewrites] if records else every
            for chosen in (rewrote, every) if rewrote != every else (every,):
                fault = Locator(graph, given, again, chosen, tolerance, report).locate()
                if fault is not None:
                    break
    files: list[str] = []
    if fault is not None and args.reduce:
        from convc.check.reduce import write_fault

        files = [str(path) for path in write_fault(fault, args.reduce, options.target)]
    if args.json:
        facts: dict[str, Any] = {"model": args.model, "target": model.program.target, **comparison.to_json()}
        print_json({**facts, "fault": fault.to_json() if fault else None, "files": files})
    else:
        _tell(args, model.program.target, comparison, fault, files)
        _tell_approximations(model)
    return 0 if comparison.same and comparison.read_alike else 1


def _tell_approximations(model: CompiledModel) -> None:
    """What a check of a compiled file cannot see: it holds the network as it is after its passes."""
    for record in model.records:
        if record.numerics == "approximate" and record.rewrites:
            error = record.rewrites[-1].certificate.get("output_error")
            far = f", by {error:.2g} of the largest output on its calibration inputs" if error is not None else ""
            say(f"what was checked is the network after {record.name}, which approximates the one that was read{far}")


def _tell(args: argparse.Namespace, target: str, found: Comparison, fault: Fault | None, files: list[str]) -> None:
    say(f"{args.model} for {target}: largest error of each output, over its largest magnitude\n")
    engine = not found.engine
    columns = ["output", ">compiled"] + [">onnxruntime", ">compiled to onnxruntime"] * engine
    rows = []
    for one in found.outputs:
        row = [one.output, f"{one.compiled.error:.1e}"]
        if one.onnxruntime is not None and one.compiled_to_onnxruntime is not None:
            row += [f"{one.onnxruntime.error:.1e}", f"{one.compiled_to_onnxruntime.error:.1e}"]
        rows.append(row)
    table(columns, rows)
    if not engine and not args.no_onnxruntime:
        say(f"without ONNX Runtime: {found.engine}")
    say()
    if found.same:
        say(f"the compiled network does what the interpreter does, within {found.tolerance:g}")
    else:
        say(f"DIFFERENT: the compiled network is off by more than {found.tolerance:g}")
    if not found.read_alike:
        say("DIFFERENT: ONNX Runtime and the interpreter disagree: the file is read otherwise, or one of them is wrong")
    if fault is not None:
        tell_fault(fault)
    elif not found.same and not args.no_locate:
        say("compiled again, with fixed sizes, no part of it is wrong: the fault is in the file, or needs free sizes")
    for path in files:
        say(f"wrote {path}")


def tell_fault(fault: Fault) -> None:
    """Where it is wrong, and what made it so."""
    say()
    _fill(f"first node that is off: {fault.operator} %{fault.node}, by {fault.error.error:.1e}")
    members = ", ".join(str(node) for node in fault.part.operators)
    _fill(f"the smallest part that is wrong: {members}")
    if fault.made_by is None:
        _fill("it is wrong without any pass")
    else:
        _fill(f"it is right ahead of pass {fault.pass_index}, {fault.made_by}, and wrong after it")
    culprits, kernels = ", ".join(fault.culprits), ", ".join(fault.kernels)
    if fault.cause == "pass":
        _fill(f"the pass changed what the part means; it made {culprits}")
    elif fault.cause == "kernel":
        one = "one of " * (len(fault.kernels) > 1)
        _fill(f"the graph is right, but {culprits} is computed wrongly by {one}{kernels}")
    else:
        _fill(f"the graph is right, and so is each of {culprits} by itself: the program that joins them is wrong")
        _fill(f"its kernels are {kernels}")


def _fill(text: str) -> None:
    say(textwrap.fill(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False))
