"""List the passes: what each may do to the numbers, and the pipelines made of them."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from typing import Any

from convc.cli.output import print_json, say, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table of passes."""
    from convc.passes import PASSES, PIPELINES
    from convc.passes.manager import resolve

    pipelines = {name: [one.name for one in resolve(name)] for name in PIPELINES}
    listed = [
        {
            "name": name,
            "numerics": one.numerics.value,
            "doc": one.doc.strip().partition("\n")[0],
            "options": dict(one.options),
        }
        for name, one in PASSES.items()
    ]
    if args.json:
        print_json({"passes": listed, "pipelines": pipelines})
        return 0
    table(["pass", "numerics", "what it does"], [(f["name"], f["numerics"], _with_options(f)) for f in listed])
    say()
    for name, steps in pipelines.items():
        say(textwrap.fill(f"{name}: {', '.join(steps) or 'no pass'}", 100, subsequent_indent="  "))
    return 0


def _with_options(figures: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name}={value}" for name, value in figures["options"].items())
    return f"{figures['doc']} ({options})" if options else str(figures["doc"])
