"""convc beside ONNX Runtime, OpenVINO and ncnn on the zoo's networks, and where its own time goes.

    python benchmarks/cpu.py                                   # every table; half an hour on two cores
    python benchmarks/cpu.py --networks resnet18,mobilenet_v2 --threads 1 --seconds 1 --tables latency

Each measurement runs in a process of its own, pinned to as many cores as it has threads; inside it the contestants run
in turns. `--write docs/performance.md` puts the tables between the marks in that file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import convc
from convc import zoo
from convc.backends.cpu import isa
from convc.backends.cpu.peak import loaded_multiply_adds_a_second
from convc.measure.bench import Options, compare
from convc.measure.environment import environment
from convc.measure.inputs import random_array
from convc.measure.profile import profile
from convc.measure.timing import Budget

PEERS = ("onnxruntime", "openvino", "ncnn")
NETWORKS = tuple(name for name in zoo.ZOO if name not in {"digits", "effnet", "vgg16", "squeezenet1_0"})
LAYERS = ("resnet50", "vgg16_bn", "mobilenet_v2")
SCALED = "resnet50"
BATCHES = (1, 4, 16)
SIZES = (112, 224, 448, 896)
MARKS = re.compile(r"(<!-- figures: begin[^>]*-->\n).*(<!-- figures: end -->)", re.DOTALL)


# ---- in a process of its own -------------------------------------------------------------------------------------


def measure(task: Mapping[str, Any]) -> dict[str, Any]:
    """One comparison, or one profile. Everything in `task` and in the answer is JSON."""
    threads = int(task.get("threads", 1))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    graph = zoo.build(task["network"])
    sizes = {**graph.nominal, **task.get("sizes", {})}
    inputs = {
        node.name: random_array(node.type.concrete(sizes), node.type.dtype.numpy, 0) for node in graph.inputs
    }
    if task["kind"] == "profile":
        found = profile(convc.compile(graph, threads=1), inputs, seconds=task["seconds"])
        shapes = {node.name: list(node.type.concrete(sizes)) for node in graph.nodes}
        loaded = loaded_multiply_adds_a_second(isa.choose())
        return {**found.to_json(), "shapes": shapes, "loaded": loaded}

    def compiled(which: Any, passes: Any, count: int) -> Any:
        return convc.compile(which, passes=passes, threads=count)

    options = Options(
        Budget(seconds=task["seconds"]), unfused=False, against=tuple(task["against"]), accuracy=task["accuracy"]
    )
    found, _ = compare(graph.bind(**sizes) if sizes else graph, inputs, threads, compiled, options)
    return found.to_json()


def in_process(task: Mapping[str, Any]) -> dict[str, Any]:
    """`measure` in a new process."""
    done = subprocess.run(
        [sys.executable, __file__, "--task", json.dumps(task)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{task}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


# ---- tables ------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a table in Markdown, figures to the right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def latency_tables(
    networks: Sequence[str], threads: Sequence[int], against: Sequence[str], seconds: float
) -> list[str]:
    """A table for each number of threads: median (least) in ms, ratio to the best of the others, errors."""
    lines: list[str] = []
    for count in threads:
        rows, ratios = [], []
        for name in networks:
            task = {"kind": "compare", "network": name, "threads": count, "seconds": seconds, "against": against}
            found = in_process({**task, "accuracy": count == threads[0]})
            tell(f"{name}, {count} threads: {json.dumps(found['ratios'])}")
            results = found["results"]
            peers = {peer: results[peer]["figures"]["median"] for peer in against if peer in results}
            ours = results["fused"]["figures"]["median"]
            ratio = min(peers.values()) / ours if peers else math.nan
            ratios.append(ratio)
            cells = [_times(results[one]) if one in results else "-" for one in ("fused", *against)]
            rows.append([name, *cells, f"{ratio:.2f}"])
            if count == threads[0]:
                rows[-1].append(" / ".join(f"{results[one]['error']:.0e}" for one in ("fused", *peers)))
        mean = math.exp(float(np.mean(np.log(ratios))))
        rows.append(["geometric mean", *[""] * (1 + len(against)), f"**{mean:.2f}**", *[""] * (count == threads[0])])
        lines += [f"### {count} thread{'s' * (count > 1)}, batch 1", ""]
        head = ["network", "convc", *against, "best other / convc"]
        lines += table([*head, *["errors, in this order"] * (count == threads[0])], rows)
    return lines


def _times(result: Mapping[str, Any]) -> str:
    figures = result["figures"]
    return f"{figures['median'] * 1e3:.2f} ({figures['min'] * 1e3:.2f})"


def layer_tables(networks: Sequence[str], seconds: float) -> list[str]:
    """The steps that multiply, with what they reach; the others together."""
    lines: list[str] = []
    for name in networks:
        found = in_process({"kind": "profile", "network": name, "seconds": seconds})
        tell(f"{name}: profile")
        rows = [
            [
                step["node"],
                "x".join(map(str, found["shapes"].get(step["node"], []))),
                step["kernel"].partition("__")[0],
                f"{2e-6 * step['macs']:.0f}",
                f"{1e-6 * step['bytes']:.1f}",
                f"{step['seconds'] * 1e6:.0f}",
                f"{1e6 * step['macs'] * multiplied(step['kernel']) / found['limit']:.0f}",
                f"{step['gflops']:.0f}",
                f"{step['limit_share']:.0%}",
            ]
            for step in found["steps"]
            if step["macs"]
        ]
        rest = [step["seconds"] for step in found["steps"] if not step["macs"]]
        moved = sum(step["bytes"] for step in found["steps"] if not step["macs"])
        others = [f"{1e-6 * moved:.1f}", f"{sum(rest) * 1e6:.0f}"]
        rows.append([f"{len(rest)} other steps", "", "", "", *others, "", "", ""])
        macs, size, seconds = (sum(step[key] for step in found["steps"]) for key in ("macs", "bytes", "seconds"))
        least = sum(step["macs"] * multiplied(step["kernel"]) for step in found["steps"]) / found["limit"]
        totals = [f"{2e-6 * macs:.0f}", f"{1e-6 * size:.1f}", f"{1e6 * seconds:.0f}", f"{1e6 * least:.0f}"]
        rows.append(["all", "", "", *totals, "", ""])
        limit, alone, loaded = (2e-9 * found[one] for one in ("limit", "limit_alone", "loaded"))
        limits = f"The limit is {limit:.0f} GFLOP/s in turns with the network; at best {alone:.0f} alone"
        lines += [f"### {name}, 1 thread", "", f"{limits}, {loaded:.0f} with operands loaded.", ""]
        head = ["node", "output", "kernel", "MFLOP", "MB", "us", "at the limit, us", "GFLOP/s", "of the limit"]
        lines += table(head, rows)
    return lines


def multiplied(kernel: str) -> float:
    """Multiply-adds that a kernel makes for one of the definition: Winograd's F(m x m, 3 x 3) makes fewer."""
    found = re.search(r"winograd_f(\d)3", kernel)
    return (int(found[1]) + 2) ** 2 / (9 * int(found[1]) ** 2) if found else 1.0


