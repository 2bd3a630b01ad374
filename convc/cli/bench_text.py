"""What `convc bench` found, as tables of at most 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convc.cli.output import WIDTH, count, say, size, table

if TYPE_CHECKING:
    from convc.cli.bench import Findings
    from convc.measure.bench import Ablated, Comparison
    from convc.measure.profile import Profile
    from convc.measure.startup import Start

SLOWEST = 15
"""Steps that the profile lists one by one; --json has them all."""


def tell(found: Findings) -> None:
    """Print everything."""
    say(f"{found.model} for {found.target}")
    for comparison in found.comparisons:
        tell_comparison(comparison)
    if found.starts:
        tell_starts(found.starts)
    if found.ablation:
        tell_ablation(*found.ablation)
    if found.profile:
        tell_profile(found.profile)
    say(f"\n{stamp(found.environment)}")


def unit_of(seconds: float) -> tuple[str, float]:
    """The unit that suits a time, and how many of it are in a second."""
    return ("us", 1e6) if seconds < 1e-3 else ("ms", 1e3) if seconds < 10 else ("s", 1.0)


def tell_comparison(found: Comparison) -> None:
    """Figures of each contestant, one a line, and how much fusion gained."""
    first = found.results[0].figures
    unit, scale = unit_of(first.median)
    shares = [key for key in first.percentiles if key != "50"]
    columns = [
        "",
        f">median {unit}",
        ">min",
        ">mean",
        *(f">P{key}" for key in shares),
        ">runs",
        ">images/s",
        ">time",
        ">error",
    ]
    rows = []
    for one in found.results:
        f = one.figures
        times = [f"{value * scale:.4g}" for value in (f.median, f.min, f.mean, *(f.percentiles[k] for k in shares))]
        error = "" if one.error is None else f"{one.error:.1e}"
        rate = count(f.throughput) if f.throughput >= 1e3 else f"{f.throughput:.4g}"
        rows.append((one.name, *times, f.runs, rate, f"{f.median / first.median:.2f}", error))
    say(f"\n{found.label}, in turns:")
    table(columns, rows)
    unfused = found.ratios.get("unfused")
    if unfused is not None:
        say(f"fused is {unfused:.2f} times as fast as unfused")
    memory = found.results[0].memory
    if memory is not None:
        say(
            f"fused holds {size(memory.arena)} of activations, {size(memory.constants)} of constants, "
            f"{size(memory.code)} of code"
        )


def tell_starts(starts: Sequence[Start]) -> None:
    """What a new process needs until its first answer."""
    words = {
        "cold": "cold: no kernels kept", "warm": "warm: kernels kept", "load": "load a .convc file",
        "load_cold": "load, no kernels kept",
    }  # fmt: skip
    say("\nstart, each in a new process:")
    table(
        ["", ">import s", ">read s", ">compile or load s", ">first run ms", ">kernels made", ">peak memory"],
        [
            (
                words[one.kind], f"{one.import_seconds:.2f}",
                "" if one.read_seconds is None else f"{one.read_seconds:.2f}",
                f"{one.ready_seconds:.2f}", f"{one.first_seconds * 1e3:.1f}", one.kernels_made,
                "" if one.peak_bytes is None else size(one.peak_bytes),
            )
            for one in starts
        ],
    )  # fmt: skip


def tell_ablation(whole: float, passes: Sequence[Ablated]) -> None:
    """What each pass is worth."""
    unit, scale = unit_of(whole)
    say(f"\nwith one pass left out; all passes take {whole * scale:.4g} {unit}:")
    table(
        ["without", ">rewrites", ">operators", f">median {unit}", ">time", ""],
        [
            (
                one.name, one.rewrites, "" if one.operators is None else one.operators,
                "" if one.median is None else f"{one.median * scale:.4g}",
                "" if one.ratio is None else f"{one.ratio:.2f}", one.reason,
            )
            for one in passes
            if one.rewrites
        ],
    )  # fmt: skip
    idle = [one.name for one in passes if not one.rewrites]
    if idle:
        say(textwrap.fill(f"rewrite nothing here: {', '.join(idle)}", WIDTH))


def tell_profile(found: Profile) -> None:
    """Kernels by time, then the slowest steps with where they come from."""
    unit, scale = unit_of(found.seconds)
    part = found.total / found.seconds if found.seconds else 0.0
    say(
        f"\nprofile on one thread: {len(found.steps)} steps take {found.total * scale:.4g} {unit}, {part:.0%} of "
        f"{found.seconds * scale:.4g} {unit} whole; limit {2e-9 * found.limit:.0f} GFLOP/s, "
        f"{2e-9 * found.limit_alone:.0f} alone"
    )
    table(
        ["!kernel", ">calls", ">us", ">share", ">MACs", ">GFLOP/s", ">limit", ">moved"],
        [
            (
                one.kernel, one.calls, f"{one.seconds * 1e6:.1f}", f"{one.share:.1%}",
                count(one.macs) if one.macs else "", f"{one.gflops:.1f}" if one.macs else "",
                f"{one.limit_share:.0%}" if one.macs else "", size(one.bytes) if one.bytes else "",
            )
            for one in found.kernels
        ],
    )  # fmt: skip
    slowest = sorted(found.steps, key=lambda step: -step.seconds)[:SLOWEST]
    say(f"\nslowest {len(slowest)} steps:")
    table(
        [">", "node", ">us", ">share", ">GFLOP/s", ">limit", "with"],
        [
            (
                one.index, one.node, f"{one.seconds * 1e6:.1f}", f"{one.share:.1%}",
                f"{one.gflops:.1f}" if one.macs else "", f"{one.limit_share:.0%}" if one.macs else "",
                ", ".join(f"{change.node} by {change.name}" for change in one.history),
            )
            for one in slowest
        ],
    )  # fmt: skip


def stamp(environment: Mapping[str, Any]) -> str:
    """The machine, its load and the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    load = environment["load"]
    busy = "" if load is None else f", load {load}"
    threads = environment["threads"]
    machine = f"{environment['processor']}, {threads} thread{'s' * (threads > 1)} may be used{busy}"
    return textwrap.fill(f"{machine}; convc {environment['convc']}, {environment['python']}, {versions}", WIDTH)
