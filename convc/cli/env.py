"""Show the facts of this machine that decide what convc does: versions, processor, threads, kernel store."""

from __future__ import annotations

import argparse
from typing import Any

from convc.cli.output import print_json, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the facts."""
    from convc.measure.environment import environment

    facts = environment()
    if args.json:
        print_json(facts)
        return 0
    versions = [(name, version or "not installed") for name, version in facts["packages"].items()]
    rows = [(name, _text(value)) for name, value in facts.items() if name != "packages"]
    table(["", ""], [*rows, *versions])
    return 0


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
