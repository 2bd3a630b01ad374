"""Models whose reports are tested, and the page taken apart again."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import numpy as np

import convc
from convc.backends.cpu import isa
from convc.backends.cpu.lower import lower
from convc.backends.program import Program
from convc.compiler import check_target
from convc.ir.graph import Graph
from convc.model import CompiledModel, Options
from convc.passes.manager import Passes, run_passes
from convc.passes.stages import Recorder
from convc.types import Array

HOSTILE = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "a\u202eb\"'&amp;", "{{x}}@@DATA@@")
VOID = {"meta", "input", "br", "link"}


class Lowered:
    """A program that is never run: reports need no compiled kernels."""

    def __init__(self, graph: Graph) -> None:
        self.program: Program = lower(graph, isa.choose(""), None)

    def run(self, inputs: Any, sizes: Any) -> list[Array]:
        raise NotImplementedError


def described(graph: Graph, passes: Passes = ("fuse_batchnorm", "fuse_epilogue", "eliminate_dead")) -> CompiledModel:
    """The graph after its passes with its program, whose kernels are not compiled."""
    recorder = Recorder(graph)
    options = Options()
    after, records = run_passes(graph, passes, instruments=[recorder], cost=check_target(options))
    return CompiledModel(after, records, options, Lowered(after), recorder.stages)


def residual(names: tuple[str, ...] = ("block.1.conv", "block.1.norm", "block.1.relu", "tail")) -> Graph:
    """Convolution, BatchNormalization, ReLU, and an addition of the input; nodes take the names given."""
    ones = np.ones(3, np.float32)
    b = convc.Builder("residual", seed=3)
    x = b.input("x", ("N", 3, "H", "W"), nominal={"N": 1, "H": 12, "W": 12})
    y = b.conv(x, 3, kernel=3, name=names[0])
    y = b.batch_norm(y, gamma=2 * ones, beta=ones, mean=ones, var=ones, name=names[1])
    y = b.op("relu", [y], name=names[2])
    return b.finish({"y": b.op("add", [y, x], name=names[3])})


class Page(HTMLParser):
    """Elements of a page: tags in order, scripts with their attributes and texts. Fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        elif self._open:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + data

    @property
    def data(self) -> Any:
        (text,) = [text for attrs, text in self.scripts if attrs.get("type") == "application/json"]
        return json.loads(text, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
