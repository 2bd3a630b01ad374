"""Write a pass, run it among convc's own, watch it, and read what it did and refused.

python examples/custom_pass.py

The pass: clip(relu(x), low, high) = clip(x, max(low, 0), high) where high >= 0. Numerics: exact.
Rejects: a relu that something else reads, too.
"""

from __future__ import annotations

import numpy as np

import convc
from convc.ir.graph import Graph, Node, make_node
from convc.ir.patch import Draft, Patch
from convc.passes import Numerics, Pass, PassRecord, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.manager import Hooks
from convc.passes.pattern import not_exclusive, required, sources


def match_clipped_relu(draft: Draft, node: Node) -> Node | Reject | None:
    """The clip that does both; None where there is no relu, a Reject where there is one that must stay."""
    relu = required(draft, node, "x")
    if relu.op != "relu":
        return None
    if node.attrs["max"] < 0:
        return Reject(node.name, f"its upper bound, {node.attrs['max']}, is below zero")
    reason = not_exclusive(draft, relu, node)
    if reason:
        return Reject(node.name, reason)
    bounds = {**node.attrs, "min": max(node.attrs["min"], 0.0)}
    return make_node("clip", node.name, [required(draft, relu, "x")], bounds, source=sources(relu, node))


FOLD_RELU_INTO_CLIP = RewritePass(
    "fold_relu_into_clip",
    Numerics.EXACT,
    "lets a clip do the work of the relu before it",
    (Rule("clipped_relu", frozenset({"clip"}), match_clipped_relu, lambda draft, clip: Patch(nodes=(clip,))),),
)


class Watch(Hooks):
    """Prints how many operators each pass that changed something left."""

    def after(self, index: int, one: Pass, before: Graph, after: Graph, record: PassRecord) -> None:
        if record.changed:
            print(f"{index:2d} {one.name}: {len(before.operators)} -> {len(after.operators)} operators")


def build() -> convc.Graph:
    b = convc.Builder("clips", seed=0)
    x = b.input("image", ("N", 3, 32, 32))
    y = b.clip(b.relu(b.batch_norm(b.conv(x, 16, kernel=3, bias=False))), min=-1.0, max=6.0, name="first")
    z = b.relu(b.conv(y, 16, kernel=3))
    return b.finish({"kept": z, "clipped": b.clip(z, min=0.0, max=6.0, name="second")})


def main() -> None:
    passes = [FOLD_RELU_INTO_CLIP, "fuse_batchnorm", "fuse_epilogue", "eliminate_dead"]
    model = convc.compile(build(), passes=passes, instruments=[Watch()], threads=1)
    record = model.records[0]
    print(record)
    for rewrite in record.rewrites:
        print(f"  {rewrite}")
    for refusal in record.refusals:
        print(f"  not {refusal}")
    print(model.explain("first"))
    images = 4 * np.random.default_rng(0).standard_normal((2, 3, 32, 32), dtype=np.float32)
    kept, clipped = model(images)
    print(f"kept up to {kept.max():.3f}, clipped to {clipped.max():.3f}")


if __name__ == "__main__":
    main()
