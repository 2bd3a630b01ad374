"""Measured choices on a GPU: the candidates of each class of shapes, timed within the network's own program.

In round i every class takes its i-th candidate, so that a few programs measure them all. Of each class the launches of
one layer are timed as a CUDA graph of their own, again and again, each time after memory has been filled with something
else: in a network, a layer's weights are not in the second-level cache. Winners are kept on disk for the GPU and the
version of the emitters. Not run on a GPU yet.
"""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from convc.backends.choice_file import choice_file, read_choice_file, write_choice_file
from convc.backends.cuda import choice
from convc.backends.cuda.build import build_cubins
from convc.backends.cuda.driver import Device
from convc.backends.cuda.executable import Executable, Replay
from convc.backends.cuda.layout import Layer
from convc.backends.cuda.lower import lower_with
from convc.backends.cuda.winners import Shape, Winner, read_winners
from convc.backends.program import Program
from convc.backends.store import Store
from convc.backends.workers import Progress
from convc.errors import LimitError, TargetError
from convc.ir.graph import Graph
from convc.limits import Limits

WORTH = 2.0
"""Times the clocks of the first, by the model: what is predicted to take longer is not measured."""
MOST = 8
"""Candidates of one class."""
RUNS = 15
FLUSH_BYTES = 128 << 20
"""Filled between two runs: more than twice the second-level cache of an H200."""
SECONDS_A_RUN = 2e-4
"""Of one run and what is filled ahead of it, to say beforehand how long measuring will take."""


def tuned(
    graph: Graph, precision: str, arch: str, device: Device, store: Store, limits: Limits,
    progress: Progress | None = None,
) -> dict[str, Winner]:  # fmt: skip
    """The fastest choice for each class of shapes in the graph, from disk or measured now."""
    slug = re.sub(r"[^A-Za-z0-9]+", "_", device.name)
    file = choice_file(store, "cuda", arch, slug, _emitters_digest()[:16])
    kept = read_winners(read_choice_file(file))
    _, layers = lower_with(graph, precision, arch, winners=kept)
    found = {key: candidates(layer.shape, arch) for key, layer in layers.items() if key not in kept}
    missing = {key: several for key, several in found.items() if len(several) > 1}
    if missing:
        kept.update(_measure(graph, precision, arch, device, store, limits, kept, missing, progress))
        write_choice_file(file, {key: winner.to_json() for key, winner in kept.items()})
    return {key: kept[key] for key in layers if key in kept}


def candidates(shape: Shape, arch: str) -> list[Winner]:
    """What is worth timing, the likely fastest first."""
    args = shape.math, shape.pixels, shape.outputs, shape.depth, shape.groups, arch
    ranked = choice.choices(*args, split=shape.kind != "scatter")
    near = [one for one in ranked if one.clocks <= WORTH * ranked[0].clocks][:MOST]
    winners = [Winner(one.tile, one.splits) for one in near]
    return winners + ([Winner(near[0].tile, near[0].splits, True)] if shape.kind == "square" else [])


def _measure(
    graph: Graph, precision: str, arch: str, device: Device, store: Store, limits: Limits,
    kept: Mapping[str, Winner], missing: Mapping[str, Sequence[Winner]], progress: Progress | None,
) -> dict[str, Winner]:  # fmt: skip
    rounds = max(len(several) for several in missing.values())
    programs: list[tuple[Program, Mapping[str, Layer]]] = []
    for turn in range(rounds):
        here = {key: several[min(turn, len(several) - 1)] for key, several in missing.items()}
        programs.append(lower_with(graph, precision, arch, winners={**kept, **here}))
    sources = {name: source for program, _ in programs for name, source in program.kernels.items()}
    kernels, _ = build_cubins(sources, arch, store, progress)
    count = sum(len(several) for several in missing.values())
    times: dict[str, dict[Winner, float]] = {key: {} for key in missing}
    timer = _Timer(device)
    try:
        for turn, (program, layers) in enumerate(programs):
            if progress is not None:
                seconds = count * RUNS * SECONDS_A_RUN
                progress(f"measuring {len(missing)} kinds of layers; {seconds:.0f} s for all", turn, rounds)
            executable = Executable(program, kernels, {}, limits, lambda: device)
            waiting = {key: layers[key] for key, several in missing.items() if turn < len(several)}
            for key, seconds in _times(executable, waiting, timer).items():
                times[key][missing[key][turn]] = seconds
    finally:
        timer.close()
    if progress is not None:
        progress("", rounds, rounds)
    return {key: min(found, key=lambda winner: found[winner]) for key, found in times.items() if found}


def _times(executable: Executable, layers: Mapping[str, Layer], timer: _Timer) -> dict[str, float]:
    """Seconds of one layer of each class, at the sizes at which it is of that class."""
    steps = {id(step.params.get("call")): index for index, step in enumerate(executable.program.steps)}
    found: dict[str, float] = {}
    for sizes in {tuple(sorted(layer.sizes.items())): layer.sizes for layer in layers.values()}.values():
        try:
            replay = executable.replay(sizes)
            replay.launch()
            timer.wait_for(replay)
        except (TargetError, LimitError):
            if sizes == executable.program.nominal:
                raise
            continue  # the larger batch does not fit into this GPU's memory: its classes are left to the model
        for key, layer in layers.items():
            if layer.sizes == sizes:
                found[key] = timer.seconds(replay.part(steps[id(layer.call)]))
    return found


class _Timer:
    """Times graphs by events on a stream of its own."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stream = device.stream()
        self._flushed = device.allocate(FLUSH_BYTES)
        self._events = device.event(), device.event()

    def wait_for(self, replay: Replay) -> None:
        """What runs on another stream would be timed, too."""
        self._device.synchronise(replay.context.stream)

    def seconds(self, graph: Any) -> float:
        """The median of several launches."""
        first, last = self._events
        found = []
        for _ in range(RUNS):
            self._device.fill(self._flushed, 1, FLUSH_BYTES, self._stream)
            self._device.record(first, self._stream)
            graph.launch(self._stream)
            self._device.record(last, self._stream)
            found.append(self._device.elapsed(first, last))
        return statistics.median(found)

    def close(self) -> None:
        self._device.release(self._flushed)
        for event in self._events:
            self._device.end_event(event)
        self._device.end_stream(self._stream)


@cache
def _emitters_digest() -> str:
    """Digest of the sources of this package: what was measured is good for the very kernels that were measured."""
    state = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        state.update(file.name.encode() + file.read_bytes())
    return state.hexdigest()
