"""Read in Python what the report page shows: what each pass did, why one did not do more, and what each step costs.

python examples/read_report.py --output report.html      # also writes the page
"""

from __future__ import annotations

import argparse

import convc
from convc.measure.profile import profile


def build(channels: int, size: int) -> convc.Graph:
    """A residual block in front of which one BatchNormalization cannot be folded: its convolution is read twice."""
    b = convc.Builder("block", seed=0)
    x = b.input("image", ("N", 3, "H", "W"), nominal={"N": 1, "H": size, "W": size})
    stem = b.conv(x, channels, kernel=3, bias=False, name="stem")
    y = b.relu(b.batch_norm(stem, name="norm1"), name="relu1")
    y = b.batch_norm(b.conv(y, channels, kernel=3, bias=False, name="conv"), name="norm2")
    return b.finish({"y": b.relu(b.add(stem, y, name="sum"), name="relu2")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="FILE", help="write the page there, too")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    model = convc.compile(build(args.channels, args.size), threads=1)

    print("What each pass did:")
    for record in model.records:
        if record.changed:
            operators = f"{sum(record.ops_before.values())} -> {sum(record.ops_after.values())} operators"
            print(f"  {record.index:2d} {record.name} ({record.numerics}): {operators}")
            for rewrite in record.rewrites:
                print(f"       {rewrite}")

    print("Why fuse_batchnorm left norm1:")
    for record in model.records:
        for refusal in record.refusals:
            if record.name == "fuse_batchnorm" and refusal.node == "norm1":
                print(f"     {refusal}")

    print("The whole story of norm1:")
    print(model.explain("norm1"))

    measured = profile(model, seconds=0.1)
    print(f"Each step, {measured.total * 1e6:.0f} us in all:")
    for step in measured.steps:
        print(f"  {step.seconds * 1e6:8.1f} us  {step.share:4.0%}  {step.limit_share:4.0%} of the limit  {step.kernel}")
    if args.output:
        model.report(args.output, profile=measured)
        print(f"{args.output} shows all of it")


if __name__ == "__main__":
    main()
