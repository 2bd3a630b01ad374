"""`convc inspect MODEL --html FILE`: everything on one page."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from convc.cli import models
from convc.cli.output import note, say, size
from convc.errors import TargetError

if TYPE_CHECKING:
    from convc.measure.profile import Profile
    from convc.model import CompiledModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that belong to the page."""
    parser.add_argument(
        "--html", metavar="FILE", help="write one page with all views, to read in a browser"
    )
    parser.add_argument("--no-profile", action="store_true", help="--html: measure no times")


def with_view(words: list[str], views: Collection[str]) -> list[str]:
    """The words of `inspect MODEL ...` with the view that was left out: `model`."""
    verb = words.index("inspect") + 1
    return words if set(words[verb:]) & set(views) else [*words[:verb], "model", *words[verb:]]


def write_html(args: argparse.Namespace) -> None:
    """Compile or load MODEL, measure its steps, and write the page."""
    model = models.load_or_compile(args)
    model.report(args.html, profile=None if args.no_profile else _profile(model))
    say(f"{args.html}: {size(Path(args.html).stat().st_size)}")


def _profile(model: CompiledModel) -> Profile | None:
    from convc.measure.profile import profile

    try:
        return profile(model, seconds=0.5, rounds=5)
    except TargetError as error:
        note(f"no times: {error.message}")
        return None
