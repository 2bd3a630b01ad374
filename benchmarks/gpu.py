"""Times of networks on this machine's GPU, beside PyTorch and beside the floors of arithmetic and memory.

    python benchmarks/gpu.py [--networks resnet50,mobilenet_v2] [--batches 1,32,256] [--precisions float32,...]
                             [--torch] [--torch-compile] [--json FILE] [--tune] [--winners FILE]

Each figure is the median over rounds of CUDA-event times of graph replays that take turns over several inputs, each
with memory of its own, so that nothing stays in the caches that would not. PyTorch runs the same graph with batch norms
folded, channels last, cuDNN's own search, in a CUDA graph; `--torch-compile` adds torch.compile(mode="max-autotune"),
which takes minutes. `--tune` measures tiles first; `--winners FILE` does, too, and adds the winners to FILE, such as
backends/cuda/winners_sm_90.json, the project's table for that generation of GPUs. Without a GPU it says so and ends
with code 3. Not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import convc
from convc.dims import concrete
from convc.errors import TargetError
from convc.interp import run_graph
from convc.ir.graph import Graph
from convc.model import CompiledModel
from convc.ops import OPS

PEAKS = {"H200": (4.3e12, {"float32": 67e12, "tf32": 495e12, "float16": 990e12, "bfloat16": 990e12}),
         "H100": (3.0e12, {"float32": 67e12, "tf32": 495e12, "float16": 990e12, "bfloat16": 990e12}),
         "A100": (1.6e12, {"float32": 19.5e12, "tf32": 156e12, "float16": 312e12, "bfloat16": 312e12})}  # fmt: skip
"""Bytes a second of a copy, floating operations a second by precision (data sheets)."""
KNOWN = {"conv2d", "linear", "max_pool2d", "avg_pool2d", "relu", "add", "mul", "clip", "concat", "reshape", "transpose",
         "sigmoid", "silu", "batch_norm", "global_avg_pool", "softmax", "identity", "dropout"}  # fmt: skip
"""What `torch_function` has a PyTorch function for."""
TURNS = 3
ROUNDS = 7


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--networks", default="resnet50,mobilenet_v2")
    parser.add_argument("--batches", default="1,32,256")
    parser.add_argument("--precisions", default="float32,tf32,float16,bfloat16")
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--torch-compile", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--winners")
    args = parser.parse_args(words)
    try:
        from convc.backends.cuda.driver import this_device

        device = this_device()
    except TargetError as error:
        print(f"skipped: no GPU ({error})")
        return 3
    print(f"{device.name}, {device.arch}, {device.processors} multiprocessors; milliseconds")
    found, tune = [], args.tune or args.winners is not None
    for network in args.networks.split(","):
        errors = {p: error_of(network, compiled(network, p, tune)) for p in args.precisions.split(",")}
        if args.winners:
            keep_winners(Path(args.winners), [compiled(network, p, tune) for p in args.precisions.split(",")])
        for batch in map(int, args.batches.split(",")):
            for precision in args.precisions.split(","):
                row: dict[str, Any] = {"network": network, "batch": batch, "precision": precision}
                row["convc"] = time_convc(device, compiled(network, precision, tune), batch)
                row["error"] = errors[precision]
                row["floor"] = floor(device.name, network, batch, precision)
                if args.torch:
                    row["torch"] = time_torch(network, batch, precision, compiled=False)
                if args.torch_compile:
                    row["torch.compile"] = time_torch(network, batch, precision, compiled=True)
                found.append(row)
                texts = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
                print("  ".join(texts), flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"device": device.name, "arch": device.arch, "rows": found}, file, indent=1)
    return 0


@cache
def compiled(network: str, precision: str, tune: bool) -> CompiledModel:
    """The network for this machine's GPU."""
    return convc.compile(f"zoo:{network}", target="cuda", precision=precision, tune=tune)


def keep_winners(path: Path, models: Sequence[CompiledModel]) -> None:
    """Add what was measured for the models to a table of winners."""
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for model in models:
        table.update(model.program.choices)
    lines = (f"{json.dumps(key)}: {json.dumps(table[key])}" for key in sorted(table))
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def error_of(network: str, model: CompiledModel) -> float:
    """The largest error of the output against float64, of the largest output, at batch 1."""
    graph = convc.zoo.build(network, batch=1)
    (port,) = graph.inputs
    x = np.random.default_rng(0).normal(size=port.type.concrete(graph.nominal)).astype(np.float32)
    (want, *_) = run_graph(graph, {port.name: x.astype(np.float64)}, dtype="float64").values()
    got = model(x)
    return float(np.abs(got - want).max() / np.abs(want).max())


def time_convc(device: Any, model: CompiledModel, batch: int) -> float:
    """Milliseconds of an inference."""
    sizes = {**model.graph.nominal, "N": batch}
    replays = [model.runnable.replay(sizes) for _ in range(TURNS)]  # type: ignore[attr-defined]
    (port,) = model.graph.inputs
    shape = port.type.concrete(sizes)
    stream = device.stream()
    for turn, replay in enumerate(replays):
        x = np.random.default_rng(turn).normal(size=shape).astype(np.float32)
        device.upload(replay.context.slots[0], x, stream)
        device.synchronise(stream)

    first, last = device.event(), device.event()

    def run(count: int) -> float:
        device.record(first, stream)
        for index in range(count):
            replays[index % TURNS].launch(stream)
        device.record(last, stream)
        return float(device.elapsed(first, last)) / count

    found = 1000 * _median(run)
    device.end_event(first)
    device.end_event(last)
    device.end_stream(stream)
    return found


