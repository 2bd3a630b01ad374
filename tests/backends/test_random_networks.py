"""Random networks that split, join, shuffle and add what convolutions made, held against the interpreter."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from cpu_support import TARGETS, assert_close, check, expected_outputs, run_in_order
from support import random_inputs

import convc
from convc.frontends.builder import Builder, Value
from convc.ir.graph import Graph
from convc.types import Activation, Array

SEEDS = [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 600))]
CHANNELS = [1, 3, 6, 8, 16, 17, 24, 34]


class Maker:
    """Grows a network, mostly on what came last; every value is [N, C, H, W]."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.b = Builder("random", seed=seed)
        plane = self.random.choice([(6, 6), (7, 5), (1, 1), (4, 9)])
        batch = self.random.choice([1, 2, "N"])
        self.x = self.b.input("x", (batch, self.random.choice(CHANNELS), *plane), nominal={"N": 2})
        self.values = [self.x]

    def graph(self) -> Graph:
        wanted = self.random.randint(4, 18)
        makers: list[Callable[[Value], Value | None]] = [
            self.conv, self.conv, self.conv, self.grouped, self.depthwise, self.depthwise, self.fused, self.transposed,
            self.join, self.join, self.part, self.part, self.shuffle, self.pick, self.add, self.add, self.gate,
            self.pool, self.resize, self.activation, self.norm, self.norm, self.scale, self.plain, self.last,
            self.last, self.product,
        ]  # fmt: skip
        while len(self.values) < wanted:
            made = self.random.choice(makers)(self.any_value())
            if made is not None:
                self.values.append(made)
        ends = {f"y{i}": v for i, v in enumerate(self.random.sample(self.values, min(3, len(self.values))))}
        last = self.values[-1]
        head = self.b.linear(self.b.flatten(last), 5) if self.random.random() < 0.5 else self.b.global_avg_pool(last)
        return self.b.finish({**ends, "last": last, "head": head})

    def any_value(self) -> Value:
        return self.values[-1] if self.random.random() < 0.6 else self.random.choice(self.values)

    def channels(self, x: Value) -> int:
        return int(str(x.shape[1]))

    def plane(self, x: Value) -> tuple[int, int]:
        return int(str(x.shape[2])), int(str(x.shape[3]))

    def like(self, x: Value) -> Value:
        """Another value of x's type, or x."""
        return self.random.choice([v for v in self.values if v.type == x.type])

    def same_plane(self, x: Value) -> list[Value]:
        """Values that can be joined with x."""
        return [v for v in self.values if v.shape[2:] == x.shape[2:]]

    def conv(self, x: Value, channels: int | None = None) -> Value:
        kernel, stride = self.random.choice([(1, 1), (1, 1), (3, 1), (3, 1), (3, 2), (1, 2)])
        if channels is not None:
            stride = 1
        y = self.b.conv(x, channels or self.random.choice(CHANNELS), kernel=kernel, stride=stride)
        return self.b.relu(y) if self.random.random() < 0.5 else y

    def grouped(self, x: Value) -> Value | None:
        groups = [g for g in (2, 3, 4, 8, 17) if self.channels(x) % g == 0 and self.channels(x) > g]
        if not groups:
            return None
        group = self.random.choice(groups)
        return self.b.conv(x, group * self.random.choice([1, 2, 3, 8]), kernel=self.random.choice([1, 3]), groups=group)

    def depthwise(self, x: Value) -> Value:
        count = self.channels(x)
        stride = self.random.choice([1, 1, 2])
        return self.b.conv(x, count * self.random.choice([1, 1, 2]), kernel=3, stride=stride, groups=count)

    def fused(self, x: Value) -> Value:
        """A convolution with its residual and activation in one."""
        residual = self.any_value()
        w = self.random.choice([1, 3])
        count = self.channels(residual)
        weights = np.random.default_rng(len(self.values)).normal(size=(count, count, w, w))
        weights = (weights / np.sqrt(count * w * w)).astype(np.float32)
        source = self.like(residual)
        padding = (w // 2,) * 4
        activation = self.random.choice([None, Activation("relu")])
        return self.b.op("conv2d", [source, weights, None, residual], padding=padding, activation=activation)

    def transposed(self, x: Value) -> Value | None:
        if not 2 <= min(self.plane(x)) <= max(self.plane(x)) <= 10:
            return None
        kernel, stride = self.random.choice([(2, 2), (3, 2), (3, 1)])
        return self.b.conv_transpose(x, self.random.choice([3, 17]), kernel=kernel, stride=stride, padding=kernel // 2)

    def join(self, x: Value) -> Value | None:
        others = [v for v in self.same_plane(x) if self.channels(v) + self.channels(x) < 80]
        if not others:
            return None
        parts = [x, self.random.choice(others)]
        self.random.shuffle(parts)
        if self.random.random() < 0.2 and sum(map(self.channels, parts)) < 60:
            parts.append(self.random.choice(parts))
        return self.b.concat(parts)

    def part(self, x: Value) -> Value | None:
        count = self.channels(x)
        if count < 2:
            return None
        start = self.random.choice([0, count // 2, self.random.randrange(count)])
        stop = self.random.choice([count, max(start + 1, count // 2)])
        step = self.random.choice([1, 1, 1, 2])
        return self.b.slice(x, axis=1, start=start, stop=stop, step=step)

    def shuffle(self, x: Value) -> Value | None:
        groups = [g for g in range(2, self.channels(x)) if self.channels(x) % g == 0]
        return self.b.channel_shuffle(x, groups=self.random.choice(groups)) if groups else None

    def pick(self, x: Value) -> Value:
        count = self.channels(x)
        index = [self.random.randrange(count) for _ in range(self.random.randint(1, min(20, 2 * count)))]
        return self.b.gather(x, np.array(index, np.int64), axis=1)

    def add(self, x: Value) -> Value:
        other = self.like(x)
        if other.node is x.node or self.random.random() < 0.5:
            other = self.conv(self.random.choice(self.same_plane(x)), self.channels(x))
        pair = [x, other]
        self.random.shuffle(pair)
        total = self.b.op(self.random.choice(["add", "add", "add", "sub", "max"]), pair)
        return self.b.relu(total) if self.random.random() < 0.5 else total

    def gate(self, x: Value) -> Value:
        squeezed = self.b.conv(self.b.global_avg_pool(x), self.random.choice([1, self.channels(x)]), kernel=1)
        return x * self.b.sigmoid(squeezed)

    def pool(self, x: Value) -> Value | None:
        if min(self.plane(x)) < 3:
            return None
        stride = self.random.choice([1, 2])
        window = {"kernel": (3, 3), "stride": (stride, stride), "padding": self.random.choice([(0,) * 4, (1,) * 4])}
        return self.b.op(self.random.choice(["max_pool2d", "avg_pool2d"]), [x], **window)

    def resize(self, x: Value) -> Value | None:
        high, wide = self.plane(x)
        if max(high, wide) > 8:
            return None
        mode = self.random.choice(["nearest", "linear"])
        size = (*x.shape[:2], 2 * high, 2 * wide)
        return self.b.resize(x, size=size, scales=(1.0, 1.0, 2.0, 2.0), mode=mode)

    def activation(self, x: Value) -> Value:
        return self.b.op(self.random.choice(["relu", "silu", "tanh"]), [x])

    def norm(self, x: Value) -> Value:
        count, kind = self.channels(x), self.random.randrange(4)
        if kind == 0:
            return self.b.batch_norm(x, epsilon=1e-2)
        gamma, beta = self.affine(count)
        if kind == 1:
            return self.b.op("instance_norm", [x, gamma, beta], epsilon=1e-2)
        if kind == 2:
            groups = self.random.choice([g for g in (1, 2, 3, 4, 8, 17) if count % g == 0])
            return self.b.op("group_norm", [x, gamma, beta], groups=groups, epsilon=1e-2)
        whole = (count, *self.plane(x))
        ones = np.ones(whole, np.float32)
        return self.b.op("layer_norm", [x, ones, ones * beta[:, None, None]], axis=1, epsilon=1e-2)

    def affine(self, count: int) -> tuple[Array, Array]:
        random = np.random.default_rng(count)
        return random.uniform(0.5, 1.5, count).astype(np.float32), random.normal(size=count).astype(np.float32)

    def last(self, x: Value) -> Value:
        """What networks do with channels last, and back."""
        y = self.b.transpose(x, perm=(0, 2, 3, 1))
        for _ in range(self.random.randint(1, 3)):
            count, kind = int(str(y.shape[3])), self.random.randrange(6)
            if kind <= 1:
                affine = self.affine(count) if self.random.random() < 0.7 else ()
                y = self.b.op("layer_norm", [y, *affine], axis=self.random.choice([-1, 3]), epsilon=1e-2)
            elif kind == 2:
                y = self.b.linear(y, self.random.choice(CHANNELS))
            elif kind == 3:
                y = self.b.softmax(y, axis=3)
            elif kind == 4:
                y = self.b.op(self.random.choice(["gelu", "silu"]), [y])
            else:
                y = y * self.affine(count)[0]
        return self.b.transpose(y, perm=(0, 3, 1, 2))

    def product(self, x: Value) -> Value:
        """Attention of pixels to each other, as far as it matters here."""
        batch, count, high, wide = x.shape
        rows = self.b.reshape(x, (batch, count, high * wide))
        weights = self.b.softmax(self.b.op("matmul", [self.b.transpose(rows, perm=(0, 2, 1)), rows]), axis=2)
        return self.b.reshape(self.b.op("matmul", [rows, weights]), (batch, count, high, wide))

    def scale(self, x: Value) -> Value:
        count = self.channels(x)
        shape = self.random.choice([(count, 1, 1), (1, count, 1, 1), (), self.plane(x)])
        return x * np.random.default_rng(count).uniform(0.5, 1.5, shape).astype(np.float32)

    def plain(self, x: Value) -> Value:
        """Something that only plain tensors do."""
        kind = self.random.randrange(3)
        if kind == 0:
            return self.b.softmax(x, axis=1)
        if kind == 1:
            return self.b.pad(x, before=(0, 0, 1, 0), after=(0, 0, 0, 2), value=0.5)
        return self.b.reduce_max(x, axes=(1,))


@pytest.mark.parametrize("seed", SEEDS)
def test_random_networks(seed: int) -> None:
    graph = Maker(seed).graph()
    inputs = random_inputs(graph, seed)
    expected = expected_outputs(graph, inputs)
    runs = [("cpu", "none"), ("cpu", "default")]
    if seed % 20 == 0 or seed >= 40:
        runs += [(target, "default") for target in TARGETS[1:]]
    for target, passes in runs:
        model = convc.compile(graph, target=target, passes=passes, threads=1 + seed % 2)
        assert_close(model.run(inputs), expected, graph, 1e-4)
    team = convc.compile(graph, threads=3)
    alone = team.run(inputs)
    for order in ((0, 1, 2), (2, 1, 0)):
        for name, array in run_in_order(team, inputs, order).items():
            np.testing.assert_array_equal(array, alone[name])
    if "N" in graph.nominal:
        check(graph, N=3, tolerance=1e-4)
