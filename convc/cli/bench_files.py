"""What `convc bench` writes, and what it is held against."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.errors import InputError

if TYPE_CHECKING:
    from convc.measure.bench import Comparison


def tolerance(text: str) -> float:
    """`5%` as 0.05. Raises InputError."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not text.endswith("%") or not 0 <= value < 100:
        raise InputError(f"--assert-within {text} is no share", hint="write --assert-within 5% baseline.json")
    return value


def export_times(path: str, comparisons: Sequence[Comparison]) -> None:
    """Write every measured time, as .csv or .json."""
    from convc.files import atomic_write

    if path.endswith(".json"):
        listed = [
            {"threads": c.threads, "shapes": {k: list(v) for k, v in c.shapes.items()}, "seconds": dict(c.samples)}
            for c in comparisons
        ]
        text = json.dumps(listed, indent=1)
    else:
        lines = ["configuration,network,run,seconds"]
        for c in comparisons:
            for name, samples in c.samples.items():
                label = c.label.replace('"', '""')
                lines += [f'"{label}",{name},{index},{value:.9f}' for index, value in enumerate(samples)]
        text = "\n".join(lines)
    with atomic_write(path) as file:
        file.write(f"{text}\n".encode())


def faster(args: argparse.Namespace, comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """What --assert-faster-than asks for, with whether it holds. Raises InputError for who did not run."""
    found = []
    for name in args.assert_faster_than:
        for c in comparisons:
            ratio = c.ratios.get(name)
            if ratio is None:
                raise InputError(
                    f"--assert-faster-than {name}: {c.absent.get(name, 'it did not run')}", hint="install it"
                )
            what = f"fused is {ratio:.2f} times as fast as {name}, {c.label}"
            found.append({"what": what, "holds": ratio > 1, "ratio": ratio})
    return found


def read_baseline(args: argparse.Namespace) -> tuple[float, str, Any] | None:
    """The share, the file and the medians of --assert-within. Raises InputError where it cannot be read."""
    from convc.files import read_json

    if not args.assert_within:
        return None
    share, path = tolerance(args.assert_within[0]), args.assert_within[1]
    try:
        found = read_json(Path(path).read_bytes())
        medians = {_key(c): float(c["results"]["fused"]["figures"]["median"]) for c in found["comparisons"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"cannot read --assert-within {path}: {error}", hint="write it with convc bench --json"
        ) from error
    return share, path, medians


def _key(comparison: Mapping[str, Any]) -> str:
    return json.dumps([comparison["threads"], comparison["shapes"]], sort_keys=True)


def within(baseline: tuple[float, str, Any] | None, comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """What --assert-within asks for, with whether it holds. Raises InputError for what the file does not hold."""
    if baseline is None:
        return []
    share, path, medians = baseline
    found = []
    for c in comparisons:
        before = medians.get(_key(c.to_json()))
        if before is None:
            raise InputError(f"{path} holds no figure for {c.label}", hint="write it with the same options")
        ratio = c.results[0].figures.median / before
        what = f"fused takes {ratio:.3f} times as long as in {path}, {c.label}"
        found.append({"what": what, "holds": ratio <= 1 + share, "ratio": ratio})
    return found
