"""Medians of all configurations as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from convc.errors import InputError
from convc.files import atomic_write

if TYPE_CHECKING:
    from convc.measure.bench import Comparison


def write_plot(path: str, title: str, comparisons: Sequence[Comparison]) -> None:
    """Bars of median milliseconds, grouped by configuration, with whiskers from the 10th to the 90th percentile.

    The file's suffix says which format. Raises InputError without matplotlib, or for a suffix that it does not know.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("--plot needs matplotlib", hint="pip install 'convc[bench]'") from error
    import numpy as np

    names = list(dict.fromkeys(one.name for c in comparisons for one in c.results))
    figure = Figure(figsize=(max(6.0, 1.2 + 0.7 * len(names) * len(comparisons)), 4.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        bars = [(index, c.of(name), c.samples[name]) for index, c in enumerate(comparisons) if c.of(name) is not None]
        heights = np.array([result.figures.median * 1e3 for _, result, _ in bars if result is not None])
        low, high = np.array([np.percentile(taken, [10, 90]) * 1e3 for _, _, taken in bars]).T
        at = [index + (place - (len(names) - 1) / 2) * width for index, _, _ in bars]
        whiskers = np.maximum([heights - low, high - heights], 0)
        axes.bar(at, heights, width, yerr=whiskers, label=name, error_kw={"linewidth": 1})
    axes.set_xticks(range(len(comparisons)), [c.label.replace(", ", "\n") for c in comparisons], fontsize="small")
    axes.set_ylabel("milliseconds, median")
    axes.set_title(title, parse_math=False)
    figure.legend(loc="outside lower center", ncols=min(len(names), 6))
    picture = io.BytesIO()
    kind = path.rpartition(".")[2].lower()
    if kind not in canvas.get_supported_filetypes():
        kinds = ", ".join(sorted(canvas.get_supported_filetypes()))
        raise InputError(f"--plot {path}: no picture is of kind .{kind}", hint=f"use one of {kinds}")
    figure.savefig(picture, format=kind, dpi=150)
    with atomic_write(path) as file:
        file.write(picture.getvalue())


__all__ = ["write_plot"]
