"""Show the kernels that are kept on disk, or remove them. They are made again when they are needed."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--clear", action="store_true", help="remove every kernel")
    parser.add_argument("--json", action="store_true", help="print as JSON")
