"""What each idea of convolutional networks saves: weights, multiply-adds and time, beside the layer that it replaces.

python examples/seed_ideas.py                                        # all of them, a minute the first time
python examples/seed_ideas.py bottleneck dilated --channels 128 --size 28

Each variant is compiled twice: unfused, each operator a kernel of its own, and fused. MACs are those of the layer as
written and, where passes change them, those that are left.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

import convc
from convc.frontends.value import Value
from convc.measure.inputs import random_array
from convc.measure.timing import Budget, race
from convc.types import Array

Layer = Callable[[convc.Builder, Value, int], Value]


def plain(b: convc.Builder, x: Value, channels: int) -> Value:
    return b.conv(x, channels, kernel=3)


def two(b: convc.Builder, x: Value, channels: int) -> Value:
    return plain(b, b.relu(plain(b, x, channels)), channels)


def grouped(b: convc.Builder, x: Value, channels: int) -> Value:
    return b.conv(x, channels, kernel=3, groups=4)


def shuffled(b: convc.Builder, x: Value, channels: int) -> Value:
    return b.conv(b.channel_shuffle(grouped(b, x, channels), groups=4), channels, kernel=3, groups=4)


def depthwise_separable(b: convc.Builder, x: Value, channels: int) -> Value:
    return b.conv(b.conv(x, channels, kernel=3, groups=channels), channels, kernel=1)


def bottleneck(b: convc.Builder, x: Value, channels: int) -> Value:
    narrow = b.relu(b.conv(x, channels // 4, kernel=1))
    return b.conv(b.relu(b.conv(narrow, channels // 4, kernel=3)), channels, kernel=1)


def squeeze_excite(b: convc.Builder, x: Value, channels: int) -> Value:
    y = plain(b, x, channels)
    gate = b.relu(b.conv(b.global_avg_pool(y), max(channels // 16, 1), kernel=1))
    return y * b.sigmoid(b.conv(gate, channels, kernel=1))


def resized(b: convc.Builder, x: Value, channels: int) -> Value:
    height, width = x.shape[2:]
    size, scales = (*x.shape[:2], 2 * height, 2 * width), (1.0, 1.0, 2.0, 2.0)
    larger = b.resize(x, size=size, scales=scales, mode="nearest", coordinates="asymmetric")
    return b.conv(larger, channels, kernel=3)


# Kernels that look dense and are made of smaller ones, as pruning to such a structure leaves them.


def normal(*shape: int) -> Array:
    return np.random.default_rng(1).normal(size=shape) / np.sqrt(np.prod(shape[1:]))


def composed(first: Array, second: Array) -> Array:
    """The kernel of second after first: w[o,c,i,j] = sum over m, r, s of second[o,m,r,s] first[m,c,i-r,j-s]."""
    (out, _, rows, columns), (_, channels, height, width) = second.shape, first.shape
    w = np.zeros((out, channels, rows + height - 1, columns + width - 1))
    for r in range(rows):
        for s in range(columns):
            w[:, :, r : r + height, s : s + width] += np.einsum("om,mcij->ocij", second[:, :, r, s], first)
    return w


def dense(make: Callable[[int], Array]) -> Layer:
    def layer(b: convc.Builder, x: Value, channels: int) -> Value:
        return b.conv2d(x, make(channels).astype(np.float32), padding="same")

    return layer


def depthwise_inside(channels: int) -> Array:
    return normal(channels, channels, 1, 1) * normal(1, channels, 3, 3)


def bottleneck_inside(channels: int) -> Array:
    narrow = channels // 4
    inner = composed(normal(narrow, channels, 1, 1), normal(narrow, narrow, 3, 3))
    return composed(inner, normal(channels, narrow, 1, 1))


def stack_inside(channels: int) -> Array:
    between = max(channels // 4, 1)
    return composed(normal(between, channels, 3, 3), normal(channels, between, 3, 3))


IDEAS: dict[str, tuple[str, dict[str, Layer]]] = {
    "grouped": (
        "G groups of channels take 1/G of the weights and multiply-adds; no path leads from group to group.",
        {"3x3": plain, "3x3, 4 groups": grouped},
    ),
    "shuffled": (
        "A channel shuffle between grouped convolutions is the path. It is an order of reading: no data moves.",
        {"two 3x3": lambda b, x, c: plain(b, plain(b, x, c), c), "two 3x3, 4 groups, shuffled": shuffled},
    ),
    "depthwise_separable": (
        "A filter a channel, then a mixture: 1/O + 1/k^2 of the multiply-adds. The compiler finds it in dense kernels.",
        {"3x3": plain, "depthwise 3x3, 1x1": depthwise_separable, "3x3 that is one": dense(depthwise_inside)},
    ),
    "bottleneck": (
        "1x1 to a quarter of the channels, 3x3 there, 1x1 back. The compiler finds it in kernels of low rank.",
        {"3x3": plain, "1x1, 3x3, 1x1": bottleneck, "3x3 that is one": dense(bottleneck_inside)},
    ),
    "separable": (
        "k x 1 and 1 x k in the place of k x k: 2/k of the multiply-adds. The compiler finds it in dense kernels.",
        {
            "5x5": lambda b, x, c: b.conv(x, c, kernel=5),
            "1x5, 5x1": lambda b, x, c: b.conv(b.conv(x, c, kernel=(1, 5)), c, kernel=(5, 1)),
            "5x5 that is one": dense(lambda c: composed(normal(c, c, 1, 5), normal(c, c, 5, 1))),
        },
    ),
    "stacked": (
        "Two 3x3 see as much as one 5x5, with 18/25 of its weights. The compiler finds them where a 5x5 is two.",
        {
            "5x5": lambda b, x, c: b.conv(x, c, kernel=5),
            "two 3x3": lambda b, x, c: plain(b, plain(b, x, c), c),
            "5x5 that is two": dense(stack_inside),
        },
    ),
    "batchnorm": (
        "BatchNormalization is a factor and a bias a channel: it goes into the convolution's weights.",
        {"3x3": plain, "3x3, BatchNormalization": lambda b, x, c: b.batch_norm(plain(b, x, c))},
    ),
    "relu6": (
        "An activation is applied while the sum is still in a register.",
        {"3x3": plain, "3x3, ReLU6": lambda b, x, c: b.relu6(plain(b, x, c))},
    ),
    "residual": (
        "The sum of a block and its input is taken where the block's last convolution writes.",
        {"two 3x3": two, "two 3x3, sum, ReLU": lambda b, x, c: b.relu(x + two(b, x, c))},
    ),
    "squeeze_excite": (
        "A gate a channel, from the mean of each: few multiply-adds, but the whole of it must be known first.",
        {"3x3": plain, "3x3, gate": squeeze_excite},
    ),
    "dilated": (
        "A 3x3 with holes sees as much as a 5x5, with 9/25 of its weights.",
        {
            "5x5": lambda b, x, c: b.conv(x, c, kernel=5),
            "3x3, dilation 2": lambda b, x, c: b.conv(x, c, kernel=3, dilation=2),
        },
    ),
    "transposed": (
        "Twice the size by a transposed convolution: no multiplication by the zeros in between, 4 of 16 taps a pixel.",
        {
            "resize, 3x3": resized,
            "transposed 4x4": lambda b, x, c: b.conv_transpose(x, c, kernel=4, stride=2, padding=1),
        },
    ),
}


def measure(layer: Layer, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one variant: as it was written, and fused."""
    b = convc.Builder("idea", seed=0)
    x = b.input("x", (1, options.channels, options.size, options.size))
    graph = b.finish({"y": layer(b, x, options.channels)})
    models = {
        name: convc.compile(graph, passes=passes, target=options.target, threads=1)
        for name, passes in (("fused", "default"), ("unfused", "none"))
    }
    array = random_array(graph.inputs[0].type.concrete({}), np.dtype(np.float32), 0)
    outputs = [model(array) for model in models.values()]
    runners = {name: (lambda model=model: model(array)) for name, model in models.items()}
    samples = race(runners, Budget(seconds=options.seconds, warmup=1, runs=3))
    fused = models["fused"]
    return {
        "weights": graph.parameters(),
        "weights_after": fused.graph.parameters(),
        "macs": graph.macs(),
        "macs_after": fused.graph.macs(),
        "operators": len(graph.operators),
        "operators_after": len(fused.graph.operators),
        "seconds": {name: float(np.median(taken)) for name, taken in samples.items()},
        "difference": float(np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[1]).max()),
        "passes": [record.name for record in fused.records if record.changed],
    }


