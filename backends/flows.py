"""What steps write and read, for rewrites of a Program that is being assembled."""

from __future__ import annotations

from collections.abc import Sequence

from convc.backends.assemble import Assembler
from convc.backends.program import Step, Turned, buffers_of


def touching(steps: Sequence[Step]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """The steps that write and that read each buffer."""
    writers: dict[int, list[int]] = {}
    readers: dict[int, list[int]] = {}
    for index, step in enumerate(steps):
        for found, layouts in ((writers, step.writes), (readers, step.reads)):
            for buffer in dict.fromkeys(b for layout in layouts for b in buffers_of(layout)):
                found.setdefault(buffer, []).append(index)
    return writers, readers


def delivered(asm: Assembler) -> set[int]:
    """Buffers that outputs lie in, under whatever name: a concatenation or a slice shares those of its parts."""
    layouts = (layout for output in asm.graph.outputs for layout in asm.layouts(output.node))
    inner = (layout.planes if isinstance(layout, Turned) else layout for layout in layouts)
    return {buffer for layout in inner for buffer in buffers_of(layout)}
