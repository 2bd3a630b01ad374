"""For each pass, a graph that it rewrites and one that it leaves, with its reason. The site shows what they become."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convc.ir.graph import Graph, constant, graph_input, make_node
from convc.ir.parser import parse
from convc.types import Array, DType


@dataclass(frozen=True)
class Example:
    """`rewritten` shows the pass at work; `left`, where there is one, a graph that it refuses."""

    rewritten: Graph
    left: Graph | None = None
    budget: float | None = None


def text(body: str) -> Graph:
    """A graph from its nodes and its return line."""
    return parse(f'graph "example" {{\n{body}\n}}')


def example(rewritten: str, left: str = "") -> Example:
    return Example(text(rewritten), text(left) if left else None)


def convolution(w: Array, size: int = 16) -> Graph:
    """One convolution with the kernel given, padded to keep its size."""
    w = np.asarray(w, np.float32)
    x, kernel = graph_input("x", DType.F32, (1, w.shape[1], size, size)), constant("w", w)
    rows, columns = (k // 2 for k in w.shape[2:])
    y = make_node("conv2d", "y", [x, kernel], {"padding": (rows, columns, rows, columns)})
    return Graph.build("example", [x, kernel, y], ["y"])


def normal(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def composed(first: Array, second: Array) -> Array:
    """The kernel of the second convolution after the first."""
    (out, _, rows, columns), (_, channels, height, width) = second.shape, first.shape
    w = np.zeros((out, channels, rows + height - 1, columns + width - 1))
    for r in range(rows):
        for s in range(columns):
            w[:, :, r : r + height, s : s + width] += np.einsum("om,mcij->ocij", second[:, :, r, s], first)
    return w


def planted(exact: Array, *, budget: float | None = None) -> Example:
    """A kernel with a structure, and one of the same shape without it."""
    return Example(convolution(exact), convolution(normal(*exact.shape, seed=7)), budget)


X = "%x = input : f32[N, 8, 16, 16]\n"
W = "%w = constant normal(seed=1) : f32[8, 8, 3, 3]\n"
CONV = "%conv = conv2d(%x, %w) {padding=[1, 1, 1, 1]}\n"
STATISTICS = """
%gamma = constant normal(seed=2, mean=1.0, std=0.3) : f32[8]
%beta = constant normal(seed=3) : f32[8]
%mean = constant normal(seed=4) : f32[8]
%var = constant uniform(seed=5, low=0.3, high=2.0) : f32[8]
"""
POINTS = (
    "%x = input : f32[N, 64, 28, 28]\n"
    "%a = constant normal(seed=6) : f32[16, 64, 1, 1]\n%b = constant normal(seed=7) : f32[16, 64, 1, 1]\n"
)


def norm(x: str) -> str:
    return f"{STATISTICS}%norm = batch_norm(%{x}, %gamma, %beta, %mean, %var)\n"


EXAMPLES: dict[str, Example] = {
    "widen_float16": example(
        """
        %x = input : f16[N, 8]
        %w = constant normal(seed=1) : f16[4, 8]
        %y = linear(%x, %w)
        return %y
        """
    ),
    "eliminate_dead": example(X + "%unused = exp(%x)\n%y = relu(%x)\nreturn %y"),
    "fold_constants": example(
        """
        %x = input : f32[N, 4]
        %a = constant [1.0, 2.0, 3.0, 4.0] : f32[4]
        %b = constant full(0.5) : f32[4]
        %sum = add(%a, %b)
        %y = mul(%x, %sum)
        return %y
        """,
        """
        %x = input : f32[20000, 4000]
        %one = constant full(1.0) : f32[1, 4000]
        %ones = expand(%one) {shape=[20000, 4000]}
        %y = sub(%x, %ones)
        return %y
        """,
    ),
    "eliminate_identity": example(
        X + "%zero = constant full(-0.0) : f32[1]\n%same = add(%x, %zero)\n%y = relu(%same)\nreturn %y",
        X + "%zero = constant full(0.0) : f32[1]\n%sum = add(%x, %zero)\nreturn %sum",
    ),
    "eliminate_common": example(X + "%a = relu(%x)\n%b = relu(%x)\n%y = concat(%a, %b) {axis=1}\nreturn %y"),
    "recognise_gate": example(
        X + "%gate = input : f32[N, 8, 1, 1]\n%wide = expand(%gate) {shape=[N, 8, 16, 16]}\n"
        "%y = mul(%x, %wide)\nreturn %y",
        "%x = input : f32[N, 8, 1, 1]\n%gate = input : f32[N, 8, 1, 1]\n"
        "%wide = expand(%gate) {shape=[N, 8, 16, 16]}\n%y = mul(%x, %wide)\nreturn %y",
    ),
    "recognise_activations": example(
        X + "%gate = sigmoid(%x)\n%y = mul(%x, %gate)\nreturn %y",
        X + "%two = constant full(2.0) : f32[1]\n%three = constant full(3.0) : f32[1]\n%sum = add(%x, %three)\n"
        "%gate = clip(%sum) {min=0.0, max=6.0}\n%twice = mul(%x, %two)\n%y = mul(%twice, %gate)\nreturn %y",
    ),
    "recognise_norms": example(
        """
        %x = input : f32[N, 4, 32]
        %two = constant full(2.0) : f32[1]
        %epsilon = constant full(0.00001) : f32[1]
        %mean = reduce_mean(%x) {axes=[2]}
        %centred = sub(%x, %mean)
        %square = pow(%centred, %two)
        %var = reduce_mean(%square) {axes=[2]}
        %sum = add(%var, %epsilon)
        %deviation = sqrt(%sum)
        %y = div(%centred, %deviation)
        return %y
        """,
        """
        %x = input : f32[N, 4, 8, 8]
        %gamma = constant normal(seed=1) : f32[4]
        %beta = constant normal(seed=2) : f32[4]
        %norm = instance_norm(%x, %gamma, %beta)
        %column = constant normal(seed=3) : f32[1, 1, 1, 8]
        %y = mul(%norm, %column)
        return %y
        """,
    ),
    "recognise_pooling": example(
        X + "%y = reduce_mean(%x) {axes=[2, 3]}\nreturn %y",
        X + "%y = avg_pool2d(%x) {kernel=[16, 16], padding=[1, 1, 1, 1], count_include_pad=true}\nreturn %y",
    ),
    "recognise_linear": example(
        """
        %x = input : f32[N, 8]
        %v = constant normal(seed=1) : f32[8, 4]
        %b = constant normal(seed=2) : f32[4]
        %product = matmul(%x, %v)
        %y = add(%product, %b)
        return %y
        """,
        "%x = input : f32[N, 8]\n%v = input : f32[8, 4]\n%y = matmul(%x, %v)\nreturn %y",
    ),
    "recognise_shuffle": example(
        X + "%parted = reshape(%x) {shape=[N, 2, 4, 16, 16]}\n"
        "%turned = transpose(%parted) {perm=[0, 2, 1, 3, 4]}\n"
        "%y = reshape(%turned) {shape=[N, 8, 16, 16]}\nreturn %y",
        X + "%parted = reshape(%x) {shape=[N, 2, 4, 16, 16]}\n"
        "%turned = transpose(%parted) {perm=[0, 2, 1, 4, 3]}\n"
        "%y = reshape(%turned) {shape=[N, 8, 16, 16]}\nreturn %y",
    ),
    "lower_channel_shuffle": example(
        X + "%y = channel_shuffle(%x) {groups=2}\nreturn %y",
        "%x = input : f32[N, 2 * C, 16, 16]\n%y = channel_shuffle(%x) {groups=2}\nreturn %y",
    ),
    "fold_permutation": example(
        X + W + CONV + "%p = constant [2, 3, 0, 1, 6, 7, 4, 5] : i64[8]\n%order = gather(%conv, %p) {axis=1}\n"
        "%y = relu(%order)\nreturn %y",
        X + "%p = constant [2, 3, 0, 1, 6, 7, 4, 5] : i64[8]\n%bent = relu(%x)\n"
        "%order = gather(%bent, %p) {axis=1}\n%y = relu(%order)\nreturn %y",
    ),
    "absorb_permutation": example(
        X + W + "%p = constant [2, 3, 0, 1, 6, 7, 4, 5] : i64[8]\n%order = gather(%x, %p) {axis=1}\n"
        "%y = conv2d(%order, %w)\nreturn %y",
        X + "%w = constant normal(seed=1) : f32[8, 4, 3, 3]\n%p = constant [4, 5, 0, 1, 6, 7, 2, 3] : i64[8]\n"
        "%order = gather(%x, %p) {axis=1}\n%y = conv2d(%order, %w) {groups=2}\nreturn %y",
    ),
    "fold_padding": example(
        X + W + "%padded = pad(%x) {before=[0, 0, 1, 1], after=[0, 0, 1, 1]}\n%y = conv2d(%padded, %w)\nreturn %y",
        X + W + '%padded = pad(%x) {before=[0, 0, 1, 1], after=[0, 0, 1, 1], mode="reflect"}\n'
        "%y = conv2d(%padded, %w)\nreturn %y",
    ),
    "fold_pool_padding": example(
        X + "%bent = relu(%x)\n%padded = pad(%bent) {before=[0, 0, 1, 1], after=[0, 0, 1, 1]}\n"
        "%y = max_pool2d(%padded) {kernel=[3, 3], stride=[2, 2]}\nreturn %y",
        X + "%padded = pad(%x) {before=[0, 0, 1, 1], after=[0, 0, 1, 1]}\n"
        "%y = max_pool2d(%padded) {kernel=[3, 3], stride=[2, 2]}\nreturn %y",
    ),
    "fuse_batchnorm": example(
        X + W + CONV + norm("conv") + "%y = relu(%norm)\nreturn %y",
        X + W + CONV + norm("conv") + "%y = relu(%norm)\n%z = add(%conv, %y)\nreturn %z",
    ),
    "merge_branches": example(
        X + W + "%point = constant normal(seed=8) : f32[8, 8, 1, 1]\n"
        "%a = conv2d(%x, %w) {padding=[1, 1, 1, 1]}\n%b = conv2d(%x, %point)\n%y = add(%a, %b)\nreturn %y",
        X + W + "%point = constant normal(seed=8) : f32[8, 8, 1, 1]\n"
        "%a = conv2d(%x, %w) {padding=[1, 1, 1, 1], activation=relu}\n%b = conv2d(%x, %point)\n"
        "%y = add(%a, %b)\nreturn %y",
    ),
    "merge_consecutive": example(
        X + W + "%point = constant normal(seed=8) : f32[8, 8, 1, 1]\n"
        "%narrow = conv2d(%x, %point)\n%y = conv2d(%narrow, %w) {padding=[1, 1, 1, 1]}\nreturn %y",
        X + W + "%point = constant normal(seed=8) : f32[8, 8, 1, 1]\n%bias = constant normal(seed=9) : f32[8]\n"
        "%narrow = conv2d(%x, %point, %bias)\n%y = conv2d(%narrow, %w) {padding=[1, 1, 1, 1]}\nreturn %y",
    ),
    "separate_depthwise": planted(normal(32, 32, 1, 1) * normal(1, 32, 3, 3, seed=2)),
    "stack_conv5x5": planted(composed(normal(8, 16, 3, 3), normal(16, 8, 3, 3, seed=2))),
    "bottleneck": planted(
        composed(composed(normal(8, 32, 1, 1), normal(8, 8, 3, 3, seed=2)), normal(32, 8, 1, 1, seed=3))
    ),
    "separate_kernels": planted(composed(normal(32, 32, 1, 5), normal(32, 32, 5, 1, seed=2))),
    "spend_budget": planted(
        normal(32, 32, 1, 1) * normal(1, 32, 3, 3, seed=2) + 0.01 * normal(32, 32, 3, 3, seed=3),
        budget=0.02,
    ),
    "commute_pooling": example(
        X + "%w = constant normal(seed=1) : f32[16, 8, 1, 1]\n%conv = conv2d(%x, %w)\n"
        "%y = avg_pool2d(%conv) {kernel=[2, 2], stride=[2, 2]}\nreturn %y",
        X + "%w = constant normal(seed=1) : f32[16, 8, 1, 1]\n%conv = conv2d(%x, %w) {activation=relu}\n"
        "%y = avg_pool2d(%conv) {kernel=[2, 2], stride=[2, 2]}\nreturn %y",
    ),
    "fuse_prologue": example(
        X + W + norm("x") + "%bent = relu(%norm)\n%y = conv2d(%bent, %w) {padding=[1, 1, 1, 1]}\nreturn %y",
        X + W + norm("x") + "%bent = relu(%norm)\n%y = conv2d(%bent, %w) {padding=[1, 1, 1, 1]}\nreturn %y, %bent",
    ),
    "lower_batchnorm": example(
        X + norm("x") + "%y = relu(%norm)\nreturn %y",
        X.replace(", 16, 16", "") + norm("x") + "return %norm",
    ),
    "fuse_epilogue": example(
        X + W + CONV + "%sum = add(%conv, %x)\n%y = relu(%sum)\nreturn %y",
        X + W + CONV + "%y = relu(%conv)\nreturn %y, %conv",
    ),
    "merge_siblings": example(
        POINTS + "%p = conv2d(%x, %a) {activation=relu}\n%q = conv2d(%x, %b) {activation=relu}\nreturn %p, %q",
        POINTS + "%p = conv2d(%x, %a)\n%q = conv2d(%x, %b)\n%y = relu(%p)\nreturn %y, %q",
    ),
}
