"""Measure a network fused against unfused, in turns, and what each pass is worth.

python examples/compare_fused.py zoo:mobilenet_v2 --seconds 2
"""

from __future__ import annotations

import argparse

import convc
from convc.measure.bench import Options, ablate, compare
from convc.measure.inputs import random_inputs
from convc.measure.timing import Budget
from convc.model import CompiledModel
from convc.source import read_source


def compiled(graph: convc.Graph, passes: object, threads: int | None) -> CompiledModel:
    return convc.compile(graph, passes=passes, threads=threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="zoo:digits", help="an ONNX file or zoo:NAME (zoo:digits)")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each contestant is measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ablate", action="store_true", help="leave out one pass at a time, too")
    args = parser.parse_args()
    graph = read_source(args.model)
    fused = compiled(graph, "default", args.threads)
    inputs = random_inputs(fused)

    # A B A B: a machine that drifts treats both alike. A sum over kernels would leave out what lies between them.
    budget = Budget(seconds=args.seconds)
    found, _ = compare(graph, inputs, args.threads, compiled, Options(budget), fused=fused)
    print(f"{args.model}, {found.label}")
    for one in found.results:
        figures = one.figures
        print(
            f"  {one.name:8s} {one.steps:4d} steps, median {figures.median * 1e3:.3f} ms, "
            f"P99 {figures.percentiles['99'] * 1e3:.3f} ms, {figures.throughput:.0f} images/s, error {one.error:.1e}"
        )
    print(f"  unfused takes {found.ratios['unfused']:.2f} times as long")

    if args.ablate:
        median, rows = ablate(graph, inputs, args.threads, compiled, budget)
        print(f"Left out, one at a time; with all, the median is {median * 1e3:.3f} ms:")
        for row in sorted(rows, key=lambda row: -(row.ratio or 0)):
            if row.ratio is not None:
                print(f"  {row.name:24s} {row.rewrites:3d} rewrites  {row.ratio:.3f} times as long without")


if __name__ == "__main__":
    main()
