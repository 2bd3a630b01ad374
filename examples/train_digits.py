"""Train the digit classifier of `convc demo` from scratch, in NumPy, and write its weights and the held-out digits.

    python examples/train_digits.py                    # half a minute on one core; writes to convc/data
    python examples/train_digits.py --epochs 2 --out /tmp

The data are scikit-learn's 1,797 digits of 8 by 8 pixels. Every fifth (index 0, 5, 10, ...) is held out: 360 to test
with, 1,437 to train with. The network is the Graph of `convc.zoo.digits`: each of its operators has a rule below that
computes its value and returns `pull`, which maps the gradient of the value to the gradients of the inputs.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import convc
from convc.data import FOLDER
from convc.interp import run_graph
from convc.ir.graph import Graph
from convc.tensors import write_tensors
from convc.zoo.digits import digits_architecture

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]
Pull = Callable[[Array], tuple[Array, ...]]
Attrs = Mapping[str, Any]


def conv2d(attrs: Attrs, x: Array, w: Array) -> tuple[Array, Pull]:
    """A matrix product for each group: weights [K/g, C/g*R*S] times patches [C/g*R*S, N*H*W]."""
    top, left, bottom, right = attrs["padding"]
    (down, across), g = attrs["stride"], attrs["groups"]
    (n, c, h, wide), (k, _, r, s) = x.shape, w.shape
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (r, s), (2, 3))[:, :, ::down, ::across]
    rows, columns = patches.shape[2:4]
    flat = patches.transpose(1, 4, 5, 0, 2, 3).reshape(g, c // g * r * s, -1)
    weights = w.reshape(g, k // g, -1)
    y = (weights @ flat).reshape(k, n, rows, columns).transpose(1, 0, 2, 3)

    def pull(dy: Array) -> tuple[Array, ...]:
        dy = dy.transpose(1, 0, 2, 3).reshape(g, k // g, -1)
        dw = (dy @ flat.transpose(0, 2, 1)).reshape(w.shape)
        d_patches = (weights.transpose(0, 2, 1) @ dy).reshape(c, r, s, n, rows, columns)
        d_padded = np.zeros((c, n, *padded.shape[2:]), x.dtype)
        for i in range(r):
            for j in range(s):
                d_padded[:, :, i : i + down * rows : down, j : j + across * columns : across] += d_patches[:, i, j]
        return d_padded[:, :, top : top + h, left : left + wide].transpose(1, 0, 2, 3), dw

    return y, pull


def batch_norm(attrs: Attrs, x: Array, gamma: Array, beta: Array, mean: Array, var: Array) -> tuple[Array, Pull]:
    """Normalised by the statistics of the batch, as in training; the running ones are left alone."""
    axes, count = (0, 2, 3), x.size // x.shape[1]
    scale = 1 / np.sqrt(x.var(axes, keepdims=True) + attrs["epsilon"])
    normal = (x - x.mean(axes, keepdims=True)) * scale

    def pull(dy: Array) -> tuple[Array, ...]:
        d_gamma, d_beta = (dy * normal).sum(axes), dy.sum(axes)
        shift = (d_beta[:, None, None] + normal * d_gamma[:, None, None]) / count
        return gamma[:, None, None] * scale * (dy - shift), d_gamma, d_beta

    return normal * gamma[:, None, None] + beta[:, None, None], pull


def relu(attrs: Attrs, x: Array) -> tuple[Array, Pull]:
    return np.maximum(x, 0), lambda dy: (dy * (x > 0),)


def clip(attrs: Attrs, x: Array) -> tuple[Array, Pull]:
    low, high = attrs["min"], attrs["max"]
    return np.clip(x, low, high), lambda dy: (dy * ((x > low) & (x < high)),)


def add(attrs: Attrs, a: Array, b: Array) -> tuple[Array, Pull]:
    return a + b, lambda dy: (dy, dy)


def reshape(attrs: Attrs, x: Array) -> tuple[Array, Pull]:
    return x.reshape(attrs["shape"]), lambda dy: (dy.reshape(x.shape),)


def transpose(attrs: Attrs, x: Array) -> tuple[Array, Pull]:
    return x.transpose(attrs["perm"]), lambda dy: (dy.transpose(np.argsort(attrs["perm"])),)


def global_avg_pool(attrs: Attrs, x: Array) -> tuple[Array, Pull]:
    pixels = x.shape[2] * x.shape[3]
    return x.mean((2, 3), keepdims=True), lambda dy: (np.broadcast_to(dy / pixels, x.shape),)


def linear(attrs: Attrs, x: Array, w: Array, b: Array) -> tuple[Array, Pull]:
    return x @ w.T + b, lambda dy: (dy @ w, dy.T @ x, dy.sum(0))


RULES: dict[str, Callable[..., tuple[Array, Pull]]] = {
    "conv2d": conv2d, "batch_norm": batch_norm, "relu": relu, "clip": clip, "add": add, "reshape": reshape,
    "transpose": transpose, "global_avg_pool": global_avg_pool, "linear": linear,
}  # fmt: skip


def forward(graph: Graph, weights: Arrays, images: Array) -> tuple[Arrays, dict[str, Pull]]:
    """The value of every node, and the pull of every operator."""
    values, pulls = dict(weights), {}
    for node in graph.nodes:
        if node.op == "input":
            values[node.name] = images
        elif node.op != "constant":
            values[node.name], pulls[node.name] = RULES[node.op](node.attrs, *(values[i] for i in node.operands))
    return values, pulls


def backward(graph: Graph, pulls: Mapping[str, Pull], output: str, gradient: Array) -> Arrays:
    """The gradient of every node that `output` depends on."""
    gradients = {output: gradient}
    for node in reversed(graph.operators):
        for name, part in zip(node.operands, pulls[node.name](gradients[node.name]), strict=False):
            gradients[name] = gradients[name] + part if name in gradients else part
    return gradients


def cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """Mean loss of a batch, and its gradient by the logits."""
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rows = np.arange(len(labels))
    gradient = np.exp(log_p)
    gradient[rows, labels] -= 1
    return -float(log_p[rows, labels].mean()), gradient / len(labels)


def split() -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Images [M, 1, 8, 8] with values 0 to 1, and labels: those to train with, and every fifth, held out."""
    data = load_digits()
    images, labels = (data.images[:, None] / 16).astype(np.float32), data.target
    held_out = np.arange(len(labels)) % 5 == 0
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def shifted(images: Array, rng: np.random.Generator) -> Array:
    """Each image moved by up to one pixel in each direction, zeros coming in."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    moves = rng.integers(0, 3, (len(images), 2))
    return np.stack([p[:, i : i + 8, j : j + 8] for p, (i, j) in zip(padded, moves, strict=True)])


def train(
    graph: Graph, weights: Arrays, images: Array, labels: Array, *, epochs: int, batch: int = 64, seed: int = 0
) -> Iterator[float]:
    """Gradient descent with momentum, a rate that falls as a cosine, and weight decay.

    Replaces the arrays in `weights` as it goes; yields the mean loss of each epoch.
    """
    rng = np.random.default_rng(seed)
    bound = graph.bind(N=batch)
    output = graph.outputs[0].node
    running = [(*node.operands[3:], node.operands[0]) for node in graph.operators if node.op == "batch_norm"]
    learnt = weights.keys() - {name for mean, var, _ in running for name in (mean, var)}
    speed = {name: np.zeros_like(weights[name]) for name in sorted(learnt)}
    steps = len(images) // batch
    for epoch in range(epochs):
        order, losses = rng.permutation(len(images)), []
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            values, pulls = forward(bound, weights, shifted(images[chosen], rng))
            loss, gradient = cross_entropy(values[output], labels[chosen])
            gradients = backward(bound, pulls, output, gradient)
            losses.append(loss)
            rate = 0.1 * (1 + math.cos(math.pi * (epoch + step / steps) / epochs)) / 2
            for name in speed:
                speed[name] = 0.9 * speed[name] - rate * (gradients[name] + 5e-4 * weights[name])
                weights[name] = weights[name] + speed[name]
            for mean, var, x in running:
                weights[mean] = 0.9 * weights[mean] + 0.1 * values[x].mean((0, 2, 3))
                weights[var] = 0.9 * weights[var] + 0.1 * values[x].var((0, 2, 3))
        yield float(np.mean(losses))


def accuracy(weights: Arrays, images: Array, labels: Array) -> float:
    """Share of digits recognised, with running statistics, by the compiler's reference interpreter."""
    graph = digits_architecture(weights=weights)
    logits = run_graph(graph, {"image": images})["logits"]
    return float((logits.argmax(1) == labels).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for digits.safetensors and digits_*.npz")
    options = parser.parse_args()
    (images, labels), (test_images, test_labels) = split()
    graph = digits_architecture(seed=options.seed)
    print(f"{graph.parameters():,} parameters, {graph.macs():,} multiply-adds an image, {len(images)} training digits")
    weights = graph.weights()
    for epoch, loss in enumerate(train(graph, weights, images, labels, epochs=options.epochs, seed=options.seed), 1):
        print(f"epoch {epoch:3}: loss {loss:.4f}")
    print(f"held out: {accuracy(weights, test_images, test_labels):.2%} of {len(test_labels)} digits right")
    facts = {"made_by": "examples/train_digits.py", "convc": convc.__version__}
    (options.out / "digits.safetensors").write_bytes(b"".join(write_tensors(weights, facts)))
    pixels, others = (np.round(found[:, 0] * 16).astype(np.uint8) for found in (test_images, images))
    np.savez_compressed(options.out / "digits_test.npz", images=pixels, labels=test_labels.astype(np.uint8))
    np.savez_compressed(options.out / "digits_train.npz", images=others)
    return 0


if __name__ == "__main__":
    sys.exit(main())