def print_variant(name: str, found: dict[str, Any]) -> None:
    def both(key: str) -> str:
        before, after = found[key], found[f"{key}_after"]
        return f"{before:,}" if before == after else f"{before:,} > {after:,}"

    seconds = found["seconds"]
    print(
        f"  {name:28s}{both('weights'):>18s}{both('macs'):>28s}"
        f"{seconds['unfused'] * 1e3:>10.3f}{seconds['fused'] * 1e3:>10.3f}"
    )
    if found["passes"]:
        print(f"    fused by {', '.join(found['passes'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ideas", nargs="*", metavar="IDEA", help=f"all, or some of {', '.join(IDEAS)}")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=56, help="height and width")
    parser.add_argument("--seconds", type=float, default=0.2, help="how long each contestant is measured")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    unknown = sorted(set(args.ideas) - set(IDEAS))
    if unknown:
        parser.error(f"there is no idea {unknown[0]}; the ideas are {', '.join(IDEAS)}")
    results = {}
    if not args.json:
        print(f"  {'':28s}{'weights':>18s}{'MACs':>28s}{'unfused':>10s}{'fused ms':>10s}")
    for idea in args.ideas or IDEAS:
        text, layers = IDEAS[idea]
        if not args.json:
            print(textwrap.fill(f"{idea}: {text}", 100))
        results[idea] = {}
        for name, layer in layers.items():
            found = results[idea][name] = measure(layer, args)
            if not args.json:
                print_variant(name, found)
    if args.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
