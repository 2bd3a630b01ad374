"""Build a small network by hand, print it, count it, and run it with the reference interpreter.

python examples/build_a_network.py
"""

from __future__ import annotations

import numpy as np

import convc
from convc.interp import run_graph


def build() -> convc.Graph:
    b = convc.Builder("tiny", seed=0)
    x = b.input("image", ("N", 3, "H", "W"), nominal={"H": 32, "W": 32})
    with b.scope("stem"):
        x = b.relu(b.batch_norm(b.conv(x, 16, kernel=5, stride=2, bias=False)))
    for index in range(2):
        with b.scope(f"block{index}"):
            y = b.relu(b.batch_norm(b.conv(x, 16, kernel=3, groups=4, bias=False)))
            y = b.channel_shuffle(y, groups=4)
            y = b.batch_norm(b.conv(y, 16, kernel=1, bias=False))
            x = b.relu(x + y)
    edges = b.conv2d(x, np.tile(np.float32([[[[-1, 0, 1]]]]), (16, 1, 1, 1)), groups=16, padding="same", name="edges")
    x = b.concat([x, b.hard_swish(edges * 0.5)])
    logits = b.linear(b.flatten(b.global_avg_pool(x)), 10, name="fc")
    return b.finish({"logits": logits})


def main() -> None:
    graph = build()
    print(graph)
    print(f"{graph.parameters():,} parameters")
    print(f"{graph.macs():,} multiply-adds for one 32x32 image, {graph.macs(N=8, H=64, W=48):,} for eight of 64x48")
    images = np.random.default_rng(0).standard_normal((8, 3, 64, 48), dtype=np.float32)
    logits = run_graph(graph, {"image": images})["logits"]
    print(f"logits: {logits.dtype}{list(logits.shape)}, the first row {np.round(logits[0], 3)}")


if __name__ == "__main__":
    main()