def _median(run: Callable[[int], float]) -> float:
    run(TURNS)
    count = max(TURNS, min(300, int(0.1 / max(run(2 * TURNS), 1e-6))))
    return statistics.median(run(count) for _ in range(ROUNDS))


def floor(name: str, network: str, batch: int, precision: str) -> float:
    """Milliseconds that arithmetic or memory take at the least, each layer reading and writing memory once."""
    known = next((peak for part, peak in PEAKS.items() if part in name), None)
    if known is None:
        return float("nan")
    bandwidth, peaks = known
    graph = convc.compile(f"zoo:{network}", target="reference").graph.bind(N=batch)
    element = 2 if precision in {"float16", "bfloat16"} else 4
    operations = moved = 0.0
    for node in graph.operators:
        types = [None if i is None else graph[i].type.bind(graph.nominal) for i in node.inputs]
        out = node.type.bind(graph.nominal)
        operations += 2 * concrete(OPS[node.op].macs(types, out, node.attrs), {})
        if node.op not in {"reshape", "concat", "identity"}:
            moved += element * sum(concrete(t.elements, {}) for t in (*types, out) if t is not None)
    return 1000 * max(operations / peaks[precision], moved / bandwidth)


def time_torch(network: str, batch: int, precision: str, *, compiled: bool) -> float:
    """Milliseconds of the same graph in PyTorch; not a number where it is not installed or fails."""
    try:
        import torch
    except ImportError:
        return float("nan")
    if not torch.cuda.is_available():
        return float("nan")
    strict = precision == "float32"
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not strict
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(precision, torch.float32)
    graph = convc.compile(f"zoo:{network}", target="reference", passes=["fuse_batchnorm"]).graph.bind(N=batch)
    unknown = {node.op for node in graph.operators} - KNOWN
    if unknown:
        print(f"{network} has {', '.join(sorted(unknown))}, which is not written for PyTorch here", file=sys.stderr)
        return float("nan")
    forward = torch_function(graph, dtype)
    shape = graph.inputs[0].type.concrete(graph.nominal)
    with torch.inference_mode():
        inputs = [torch.randn(shape, device="cuda", dtype=dtype).contiguous(memory_format=torch.channels_last)
                  for _ in range(TURNS)]  # fmt: skip
        if compiled:
            forward = torch.compile(forward, mode="max-autotune")
            replays = [lambda x=x: forward(x) for x in inputs]
            for replay in replays * 2:
                replay()
        else:
            replays = [_captured(torch, forward, x) for x in inputs]

        def run(count: int) -> float:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            for index in range(count):
                replays[index % TURNS]()
            last.record()
            torch.cuda.synchronize()
            return first.elapsed_time(last) / 1000 / count

        return 1000 * _median(run)


def _captured(torch: Any, forward: Callable[[Any], Any], x: Any) -> Callable[[], None]:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            forward(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward(x)
    replay: Callable[[], None] = graph.replay
    return replay


def torch_function(graph: Graph, dtype: Any) -> Callable[[Any], Any]:
    """A function of torch tensors that computes a graph of convolutions, pools, activations, sums and joins."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    constants = {}
    for node in graph.constants:
        value = torch.from_numpy(np.array(node.array)).cuda()
        value = value.to(dtype) if value.is_floating_point() else value
        constants[node.name] = value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value

    def step(node: Any, a: list[Any]) -> Any:
        t = node.attrs
        if node.op == "conv2d":
            top, left, bottom, right = t["padding"]
            x = a[0] if (top, left) == (bottom, right) else F.pad(a[0], (left, right, top, bottom))
            pad = (top, left) if (top, left) == (bottom, right) else 0
            y = F.conv2d(x, a[1], a[2] if len(a) > 2 else None, t["stride"], pad, t["dilation"], t["groups"])
            return y if len(a) < 4 or a[3] is None else y + a[3]
        if node.op == "linear":
            return F.linear(a[0], a[1], a[2] if len(a) > 2 else None)
        if node.op == "max_pool2d":
            return F.max_pool2d(a[0], t["kernel"], t["stride"], t["padding"][:2], t["dilation"], t["ceil_mode"])
        if node.op == "avg_pool2d":
            pad = t["padding"][:2]
            return F.avg_pool2d(a[0], t["kernel"], t["stride"], pad, t["ceil_mode"], t["count_include_pad"])
        simple: dict[str, Callable[[], Any]] = {
            "relu": lambda: F.relu(a[0]), "add": lambda: a[0] + a[1], "mul": lambda: a[0] * a[1],
            "clip": lambda: a[0].clamp(t["min"], t["max"]), "concat": lambda: torch.cat(a, t["axis"]),
            "reshape": lambda: a[0].reshape(node.type.concrete(graph.nominal)), "sigmoid": lambda: a[0].sigmoid(),
            "transpose": lambda: a[0].permute(t["perm"]), "silu": lambda: F.silu(a[0]),
            "batch_norm": lambda: F.batch_norm(a[0], a[3], a[4], a[1], a[2], False, 0.0, t["epsilon"]),
            "global_avg_pool": lambda: a[0].mean((2, 3), keepdim=True), "softmax": lambda: a[0].softmax(t["axis"]),
            "identity": lambda: a[0], "dropout": lambda: a[0],
        }  # fmt: skip
        return simple[node.op]()

    def forward(x: Any) -> Any:
        values = {**constants, graph.inputs[0].name: x}
        for node in graph.operators:
            values[node.name] = step(node, [None if i is None else values[i] for i in node.inputs])
        return values[graph.outputs[0].node]

    return forward


if __name__ == "__main__":
    sys.exit(main())
