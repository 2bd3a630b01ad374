"""List the networks that convc builds itself: compile one with convc compile zoo:NAME."""

from __future__ import annotations

import argparse

from convc.cli.output import count, print_json, progress, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="show these only")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Build each network and print its counts."""
    from convc.zoo import ZOO, build

    names = args.names or list(ZOO)
    listed = []
    with progress("zoo") as report:
        for index, name in enumerate(names):
            if report:
                report(name, index, len(names))
            graph = build(name, seed=None)
            listed.append(
                {
                    "name": name,
                    "inputs": [f"{node.name}: {node.type}" for node in graph.inputs],
                    "operators": len(graph.operators),
                    "parameters": graph.parameters(),
                    "macs": graph.macs(),
                    "sizes": graph.nominal,
                }
            )
    if args.json:
        print_json(listed)
        return 0
    rows = [
        (
            facts["name"], ", ".join(facts["inputs"]), facts["operators"], count(facts["parameters"]),
            count(facts["macs"]), " ".join(f"{symbol}={size}" for symbol, size in facts["sizes"].items()),
        )
        for facts in listed
    ]  # fmt: skip
    table(["network", "input", ">operators", ">parameters", ">MACs", "at"], rows)
    return 0
