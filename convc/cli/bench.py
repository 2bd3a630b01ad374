"""Measure MODEL, fused against unfused and against other engines, in turns on the same inputs and threads.

Without -t and -n: 2 seconds and 10 runs of each; with both, until both are met. Exit code 1 where an --assert fails.

Examples
--------
  convc bench zoo:mobilenet_v2 --profile
  convc bench net.onnx --against onnxruntime,openvino --threads 1,2 --batch 1,8
  convc bench net.onnx --ablate -t 5 --json > today.json
  convc bench net.onnx --assert-faster-than unfused --assert-within 5% yesterday.json
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.cli import inputs, models
from convc.cli.bench_files import export_times, faster, read_baseline, within
from convc.cli.output import ProgressCallback, note, print_json, progress
from convc.errors import InputError

if TYPE_CHECKING:
    from convc.ir.graph import Graph
    from convc.measure.bench import Ablated, Comparison, Compile
    from convc.measure.profile import Profile
    from convc.measure.startup import Start
    from convc.measure.timing import Budget
    from convc.model import CompiledModel
    from convc.types import Array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("model", metavar="MODEL", help=models.MODEL_HELP)
    inputs.add_input_options(parser)
    models.add_compile_options(parser, several_threads=True)
    what = parser.add_argument_group("what is measured")
    what.add_argument("--batch", type=models.positives, metavar="N,N", help="batch sizes, each measured")
    what.add_argument("--sizes", type=image_sizes, metavar="S,HxW", help="image sizes, each measured")
    what.add_argument("--against", type=names, default=(), metavar="E,E", help="onnxruntime, openvino, ncnn, torch")
    what.add_argument("--ablate", action="store_true", help="leave out one pass at a time")
    what.add_argument("--profile", action="store_true", help="time of each step and kernel on one thread")
    what.add_argument("--no-unfused", action="store_true", help="leave out the unfused network")
    what.add_argument("--no-start", action="store_true", help="leave out cold and warm start in new processes")
    what.add_argument("--no-accuracy", action="store_true", help="leave out the interpreter, which is slow")
    how = parser.add_argument_group("how long")
    how.add_argument("--warmup", type=int, default=3, metavar="RUNS", help="runs ahead that do not count (default: 3)")
    how.add_argument("-t", "--seconds", type=positive_float, help="measure each network for so long")
    how.add_argument("-n", "--runs", type=models.positive, help="measure so many runs of each network")
    how.add_argument("--percentile", type=percentiles, metavar="P,P", help="percentiles to tell (default: 50,90,95,99)")
    out = parser.add_argument_group("what is kept")
    out.add_argument("--json", action="store_true", help="print as JSON")
    out.add_argument("--export-times", metavar="FILE", help="write every measured time, as .csv or .json")
    out.add_argument("--save-outputs", metavar="FILE", help="write the outputs as .npz, or a single one as .npy")
    out.add_argument("--plot", metavar="FILE", help="write a picture of the medians (needs matplotlib)")
    asserts = parser.add_argument_group("assertions, for CI")
    asserts.add_argument(
        "--assert-faster-than", action="append", default=[], metavar="NAME", help="unfused, or another engine"
    )
    asserts.add_argument(
        "--assert-within", nargs=2, metavar=("5%", "FILE"), help="at most so much slower than FILE, an earlier --json"
    )


# ---- options -------------------------------------------------------------------------------------------------------


def names(text: str) -> tuple[str, ...]:
    """Names joined by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def positive_float(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not 0 < value < 1e6:
        raise ValueError
    return value


def percentiles(text: str) -> tuple[float, ...]:
    """Numbers from 0 to 100, joined by commas."""
    found = tuple(float(part) for part in text.split(","))
    if not all(0 <= value <= 100 for value in found):
        raise ValueError
    return found


def image_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """`224,320x240`: height and width, or one number for both."""
    found = []
    for part in text.split(","):
        height, _, width = part.partition("x")
        found.append((models.positive(height), models.positive(width or height)))
    return tuple(found)


def budget_of(args: argparse.Namespace) -> Budget:
    """Warm-up, seconds and runs."""
    from convc.measure.timing import Budget

    if args.seconds is None and args.runs is None:
        return Budget(args.warmup, 2.0, 10)
    return Budget(args.warmup, args.seconds or 0.0, args.runs or 1)


BUSY = 0.3
"""Processors that other programs used meanwhile, above which medians are worth a remark."""

# ---- measuring -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Findings:
    """Everything that one call measured."""

    model: str
    target: str
    environment: Mapping[str, Any]
    starts: Sequence[Start]
    comparisons: Sequence[Comparison]
    ablation: tuple[float, Sequence[Ablated]] | None
    profile: Profile | None
    assertions: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        whole, passes = self.ablation or (None, ())
        return {
            "model": self.model,
            "target": self.target,
            "environment": dict(self.environment),
            "start": [one.to_json() for one in self.starts],
            "comparisons": [one.to_json() for one in self.comparisons],
            "ablation": {"median": whole, "passes": [one.to_json() for one in passes]} if self.ablation else None,
            "profile": self.profile.to_json() if self.profile else None,
            "assertions": list(self.assertions),
        }


def run(args: argparse.Namespace) -> int:
    """Measure, print, hold against the assertions."""
    baseline = read_baseline(args)
    with progress(args.model) as report:
        found = measure(args, report)
    found = replace(found, assertions=[*faster(args, found.comparisons), *within(baseline, found.comparisons)])
    if args.export_times:
        export_times(args.export_times, found.comparisons)
    if args.plot:
        from convc.measure.plot import write_plot

        write_plot(args.plot, f"{args.model}, {found.target}", found.comparisons)
    if args.json:
        print_json(found.to_json())
    else:
        from convc.cli.bench_text import tell

        tell(found)
    failed = [one for one in found.assertions if not one["holds"]]
    for one in failed:
        note(f"assertion failed: {one['what']}")
    return 1 if failed else 0


def measure(args: argparse.Namespace, report: ProgressCallback | None) -> Findings:
    """All that was asked for."""
    from convc.compiler import compile as compile_graph
    from convc.measure.bench import Options, ablate, compare
    from convc.measure.environment import Others, environment
    from convc.measure.profile import profile
    from convc.measure.timing import PERCENTILES

    stamp, others = environment(), Others()
    _check(args)
    compiled = models.is_compiled(args.model)
    passes = models.parse_passes(args.passes)
    unfused = not (compiled or args.no_unfused)
    if compiled and not args.no_unfused:
        note(f"{args.model} is compiled already, and alone: give what it was made from to compare with unfused")

    def compile(graph: Graph, passes: Any, threads: int | None) -> CompiledModel:
        return compile_graph(graph, passes=passes, threads=threads, progress=report, **models.target_of(args))

    shares = args.percentile or PERCENTILES
    options = Options(budget_of(args), shares, unfused, args.against, not args.no_accuracy, report)
    comparisons, ablation, profiled, started, target = [], None, None, [], ""
    for index, (threads, graph, arrays, fused) in enumerate(configurations(args, compile)):
        onnx = Path(args.model) if _is_onnx(args) else None
        found, outputs = compare(graph, arrays, threads, compile, options, passes=passes, fused=fused, onnx=onnx)
        comparisons.append(found)
        if index:
            continue
        model = fused or compile(graph, passes, 1)
        target = model.program.target
        if args.save_outputs:
            from convc.cli.run import write_arrays

            write_arrays(args.save_outputs, outputs)
        if args.ablate:
            ablation = ablate(graph, arrays, threads, compile, options.budget, passes=passes, tell=report)
        if args.profile:
            profiled = profile(model, arrays)
        if not args.no_start:
            started = _starts(args, found.shapes, threads, report)
    for name, reason in comparisons[0].absent.items():
        note(f"{name} is left out: {reason}")
    if (busy := others.processors()) > BUSY:
        note(f"other programs kept {busy:.1f} processors busy meanwhile: compare the least times, or measure again")
    return Findings(args.model, target, stamp, started, comparisons, ablation, profiled)


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for options that do not go together."""
    from convc.measure.bench import UNFUSED
    from convc.measure.rivals import RIVALS

    compiled = models.is_compiled(args.model)
    if compiled and (args.target or args.passes or args.ablate):
        raise InputError(f"{args.model} is compiled already", hint="leave out --target, --passes and --ablate")
    for name in args.against:
        if name not in RIVALS:
            raise InputError(f"--against names {name}, which is no engine", hint=f"use {', '.join(RIVALS)}")
    for name in args.assert_faster_than:
        if name != UNFUSED and name not in RIVALS:
            raise InputError(
                f"--assert-faster-than {name}: that is no contestant",
                hint=f"name unfused, or one of {', '.join(RIVALS)}; for a share use --assert-within",
            )
        if name != UNFUSED and name not in args.against:
            raise InputError(f"--assert-faster-than {name}: it does not take part", hint=f"add --against {name}")
        if name == UNFUSED and (compiled or args.no_unfused):
            raise InputError("--assert-faster-than unfused: it does not take part", hint="give the model's source")
    if args.input and (args.batch or args.sizes):
        raise InputError("--input comes with its own sizes", hint="leave out --batch and --sizes")
    if args.export_times and Path(args.export_times).suffix not in {".csv", ".json"}:
        raise InputError(f"--export-times {args.export_times} is neither .csv nor .json", hint="choose one of them")
    if args.save_outputs and Path(args.save_outputs).suffix not in {".npy", ".npz"}:
        raise InputError(f"--save-outputs {args.save_outputs} is neither .npy nor .npz", hint="choose one of them")


def configurations(
    args: argparse.Namespace, compile: Compile
) -> Iterator[tuple[int, Graph, dict[str, Array], CompiledModel | None]]:
    """Threads, graph, inputs, and the model where it is compiled already, for each combination that is asked for."""
    from convc.processors import default_threads

    compiled = models.is_compiled(args.model)
    first: Any = _load(args, None) if compiled else models.Described.of(models.read_graph(args))
    base = inputs.gather(first, args)
    every = itertools.product(args.threads or (default_threads(),), args.batch or (None,), args.sizes or (None,))
    for threads, batch, size in every:
        model = _load(args, threads) if compiled else None
        described = model or first
        arrays = base
        if batch or size:
            shapes = resized({name: array.shape for name, array in base.items()}, batch, size)
            if not compiled:
                described = models.Described.of(_fitted(args, first.graph, shapes))
            texts = [f"{name}:{','.join(map(str, shape))}," for name, shape in shapes.items()]
            arrays = inputs.gather(described, _with(args, [text.rstrip(",") for text in texts]), quiet=True)
        yield threads, described.graph, arrays, model


def resized(
    shapes: Mapping[str, tuple[int, ...]], batch: int | None, size: tuple[int, int] | None
) -> dict[str, tuple[int, ...]]:
    """Shapes of inputs for another batch, wherever axis 0 is that of the first input, and another image size."""
    found = {}
    images = next((shape[0] for shape in shapes.values() if shape), None)
    for name, shape in shapes.items():
        sizes = list(shape)
        if batch and sizes and sizes[0] == images:
            sizes[0] = batch
        if size and len(sizes) == 4:
            sizes[2:] = size
        found[name] = tuple(sizes)
    return found


def _fitted(args: argparse.Namespace, graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """The graph, read again with other sizes where it has them fixed."""
    wishes = {
        node.name: tuple(
            None if not isinstance(d, int) else s for d, s in zip(node.type.shape, shapes[node.name], strict=True)
        )
        for node in graph.inputs
    }
    fixed = {
        name: wish
        for name, wish in wishes.items()
        if any(w is not None and w != d for w, d in zip(wish, graph[name].type.shape, strict=True))
    }
    if not fixed:
        return graph
    from convc.source import read_source

    return read_source(args.model, input_shapes={**models.parse_shapes(args.input_shape), **fixed})


def _with(args: argparse.Namespace, shapes: list[str]) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), "input_shape": shapes})


def _load(args: argparse.Namespace, threads: int | None) -> CompiledModel:
    from convc.artifact import load

    return load(args.model, threads=threads)


def _is_onnx(args: argparse.Namespace) -> bool:
    return Path(args.model).suffix == ".onnx" and not (args.input_shape or args.batch or args.sizes)


def _starts(
    args: argparse.Namespace, shapes: Mapping[str, Sequence[int]], threads: int, report: ProgressCallback | None
) -> list[Start]:
    from convc.measure.startup import starts

    return starts(
        args.model, shapes, target=args.target or "cpu", passes=models.parse_passes(args.passes), threads=threads,
        input_shapes=models.parse_shapes(args.input_shape) or None, tell=report,
    )  # fmt: skip
