"""Show the kernels that are kept on disk, or remove them. They are made again when they are needed."""

from __future__ import annotations

import argparse

from convc.cli.output import print_json, say, size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--clear", action="store_true", help="remove every kernel")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the folder and what is in it, after clearing it where asked to."""
    from convc.backends.store import store

    kept = store()
    removed = kept.clear() if args.clear else 0
    entries = kept.entries()
    facts = {"folder": str(kept.folder), "kernels": len(entries), "bytes": sum(taken for _, taken in entries)}
    if args.json:
        print_json({**facts, "removed": removed})
        return 0
    if args.clear:
        say(f"removed {removed} files")
    say(f"{facts['folder']}: {facts['kernels']} kernels, {size(sum(taken for _, taken in entries))}")
    return 0
