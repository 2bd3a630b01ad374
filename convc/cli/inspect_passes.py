"""`convc inspect passes`: the record of each pass, one pass in full, the graph before and after it."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convc.cli import models
from convc.cli.output import WIDTH, count, print_json, say, say_styled, table
from convc.errors import InputError

if TYPE_CHECKING:
    from convc.ir.graph import Graph
    from convc.passes.base import Pass, PassRecord
    from convc.passes.stages import Outline, Stages

PASS_COLUMNS = [">", "pass", "numerics", ">ms", ">rewrites", ">refused", ">operators", ">MACs"]
STYLES = {"+": "green", "-": "red", "@": "cyan"}


def show_passes(args: argparse.Namespace) -> None:
    """The record of each pass: of the compiled model, or of the passes run now over a source."""
    from convc.report.figures import pass_figures

    if args.explain:
        story = models.load_or_compile(args).explain(args.explain)
        if args.json:
            print_json(story.to_json())
        else:
            for line in str(story).splitlines():
                depth = " " * (len(line) - len(line.lstrip()) + 4)
                say(textwrap.fill(line, WIDTH, subsequent_indent=depth, break_long_words=False, break_on_hyphens=False))
        return
    if args.diff and not args.one_pass:
        raise InputError("--diff does not say of which pass", hint="add --pass NAME or --pass NUMBER")
    seen = look(args)
    chosen = [i for i, record in enumerate(seen.records) if _is_chosen(record, args.one_pass)]
    if not chosen:
        names = ", ".join(dict.fromkeys(record.name for record in seen.records))
        raise InputError(f"no pass {args.one_pass} has run", hint=f"these have: {names}")
    records = [seen.records[i] for i in chosen]
    if args.json:
        listed = pass_figures(records)
        if args.diff:
            listed = [{**one, "diff": seen.diff(i)} for one, i in zip(listed, chosen, strict=True)]
        print_json(listed)
        return
    table(PASS_COLUMNS, [pass_row(record) for record in records])
    for index, record in zip(chosen, records, strict=True):
        _tell(record, args, seen.diff(index) if args.diff else [])


@dataclass
class Seen:
    """Records, and the text of the graph before and after each: `texts[i]` is before record i."""

    records: Sequence[PassRecord]
    texts: list[list[str]] = field(default_factory=list)

    def diff(self, index: int) -> list[str]:
        """The difference that record `index` made; nothing where it made none."""
        if not self.texts:
            raise InputError("this file does not hold the graphs between passes", hint="give the model's source")
        return difference(*self.texts[index : index + 2])


def difference(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """A difference of graphs: lines of the same name side by side, with a line around each change."""
    old_keys, new_keys = ([line.partition(" = ")[0] for line in text] for text in (before, after))
    entries: list[tuple[str, int]] = []
    for tag, i, i_end, j, j_end in difflib.SequenceMatcher(None, old_keys, new_keys, autojunk=False).get_opcodes():
        if tag == "equal":
            for place, (old, new) in enumerate(zip(before[i:i_end], after[j:j_end], strict=True), i):
                entries += [(f" {old}", place)] if old == new else [(f"-{old}", place), (f"+{new}", place)]
        else:
            entries += [(f"-{line}", place) for place, line in enumerate(before[i:i_end], i)]
            entries += [(f"+{line}", i) for line in after[j:j_end]]
    changed = [place for place, (line, _) in enumerate(entries) if line[0] != " "]
    shown = sorted({near for place in changed for near in (place - 1, place, place + 1) if 0 <= near < len(entries)})
    found: list[str] = []
    for last, place in zip([-2, *shown], shown, strict=False):
        if place != last + 1:
            found.append(f"@@ line {entries[place][1] + 1} @@")
        found.append(entries[place][0])
    return found


def look(args: argparse.Namespace) -> Seen:
    """What a compiled model keeps, or what running the passes over a source shows."""
    if models.is_compiled(args.model):
        model = models.load_or_compile(args)
        return Seen(model.records, _outlines(model.stages) if model.stages is not None else [])
    from convc.passes.manager import Hooks

    texts: list[list[str]] = []

    class Keep(Hooks):
        """Keeps the text of each graph."""

        def after(self, index: int, one: Pass, before: Graph, after: Graph, record: PassRecord) -> None:
            if not texts:
                texts.append(str(before).splitlines())
            texts.append(texts[-1] if after is before else str(after).splitlines())

    records = models.run_passes(args, [Keep()] if args.diff else [])[1]
    return Seen(records, texts)


def _outlines(stages: Stages) -> list[list[str]]:
    texts = [[_outline(node) for node in stages.nodes(index)] for index in range(len(stages.graphs))]
    return [texts[index] for index in stages.at]


def _outline(node: Outline) -> str:
    inputs = ", ".join("_" if name is None else f"%{name}" for name in node.inputs)
    attrs = ", ".join(f"{name}={value}" for name, value in node.attrs.items())
    return f"  %{node.name} = {node.op}({inputs})" + (f" {{{attrs}}}" if attrs else "") + f" : {node.type}"


def _is_chosen(record: PassRecord, wanted: str | None) -> bool:
    return wanted is None or wanted in {record.name, str(record.index)}


def _tell(record: PassRecord, args: argparse.Namespace, diff: Sequence[str]) -> None:
    full = args.one_pass and not args.diff and not args.rewrites and not args.refusals
    lines: list[object] = []
    if args.rewrites or full:
        lines += record.rewrites
    if args.refusals or full:
        lines += [f"not {refusal}" for refusal in record.refusals]
    if lines or diff:
        say(f"\n{record.index}. {record.name}")
    for line in lines:
        say("\n".join(textwrap.wrap(str(line), WIDTH, initial_indent="  ", subsequent_indent="      ")))
    for line in diff:
        for part in wrapped(line):
            say_styled(part, STYLES.get(line[:1], "none"))


def wrapped(line: str) -> Iterator[str]:
    """A line of a difference in pieces of at most 100 columns, each with the line's sign."""
    sign, body = line[:1], line[1:]
    if len(line) <= WIDTH or sign == "@":
        yield line
        return
    indent = " " * (len(body) - len(body.lstrip()))
    pieces = textwrap.wrap(
        body.strip(), WIDTH - 1, initial_indent=indent, subsequent_indent=f"{indent}      ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    yield from (f"{sign}{piece}" for piece in pieces)


def pass_row(record: PassRecord) -> tuple[object, ...]:
    """A row under PASS_COLUMNS; operators and MACs before and after."""
    return (
        record.index, record.name, record.numerics, f"{record.seconds * 1e3:.1f}", len(record.rewrites),
        len(record.refusals), _change(sum(record.ops_before.values()), sum(record.ops_after.values()), str),
        _change(record.macs_before, record.macs_after, count),
    )  # fmt: skip


def _change(before: int, after: int, text: Callable[[int], str]) -> str:
    return text(before) if before == after else f"{text(before)} -> {text(after)}"
