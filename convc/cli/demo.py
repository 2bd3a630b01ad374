"""Compile a trained classifier of handwritten digits, show what each pass did to it, and measure.

It classifies the images that training left out, with the NumPy interpreter and with the compiled network, and times the
fused network against the unfused one (each operator its own kernel). Exit code 1 where a prediction differs. With
--budget, convolutions are approximated as far as that error allows, measured on images it was trained on, and the
certificate of each is shown; then the number of right answers may differ by one image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convc.cli.inspect_passes import PASS_COLUMNS, pass_row
from convc.cli.output import count, print_json, progress, say, table

if TYPE_CHECKING:
    from convc.model import CompiledModel
    from convc.types import Array

SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--target", default="cpu", help="as in convc compile (default: cpu)")
    parser.add_argument("--budget", type=float, metavar="SHARE", help="error that approximations may cause, as 0.02")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Compile, classify, measure, print."""
    import numpy as np

    from convc.backends.store import store
    from convc.compiler import compile
    from convc.data import load_digits_test, load_digits_train
    from convc.interp import run_graph
    from convc.zoo import build

    images, labels = load_digits_test()
    graph = build("digits")
    kept = len(store().entries())
    start = time.perf_counter()
    with progress("digits") as report:
        calibration = load_digits_train() if args.budget is not None else None
        options = {"target": args.target, "threads": 1, "progress": report}
        fused = compile(graph, budget=args.budget, calibration=calibration, **options)
    seconds = time.perf_counter() - start
    made = len(store().entries()) - kept
    with progress("digits, unfused") as report:
        unfused = compile(graph, target=args.target, passes="none", threads=1, progress=report)

    expected = first_output(run_graph(graph, {"image": images}))
    found = fused.run({"image": images})
    reference, compiled = (np.argmax(scores, axis=1) for scores in (expected, first_output(found)))
    same = int((reference == compiled).sum())
    error = float(np.abs(first_output(found) - expected).max() / np.abs(expected).max())
    both = {"fused": fused, "unfused": unfused}
    if args.budget is not None:
        both["exact"] = compile(graph, target=args.target, threads=1)
    facts: dict[str, Any] = {
        "images": len(images),
        "accuracy_interpreter": float((reference == labels).mean()),
        "accuracy_compiled": float((compiled == labels).mean()),
        "same_predictions": same,
        "largest_relative_error": error,
        "compile_seconds": seconds,
        "kernels_made": made,
        "latency_us": {str(len(batch)): latency(both, batch) for batch in (images[:1], images)},
        "before": sizes(graph),
        "after": sizes(fused.graph),
        "passes": [record.to_json() for record in fused.records],
    }
    if args.json:
        print_json(facts)
    else:
        _tell(fused, facts)
    if args.budget is not None:
        return 0 if abs(int((compiled == labels).sum()) - int((reference == labels).sum())) <= 1 else 1
    return 0 if same == len(images) else 1


def sizes(graph: Any) -> dict[str, int]:
    """Operators, parameters and MACs of a graph."""
    return {"operators": len(graph.operators), "parameters": graph.parameters(), "macs": graph.macs()}


def first_output(outputs: dict[str, Array]) -> Array:
    """The only output of the classifier."""
    return next(iter(outputs.values()))


def latency(contestants: Mapping[str, CompiledModel], batch: Array) -> dict[str, dict[str, float]]:
    """Median and least microseconds of each, in turns A B A B, so that a machine that drifts treats all alike."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for model in contestants.values():
        model(batch)
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(next(iter(taken.values()))) < 5:
        for name, model in contestants.items():
            start = time.perf_counter()
            model(batch)
            taken[name].append((time.perf_counter() - start) * 1e6)
    return {name: {"median": sorted(found)[len(found) // 2], "min": min(found)} for name, found in taken.items()}


def _tell(fused: CompiledModel, facts: dict[str, Any]) -> None:
    before, after = facts["before"], facts["after"]
    parts = f"{before['operators']} operators, {count(before['parameters'])} parameters"
    say(f"A classifier of handwritten digits: {parts}.")
    made = f"{len(fused.sources)} kernels, {facts['kernels_made']} object files made now"
    say(f"Compiled in {facts['compile_seconds']:.2f} s for {fused.program.target}: {made}.")
    say("What each pass did:\n")
    table(PASS_COLUMNS, [pass_row(record) for record in fused.records])
    say(
        f"\nBefore: {before['operators']} operators, {count(before['macs'])} MACs an image. "
        f"After: {after['operators']} operators, {count(after['macs'])} MACs."
    )
    _tell_certificates(fused)
    say(f"\n{facts['images']} images that training never saw, batch {facts['images']}:")
    say(f"  interpreter (NumPy)  {facts['accuracy_interpreter']:.2%} right")
    say(f"  compiled             {facts['accuracy_compiled']:.2%} right")
    say(
        f"  the same prediction on {facts['same_predictions']} of {facts['images']} images; "
        f"largest difference {facts['largest_relative_error']:.1e} of the largest output"
    )
    say("\nLatency with one thread, taken in turns:\n")
    rows = [
        (images, name, f"{figures['median']:.1f}", f"{figures['min']:.1f}")
        for images, found in facts["latency_us"].items()
        for name, figures in found.items()
    ]
    table([">images", "network", ">median us", ">least us"], rows)
    for images, found in facts["latency_us"].items():
        ratio = found["unfused"]["median"] / found["fused"]["median"]
        say(f"{images} at a time: fused is {ratio:.2f} times as fast as unfused")


def _tell_certificates(fused: CompiledModel) -> None:
    """What each approximation promises, and what was refused."""
    for record in fused.records:
        if record.name != "spend_budget":
            continue
        say(f"\nApproximations, up to an output error of {record.options['budget']:g}:\n")
        for rewrite in record.rewrites:
            figures = rewrite.certificate
            say(f"  {rewrite}")
            say(
                f"    weights off by {figures['weight_error']:.2g}, outputs by {figures['output_error']:.2g}; "
                f"{count(int(figures['macs_before']))} to {count(int(figures['macs_after']))} MACs, "
                f"{figures['seconds_before'] * 1e6:.1f} to {figures['seconds_after'] * 1e6:.1f} us predicted"
            )
        for refusal in record.refusals:
            say(f"  refused: {refusal}")
