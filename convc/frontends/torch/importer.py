"""From a traced module to a Graph: one importer call for each ATen call that depends on the inputs.

What depends on parameters and buffers only (weight normalisation, position tables) torch itself computes.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch.utils import _pytree as pytree

from convc.dims import Dim
from convc.errors import Error, LimitError, ModelError
from convc.frontends.scales import FIX_SIZES
from convc.frontends.torch.context import Builder, Call, Const, Importer
from convc.frontends.torch.inputs import Input, InputShapes, check_module, label, named_inputs
from convc.frontends.torch.names import Names, layers_of, layers_seen
from convc.frontends.torch.program import check_tensors, name_of, program_inputs
from convc.frontends.torch.table import IDENTITIES, IMPORTERS
from convc.frontends.torch.trace import functional, trace
from convc.ir.dag import ancestors
from convc.ir.graph import Graph, Node, Output, graph_input, make_node
from convc.limits import Limits
from convc.types import DType, TensorType

Environment = dict[Any, Any]

SIZE_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    operator.add: operator.add, operator.sub: operator.sub, operator.mul: operator.mul, operator.neg: operator.neg,
    operator.floordiv: operator.floordiv, operator.mod: operator.mod, math.floor: lambda x: x, math.trunc: lambda x: x,
    math.ceil: lambda x: x, torch.sym_int: lambda x: x,
}  # fmt: skip
"""What may be done to symbolic sizes; to numbers, anything."""


@dataclass(frozen=True, eq=False)
class Traced:
    """A functional torch.export.ExportedProgram, what it was called, its inputs, and what its modules hold and are."""

    program: Any
    name: str
    inputs: Sequence[Input]
    tensors: Mapping[str, Any]
    modules: Mapping[str, bool]


def import_module(
    module: Any, example_inputs: Sequence[Any] | None, *, input_shapes: InputShapes, limits: Limits
) -> Graph:
    """The work of `convc.frontends.torch.load_torch`."""
    check_module(module)
    inputs = named_inputs(module, example_inputs, input_shapes)
    program = trace(module, inputs, _unknown_operators)
    parts = module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    tensors = dict(itertools.chain(*parts))
    return _import(Traced(program, label(module), inputs, tensors, layers_of(module)), limits)


def import_program(program: Any, *, input_shapes: InputShapes, limits: Limits) -> Graph:
    """The work of `convc.frontends.torch.load_program`."""
    tensors = {**program.state_dict, **program.constants}
    check_tensors(program, tensors)
    inputs = program_inputs(program, input_shapes)
    made = functional(program, _unknown_operators)
    return _import(Traced(made, name_of(program), inputs, tensors, layers_seen(program)), limits)


def _unknown_operators(program: Any) -> list[Any]:
    return [node.target for node in _unknown(program)]


def _import(traced: Traced, limits: Limits) -> Graph:
    program, inputs = traced.program, traced.inputs
    calls = _live(program)
    _check_operators(program, traced.name, Names(traced.modules, calls))
    nominal = {str(s): n for i in inputs for s, n in zip(i.shape, i.nominal, strict=True) if isinstance(s, Dim)}
    names = Names(traced.modules, [n for n in calls if _computes(n)])
    builder = Builder(limits, nominal, frozenset([*names.modules, *traced.tensors, *(i.name for i in inputs)]))
    env = _declare(builder, traced)
    with torch.no_grad():
        for node in calls:
            env[node] = _import_call(builder, node, env, names)
        outputs = _outputs(builder, program, env)
    made = Graph.build(traced.name, builder.nodes.values(), outputs, nominal)
    used = ancestors(made, [o.node for o in outputs])
    graph = Graph.build(made.name, [n for n in made.nodes if n.name in used or n.op == "input"], outputs, nominal)
    macs = graph.macs()
    if macs > limits.macs:
        raise LimitError(
            f"{graph.name} takes {macs} multiply-adds, more than limits.macs={limits.macs}",
            hint="use smaller sizes, or raise convc.Limits(macs=...)",
        )
    return graph


# The traced graph.


def _results(program: Any) -> list[Any]:
    """What the module returns, as torch.fx nodes or plain values, in the order of its output structure."""
    found = next(n for n in program.graph.nodes if n.op == "output").args[0]
    kinds = [spec.kind.name for spec in program.graph_signature.output_specs]
    return [value for value, kind in zip(found, kinds, strict=True) if kind == "USER_OUTPUT"]


def _live(program: Any) -> list[Any]:
    """The calls that results depend on, in order. Checks of sizes and writes to inputs are not among them."""
    wanted: set[Any] = {r for r in _results(program) if isinstance(r, torch.fx.Node)}
    kept: list[Any] = []
    for node in reversed(program.graph.nodes):
        if node in wanted and node.op != "placeholder":
            kept.append(node)
            wanted |= set(node.all_input_nodes)
    return kept[::-1]


def _is_operator(node: Any) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"


def _computes(node: Any) -> bool:
    """Whether a call makes a tensor, rather than a size or a part of a tuple."""
    return _is_operator(node) and not node.target.name().startswith("aten::sym_")


def _importer(target: Any) -> Importer | None:
    """By name with overload, else by name."""
    full = target.name().removeprefix("aten::")
    return IMPORTERS.get(full) or IMPORTERS.get(full.partition(".")[0])


def _unknown(program: Any) -> Iterator[Any]:
    """Calls that depend on the inputs and that convc does not know."""
    varying = set(_user_inputs(program))
    for node in _live(program):
        if not any(n in varying for n in node.all_input_nodes):
            if _is_operator(node) and torch.Tag.nondeterministic_seeded in node.target.tags:
                yield node
            continue
        varying.add(node)
        known = (
            _importer(node.target) is not None or node.target.name().startswith("aten::sym_")
            if _is_operator(node)
            else node.op == "call_function" and isinstance(node.target, (BuiltinFunctionType, FunctionType))
        )
        if not known:
            yield node


def _user_inputs(program: Any) -> list[Any]:
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    specs = program.graph_signature.input_specs
    return [n for n, spec in zip(placeholders, specs, strict=True) if spec.kind.name == "USER_INPUT"]


def _check_operators(program: Any, label: str, names: Names) -> None:
    """Raise ModelError for side effects, and one that lists every operator that convc does not know."""
    for spec in program.graph_signature.output_specs:
        if spec.kind.name == "BUFFER_MUTATION":
            raise ModelError(f"{label} writes to its buffer {spec.target}", hint="keep state outside forward")
    unknown: dict[str, list[str]] = {}
    for node in _unknown(program):
        unknown.setdefault(str(node.target), []).append(names.of(node)[0])
    if unknown:
        more = {op: f" and {len(places) - 1} more" if places[1:] else "" for op, places in unknown.items()}
        texts = [f"{op} ({places[0]}{more[op]})" for op, places in unknown.items()]
        raise ModelError(
            f"{label} uses operators that are not supported: {', '.join(texts)}",
            hint="replace them (nothing that depends on values or chance can be compiled); where they work on sizes, "
            + FIX_SIZES,
        )


# Values.


def _declare(builder: Builder, traced: Traced) -> Environment:
    """Input nodes in order, and a Const for each parameter, buffer and constant."""
    env: Environment = {}
    program, waiting = traced.program, iter(traced.inputs)
    held = {**getattr(program, "tensor_constants", {}), **getattr(program, "constants", {})}
    for node, spec in zip(
        [n for n in program.graph.nodes if n.op == "placeholder"], program.graph_signature.input_specs, strict=True
    ):
        if spec.kind.name == "USER_INPUT" and hasattr(spec.arg, "value"):
            env[node] = spec.arg.value  # an argument that is no tensor
        elif spec.kind.name == "USER_INPUT":
            one = next(waiting)
            env[node] = builder.add(graph_input(builder.claim(one.name, owner=True), one.dtype, one.shape))
        elif spec.kind.name in {"PARAMETER", "BUFFER"}:
            env[node] = Const(traced.tensors[spec.target], spec.target)
        elif spec.target in held:
            env[node] = Const(held[spec.target], node.name)
    return env


def _value(argument: Any, env: Mapping[Any, Any]) -> Any:
    """An argument with torch.fx nodes replaced by what they stand for."""
    if isinstance(argument, torch.fx.Node):
        if argument not in env:
            raise ModelError(f"{argument.name} has no value", hint="the module holds something that is no tensor")
        return env[argument]
    if isinstance(argument, (list, tuple)):
        return [_value(a, env) for a in argument]
    return argument


def _import_call(builder: Builder, node: Any, env: Mapping[Any, Any], names: Names) -> Any:
    args = _value(node.args, env)
    kwargs = {name: _value(value, env) for name, value in node.kwargs.items()}
    wish, owner = names.of(node)
    try:
        if not _is_operator(node):
            return _import_function(node.target, args, kwargs)
        if node.target.name().startswith("aten::sym_"):
            sizes = args[0].type.shape
            return sizes[args[1]] if len(args) > 1 else math.prod(sizes)
        if node.target.name().removeprefix("aten::").partition(".")[0] in IDENTITIES:
            return args[0]
        if not any(isinstance(leaf, (Node, Dim)) for leaf in pytree.tree_leaves((args, kwargs))):
            return _compute(builder, node.target, args, kwargs, wish)
        importer = _importer(node.target)
        assert importer is not None, node.target  # _check_operators has looked
        arguments = _by_name(node.target, args, kwargs)
        call = Call(builder, wish, owner=owner, arguments=arguments, value=node.meta.get("val"))
        return call.finish(importer(call))
    except Error as error:
        raise type(error)(f"{node.target} %{wish}: {error.message}", hint=error.hint) from error
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise ModelError(
            f"{node.target} %{wish}: its arguments do not fit together: {error}", hint="check the module"
        ) from error


def _by_name(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the operator's schema, defaults filled in."""
    found: dict[str, Any] = {}
    for index, argument in enumerate(target._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        found[argument.name] = args[index] if index < len(args) else kwargs.get(argument.name, default)
    return found


def _import_function(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Parts of tuples, and arithmetic on sizes."""
    if target is operator.getitem:
        return args[0][args[1]]
    if not any(isinstance(a, Dim) for a in args):
        return target(*args, **kwargs)
    if target not in SIZE_FUNCTIONS:
        raise ModelError(f"{getattr(target, '__name__', target)} of a symbolic size", hint=FIX_SIZES)
    return SIZE_FUNCTIONS[target](*args)


def _compute(builder: Builder, target: Any, args: Any, kwargs: Any, name: str) -> Any:
    """What an operator makes of constants."""
    plain = pytree.tree_map(lambda leaf: leaf.tensor if isinstance(leaf, Const) else leaf, (args, kwargs))

    def const(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        shared = leaf.untyped_storage().data_ptr() in storages
        if not shared:
            builder.limits.check_tensor(name, TensorType(DType.U8, (leaf.numel() * leaf.element_size(),)), {})
        return Const(leaf, name)

    storages = {
        leaf.untyped_storage().data_ptr() for leaf in pytree.tree_leaves(plain) if isinstance(leaf, torch.Tensor)
    }
    return pytree.tree_map(const, target(*plain[0], **plain[1]))


# Results.


def _outputs(builder: Builder, program: Any, env: Mapping[Any, Any]) -> list[Output]:
    """Outputs named by their place in what the module returns: keys of mappings, numbers in sequences."""
    results = _results(program)
    structure = pytree.tree_unflatten(list(range(len(results))), program.call_spec.out_spec)
    outputs: list[Output] = []
    for index, name in _places(structure, "output"):
        value = _value(results[index], env)
        if value is None and results[index] is None:
            continue  # the module returns nothing here
        if value is None:
            raise ModelError(
                f"output {name} is no value but what comes with one, as the indices of a maximum do",
                hint="return the values alone",
            )
        if not isinstance(value, (Node, Const)):
            raise ModelError(f"output {name} is {value!r}, expected a tensor", hint="return tensors only")
        node = builder.materialise(value)
        if node.op in {"input", "constant"}:
            node = builder.add(make_node("identity", builder.claim(name), [node], source=(name,)))
        outputs.append(Output(name, node.name))
    if not outputs:
        raise ModelError(f"{program.graph_signature} has no outputs", hint="return a tensor from forward")
    return outputs


def _places(structure: Any, path: str) -> Iterator[tuple[int, str]]:
    """Each leaf with a name: `output` alone, else keys and numbers, those of inner structures joined by dots."""
    if isinstance(structure, Mapping):
        parts = [(str(key), value) for key, value in structure.items()]
    elif isinstance(structure, (list, tuple)):
        fields = getattr(structure, "_fields", None) or [f"{path}_{i}" for i in range(len(structure))]
        parts = list(zip(fields, structure, strict=True))
    elif isinstance(structure, int):
        yield structure, path
        return
    else:
        raise ModelError(f"forward returns a {type(structure).__name__}", hint="return tensors, tuples or mappings")
    for name, value in parts:
        yield from _places(value, name if path == "output" else name if name.startswith(path) else f"{path}.{name}")
