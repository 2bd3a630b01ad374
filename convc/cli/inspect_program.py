"""`convc inspect program` and `convc inspect kernels`: what runs, down to the assembly."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convc.cli import models
from convc.cli.output import print_json, say, size, table
from convc.errors import InputError, TargetError

if TYPE_CHECKING:
    from convc.model import CompiledModel


def show_program(args: argparse.Namespace) -> None:
    """Steps with the places of their arrays: arena offsets at nominal sizes, or input and output names."""
    from convc.report.figures import program_figures

    program = models.load_or_compile(args).program
    found = program_figures(program)
    if args.json:
        print_json(found)
        return
    steps = found["steps"]
    arena = f"arena of {size(found['arena_bytes'])}{at(program.nominal)}"
    say(f"{program.name} for {program.target}: {len(steps)} steps, {arena}")
    table(
        [">", "!kernel", "node", "reads at", "writes at"],
        [
            (index, step["kernel"], step["node"], _places(step["inputs"]), _places(step["outputs"]))
            for index, step in enumerate(steps)
        ],
    )


def at(sizes: Mapping[str, int]) -> str:
    """` at N=1 H=224`, or nothing."""
    return f" at {' '.join(f'{symbol}={value}' for symbol, value in sizes.items())}" if sizes else ""


def _places(found: Sequence[Mapping[str, Any]]) -> str:
    return " ".join(f"{p['offset']:#x}" if p["place"] == "arena" else str(p["place"]) for p in found)


def show_kernels(args: argparse.Namespace) -> None:
    """Kernels with how often they are called; or the source, LLVM IR or assembly of one."""
    from convc.report.figures import kernel_figures

    model = models.load_or_compile(args)
    asked = {form: name for form in ("source", "llvm", "asm", "ptx") if (name := getattr(args, form))}
    if asked:
        texts = {form: kernel_text(model, form, name) for form, name in asked.items()}
        if args.json:
            print_json([{"name": asked[form], "form": form, "text": text} for form, text in texts.items()])
        else:
            say("\n\n".join(text.rstrip("\n") for text in texts.values()))
        return
    listed = kernel_figures(model.program)
    headings = ["!kernel", ">calls", ">lines"]
    compiled = getattr(model.runnable, "kernels", None)
    if compiled is not None:
        headings += [">regs", ">spilled", ">stack", ">shared"]
        shared = model.runnable.shared_memory()  # type: ignore[attr-defined]
        for one in listed:
            made = compiled[one["name"]]
            one |= {"registers": made.registers, "spilled": made.spills, "stack": made.stack}
            one["shared"] = made.shared + shared.get(one["name"], 0)
    if args.json:
        print_json(listed)
        return
    table(headings, [tuple(kernel.values()) for kernel in listed])


def kernel_text(model: CompiledModel, form: str, name: str) -> str:
    """The source, LLVM IR (llvm), assembly (asm) or PTX (ptx) of a kernel. Raises InputError, TargetError."""
    if name not in model.sources:
        raise InputError(f"the model has no kernel {name}", hint=f"it has {', '.join(sorted(model.sources))}")
    source = model.sources[name]
    if form == "source":
        return source
    kind, _, instructions = model.program.target.partition(":")
    if kind == "cuda" and form in {"asm", "ptx"}:
        from convc.backends.cuda.compile import compile_ptx, disassemble

        compiled = model.runnable.kernels  # type: ignore[attr-defined]
        text = compile_ptx(source, instructions) if form == "ptx" else disassemble(compiled[name].cubin)
        return text.expandtabs(4)
    if kind != "cpu" or form == "ptx":
        there = {"cpu": "--source, --llvm or --asm", "cuda": "--source, --ptx or --asm"}.get(kind, "--source")
        raise TargetError(f"kernels for {kind} have no {form} here", hint=f"use {there}")
    from convc.backends.cpu.isa import ISAS
    from convc.backends.cpu.jit import compile_assembly, compile_llvm

    return (compile_llvm if form == "llvm" else compile_assembly)(name, source, ISAS[instructions]).expandtabs(4)