def scaling_tables(network: str, against: Sequence[str], seconds: float) -> list[str]:
    """One thread: images a second by batch and by size of the image."""
    lines: list[str] = []
    for title, settings in (
        ("batch", [({"N": n}, str(n)) for n in BATCHES]),
        ("image size", [({"H": s, "W": s}, f"{s}x{s}") for s in SIZES]),
    ):
        rows = []
        for sizes, label in settings:
            task = {"kind": "compare", "network": network, "threads": 1, "seconds": seconds, "sizes": sizes}
            found = in_process({**task, "against": against, "accuracy": False})
            tell(f"{network}, {label}")
            results, items = found["results"], found["items"]
            cells = [
                f"{items / results[one]['figures']['median']:.1f}" if one in results else "-"
                for one in ("fused", *against)
            ]
            rows.append([label, *cells])
        lines += [f"### {network} by {title}, 1 thread, images a second", ""]
        lines += table([title, "convc", *against], rows)
    return lines


def tell(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names of the zoo, joined by commas")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, joined by commas")
    parser.add_argument("--against", default=",".join(PEERS), help=f"of {', '.join(PEERS)}, torch")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each contestant")
    parser.add_argument("--tables", default="latency,layers,scaling", help="which, joined by commas")
    parser.add_argument("--write", type=Path, help="a document with the two marks, between which the tables go")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(measure(json.loads(options.task))))
        return 0
    chosen, against = options.tables.split(","), [one for one in options.against.split(",") if one]
    networks = options.networks.split(",")
    facts = environment()
    kept = ("processor", "system", "python", "convc", "numba", "llvmlite", *against)
    lines = [f"Measured on {time.strftime('%Y-%m-%d')} by `benchmarks/cpu.py`: " + "; ".join(
        f"{name} {facts.get(name) or facts['packages'].get(name)}" for name in kept
    ) + ".", ""]  # fmt: skip
    if "latency" in chosen:
        lines += ["## Latency beside other engines, ms: median (least)", ""]
        lines += latency_tables(networks, [int(n) for n in options.threads.split(",")], against, options.seconds)
    if "layers" in chosen:
        lines += ["## Layer by layer", ""]
        lines += layer_tables([name for name in LAYERS if name in networks] or networks[:1], options.seconds)
    if "scaling" in chosen:
        lines += ["## By batch and size", ""]
        lines += scaling_tables(SCALED if SCALED in networks else networks[0], against, options.seconds)
    text = "\n".join(lines)
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        if not MARKS.search(page):
            raise SystemExit(f"{options.write} has no marks to put the figures between")
        page = MARKS.sub(lambda marks: f"{marks[1]}\n{text}\n{marks[2]}", page)
        options.write.write_text(page, encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
