"""The one function that walks all stages: description, Graph, passes, Program, kernels, CompiledModel."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from convc.errors import Error, InputError
from convc.interp import run_graph
from convc.ir.graph import Graph
from convc.limits import Limits
from convc.model import CompiledModel, Options, Runnable
from convc.passes.base import PassRecord
from convc.passes.context import CostModel
from convc.passes.manager import Instrument, Passes, resolve, run_passes
from convc.passes.spend_budget import with_budget
from convc.passes.stages import Recorder
from convc.passes.state_precision import StatePrecision
from convc.passes.widen_float16 import WIDEN_FLOAT16
from convc.source import InputShapes, read_source
from convc.types import Array, DType

Progress = Callable[[str, int, int], None]
Edit = Callable[[str, str], str]


def compile(
    source: Any,
    *,
    target: str = "cpu",
    passes: Passes = "default",
    budget: float | None = None,
    threads: int | None = None,
    precision: str = "float32",
    input_shapes: InputShapes | None = None,
    example_inputs: Sequence[Any] | None = None,
    calibration: Any = None,
    force: bool = False,
    tune: bool = False,
    dump_dir: str | os.PathLike[str] | None = None,
    instruments: Sequence[Instrument] = (),
    stop_after: str | int | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> CompiledModel:
    """Compile a network to a callable.

    Parameters
    ----------
    source
        A path to an ONNX file, an onnx.ModelProto or its bytes, a torch.nn.Module in evaluation mode,
        `"zoo:resnet18"`, a path to a textual form, or a convc.Graph.
    target
        `"cpu"`, or `"cpu:avx512"`, `"cpu:avx2"`, `"cpu:portable"` to force an instruction set; `"cuda"` for this
        machine's GPU, or `"cuda:sm_90a"`, `"cuda:sm_80,sm_90a"` to compile ahead, without one; `"reference"` runs the
        NumPy interpreter.
    passes
        `"default"`, `"none"` (each operator its own kernel), or a sequence of names and passes.
    budget
        The largest error of the outputs that approximate rewrites may cause, max |y - y'| / max |y|; None: no such
        rewrites. It is measured on `calibration`; on other inputs it may be larger.
    threads
        Threads of an inference; None takes what the process may use. Results do not depend on it. More than there are
        processors make all wait for each other.
    precision
        `"float32"`, strictly; for CUDA also `"tf32"`, `"float16"` and `"bfloat16"`: what products take and activations
        are stored as. Sums are float32 in each.
    input_shapes
        Shapes of inputs by name: a number fixes a size, a name makes it symbolic, None keeps it.
    example_inputs
        For a torch.nn.Module: a tensor for each argument of `forward`. Axis 0 of each becomes the symbol N.
    calibration
        Inputs to measure on: an array, arrays by input name, or a sequence of arrays in the order of the inputs, along
        axis 0 as many examples as there are. Without it, seeded normal inputs serve, and the record says so.
    force
        Rewrite also where the target's cost model sees no gain, for experiments.
    tune
        Measure what runs each convolution fastest on this machine, instead of predicting it: on the CPU, or on the GPU
        for target "cuda". Winners are kept on disk by shape, processor and version, and travel in saved files. Seconds
        to a minute, the first time; a GPU's candidates have to be compiled, which takes longer.
    dump_dir
        A folder for the graph before and after each pass, the difference, and the record.
    instruments
        Hooks around each pass (`convc.passes.manager.Hooks`): leave it out, see the graph before and after it.
    stop_after
        The pass after which the graph is compiled as it is: its name (the first run), or its number from 1.
    limits
        What a model may ask for before anything is allocated.
    progress
        Called as (kernel, done, total) while kernels compile.

    Raises
    ------
    ModelError, InputError, LimitError, TargetError
        Naming the node and the way out.
    """
    limits = limits or Limits()
    chosen = choose_passes(passes, budget, calibration)
    options = Options(target, threads, limits, precision)
    check_target(options)
    graph = read_source(source, input_shapes=input_shapes, example_inputs=example_inputs, limits=limits)
    return compile_graph(
        graph, options, chosen, force=force, tune=tune, dump_dir=dump_dir, instruments=instruments,
        stop_after=stop_after, progress=progress,
    )  # fmt: skip


def choose_passes(passes: Passes, budget: float | None = None, calibration: Any = None) -> Passes:
    """The passes, with one that spends the budget among them where there is one. Raises InputError."""
    _check_budget(budget, calibration)
    return resolve(passes) if budget is None else with_budget(resolve(passes), budget, calibration)


def _check_budget(budget: Any, calibration: Any) -> None:
    if budget is None and calibration is not None:
        raise InputError("calibration is given without a budget", hint="give budget=, such as 0.01, or leave it out")
    number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    if budget is not None and not (number and 0 < budget < 1):
        raise InputError(
            f"budget={budget!r} is no share of the largest output", hint="give a number between 0 and 1, such as 0.01"
        )


def compile_graph(
    graph: Graph,
    options: Options,
    passes: Passes = "default",
    *,
    force: bool = False,
    tune: bool = False,
    dump_dir: str | os.PathLike[str] | None = None,
    instruments: Sequence[Instrument] = (),
    stop_after: str | int | None = None,
    progress: Progress | None = None,
    edit: Edit | None = None,
) -> CompiledModel:
    """Passes, program, kernels. `edit` (name, source) may give a kernel another source: to try one out."""
    recorder = Recorder(graph)
    with _ahead_of(graph, options):
        graph, records = optimise(
            graph, options, passes, force=force, dump_dir=dump_dir, instruments=[*instruments, recorder],
            stop_after=stop_after,
        )  # fmt: skip
        from threadpoolctl import threadpool_limits

        # Several threads pack constants; teams of BLAS threads would get in their way, and spin for 70 ms thereafter.
        with threadpool_limits(1, "blas"):
            runnable = build_runnable(graph, options, progress=progress, edit=edit, tune=tune)
    return CompiledModel(graph, records, options, runnable, recorder.stages)


def _ahead_of(graph: Graph, options: Options) -> AbstractContextManager[None]:
    """What makes the compilation of many kernels begin before the passes have run."""
    kind, _, detail = options.target.partition(":")
    if kind != "cpu":
        return nullcontext()
    from convc.backends.cpu.build import ahead_of
    from convc.backends.cpu.isa import choose

    return ahead_of(len(graph.operators), choose(detail))


def optimise(
    graph: Graph,
    options: Options,
    passes: Passes = "default",
    *,
    force: bool = False,
    dump_dir: str | os.PathLike[str] | None = None,
    instruments: Sequence[Instrument] = (),
    stop_after: str | int | None = None,
) -> tuple[Graph, tuple[PassRecord, ...]]:
    """The graph after the passes that a target gets, and their records."""
    cost = check_target(options)
    chosen = resolve(passes)
    if cost is not None and any(node.type.dtype is DType.F16 for node in graph.nodes):
        chosen = (WIDEN_FLOAT16, *chosen)
    if options.target.startswith("cuda"):
        chosen = (*chosen, StatePrecision(options.precision))
    from threadpoolctl import threadpool_limits

    # Passes factor many small matrices. A team of BLAS threads gains nothing there, and where another process holds a
    # processor each call waits for it: 0.5 s of passes over ResNet-50 took 9 s.
    with threadpool_limits(1, "blas"):
        return run_passes(
            graph, chosen, dump_dir=dump_dir, instruments=instruments, stop_after=stop_after, limits=options.limits,
            cost=cost, force=force,
        )  # fmt: skip


def build_runnable(
    graph: Graph,
    options: Options,
    *,
    progress: Progress | None = None,
    packed: Mapping[str, Array] | None = None,
    code: Mapping[str, bytes] | None = None,
    built_for: str | None = None,
    edit: Edit | None = None,
    choices: Any = None,
    processor: str | None = None,
    tune: bool = False,
) -> Runnable:
    """What runs a graph that has been through its passes.

    `packed`, `code` (trusted), `choices` and the `processor` whose speed decided on the others come from an artifact
    `built_for` a target; they serve where this is the same. `tune` measures what to choose.
    """
    kind, _, detail = options.target.partition(":")
    if kind == "cpu":
        from convc.backends.cpu.target import CpuTarget

        cpu = CpuTarget(detail, options.threads)
        same = built_for == f"cpu:{cpu.isa.name}"
        return cpu.build(
            graph, options.limits, progress=progress, packed=packed if same else None, objects=code, edit=edit,
            choices=choices if same else None, processor=processor if same and packed else None, tune=tune,
        )  # fmt: skip
    if kind == "cuda":
        from convc.backends.cuda.target import CudaTarget

        cuda = CudaTarget(detail, options.precision)
        same = built_for == f"cuda:{cuda.arch}"
        return cuda.build(
            graph, options.limits, progress=progress, packed=packed if same else None, objects=code, edit=edit,
            choices=choices if same else None, tune=tune,
        )  # fmt: skip
    if options.target == "reference":
        return Reference(graph)
    raise _unknown_target(options.target)


def check_target(options: Options) -> CostModel | None:
    """The target's cost model. Raises TargetError or InputError where this machine cannot serve the options."""
    kind, _, detail = options.target.partition(":")
    if kind == "cuda":
        from convc.backends.cuda.target import CudaTarget

        return CudaTarget(detail, options.precision).cost
    if options.precision != "float32":
        raise InputError(
            f"precision={options.precision!r} is not available for {options.target}",
            hint="use precision='float32', or target='cuda'",
        )
    if kind == "cpu":
        from convc.backends.cpu.target import CpuTarget

        return CpuTarget(detail, options.threads).cost
    if options.target != "reference":
        raise _unknown_target(options.target)
    return None


def _unknown_target(target: str) -> Error:
    return InputError(f"target={target!r} is not known", hint="use 'cpu', 'cpu:avx2', 'cuda' or 'reference'")


class Reference:
    """The NumPy interpreter as a target."""

    def __init__(self, graph: Graph) -> None:
        from convc.backends.program import Program

        self.graph = graph
        inputs = tuple((n.name, n.type) for n in graph.inputs)
        outputs = tuple((o.name, graph[o.node].type) for o in graph.outputs)
        self.program = Program(graph.name, "reference", (), (), {}, {}, {}, inputs, outputs, graph.nominal)

    def run(self, inputs: Sequence[Array], sizes: Mapping[str, int]) -> list[Array]:
        """Outputs in order."""
        named = {node.name: array for node, array in zip(self.graph.inputs, inputs, strict=True)}
        return list(run_graph(self.graph, named).values())
