"""A convolution as a chain of smaller ones, with nothing in between: what four rewrites have in common.

    conv(x, w) + b  ->  conv(... conv(conv(x, w1), w2) ..., wn) + b        w = wn * ... * w2 * w1

The last one keeps name, bias, residual and activation. `composed` multiplies a chain out again, so each rewrite is
checked by what it did, not by how it was found: exact where no weight moves by more than `TOLERANCE` of the largest,
the factors being rounded to the weights' own type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from convc.dims import concrete
from convc.ir.graph import Graph, Node, constant, make_node
from convc.ir.patch import Draft, Patch
from convc.ops import OPS
from convc.parallel import each
from convc.passes.base import Numerics, PassResult, Reject
from convc.passes.context import Context
from convc.passes.driver import Rule, rewrite_to_fixed_point
from convc.passes.pattern import operand, required, sources, unknown_slots
from convc.types import Array, DType

TOLERANCE = 1e-6
"""Of the largest weight: what an exact chain may be off by. Rounding weights to float32 moves them by up to 6e-8."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """Weights of a conv2d, finite and not all zero. `wide()` is [groups, K/groups, C/groups, R, S] in float64."""

    node: Node
    constant: Node
    bias: Node | None
    groups: int
    largest: float

    @property
    def stored(self) -> Array:
        return self.constant.array

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """groups, K/groups, C/groups, R, S."""
        k, c, r, s = self.stored.shape
        return self.groups, k // self.groups, c, r, s

    @property
    def size(self) -> str:
        """Such as `5x5`."""
        return f"{self.stored.shape[2]}x{self.stored.shape[3]}"

    def by_group(self) -> Array:
        return self.stored.reshape(self.shape)

    def wide(self) -> Array:
        return self.by_group().astype(np.float64)


@dataclass(frozen=True, eq=False)
class Layer:
    """One conv2d of a chain: weights [K, C/groups, R, S] and the attributes that are not the defaults."""

    w: Array
    groups: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def attrs(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("groups", "stride", "padding", "dilation")}


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers that stand for a convolution, the words for them, and what is added to its bias [K]."""

    layers: tuple[Layer, ...]
    note: str
    shift: Array | None = None


@dataclass(frozen=True, eq=False)
class Candidate:
    """A chain that could replace the convolution `kernel.node`, with its certificate.

    The certificate holds weight_error, ||w - w'||_F / ||w||_F with the factors as stored; macs_before, macs_after,
    seconds_before and seconds_after, predicted at nominal sizes.
    """

    rule: str
    kernel: Kernel
    chain: Chain
    certificate: Mapping[str, float]

    @property
    def gains(self) -> bool:
        """Whether it is predicted to be faster, with fewer multiply-adds."""
        c = self.certificate
        return c["seconds_after"] < c["seconds_before"] and c["macs_after"] < c["macs_before"]

    @property
    def figures(self) -> str:
        c = self.certificate
        return (
            f"{_us(c['seconds_after'])} predicted for {self.chain.note} ({c['macs_after']:,.0f} MACs), "
            f"{_us(c['seconds_before'])} for {self.kernel.size} ({c['macs_before']:,.0f} MACs)"
        )

    def patch(self, draft: Draft) -> Patch:
        """The edit that puts the chain in the place of the convolution, or of the chain that took its place before."""
        return Patch(nodes=tuple(_nodes(draft, self.kernel, self.chain, draft.fresh_name)))


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us"


def read_kernel(draft: Draft, node: Node) -> Kernel | Reject:
    """The weights of a conv2d, or why they cannot be rewritten."""
    reason = unknown_slots(draft, node, ("w",))
    if reason:
        return Reject(node.name, reason)
    if node.type.dtype is DType.F16:
        return Reject(node.name, "f16 weights: a chain would round twice")
    largest = required(draft, node, "w").value.largest
    if not np.isfinite(largest):
        return Reject(node.name, f"w, %{node.input('w')}, holds NaN or infinity")
    if largest == 0:
        return Reject(node.name, f"w, %{node.input('w')}, is zero everywhere")
    return Kernel(node, required(draft, node, "w"), operand(draft, node, "b"), node.attrs["groups"], largest)


def _nodes(draft: Draft, kernel: Kernel, chain: Chain, name: Callable[[str], str]) -> list[Node]:
    """Constants and convolutions of a chain; the last one has the convolution's name and epilogue, the first one its
    prologue.
    """
    layers = chain.layers
    conv, stored = kernel.node, kernel.constant
    dtype = conv.type.dtype.numpy
    x = required(draft, conv, "x")
    nodes: list[Node] = []
    for index, layer in enumerate(layers):
        first, last = index == 0, index == len(layers) - 1
        slots = dict.fromkeys(OPS["conv2d"].slots)
        attrs = {**layer.attrs}
        slots |= {"x": x, "w": constant(name(stored.name), layer.w.astype(dtype), source=stored.source)}
        if first:
            slots |= {slot: operand(draft, conv, slot.rstrip("?")) for slot in ("scale?", "shift?")}
            attrs["prologue"] = conv.attrs["prologue"]
        if last:
            bias = kernel.bias
            if chain.shift is not None:
                bias = _shifted(conv, bias, chain.shift, name)
            if bias is not None and bias.name not in draft:
                nodes.append(bias)
            slots |= {"b?": bias, "residual?": operand(draft, conv, "residual")}
            attrs["activation"] = conv.attrs["activation"]
        source = sources(conv, stored) if last else conv.source
        x = make_node("conv2d", conv.name if last else name(conv.name), list(slots.values()), attrs, source=source)
        nodes += [n for n in (slots["w"], x) if n is not None]
    return nodes


def _shifted(conv: Node, bias: Node | None, shift: Array, name: Callable[[str], str]) -> Node:
    total = shift if bias is None else bias.array.astype(np.float64) + shift
    source = bias.source if bias is not None else conv.source
    return constant(
        name(bias.name if bias is not None else f"{conv.name}.b"), total.astype(conv.type.dtype.numpy), source=source
    )


def composed(layers: Sequence[Layer], channels: int, groups: int) -> Array:
    """The weights [K, channels/groups, R, S] of the one convolution of `groups` groups that the layers make up."""
    per_group = channels // groups
    total = np.tile(np.eye(per_group), (groups, 1)).reshape(channels, per_group, 1, 1)
    for layer in layers:
        out, taken, rows, columns = layer.w.shape
        height, width = total.shape[2:]
        inner = np.ascontiguousarray(total).reshape(layer.groups, taken, -1)
        outer = layer.w.astype(np.float64).reshape(layer.groups, out // layer.groups, taken, rows, columns)
        total = np.zeros((out, per_group, height + rows - 1, width + columns - 1))
        for r in range(rows):
            for s in range(columns):
                part = np.matmul(outer[..., r, s], inner).reshape(out, per_group, height, width)
                total[:, :, r : r + height, s : s + width] += part
    return total


def certify(draft: Draft, context: Context, rule: str, kernel: Kernel, chain: Chain) -> tuple[Candidate, float]:
    """The chain as a candidate, and the largest change of a weight as a share of the largest weight."""
    nodes = _unnamed(draft, kernel, chain)
    stored = [n.array for n in nodes if n.op == "constant" and n.type.rank == 4]
    as_stored = [Layer(w, layer.groups) for w, layer in zip(stored, chain.layers, strict=True)]
    channels = int(str(required(draft, kernel.node, "x").type.shape[1]))
    difference = composed(as_stored, channels, kernel.groups) - kernel.stored
    error = float(np.linalg.norm(difference) / np.linalg.norm(kernel.stored.astype(np.float64)))
    certificate = {"weight_error": error, **_price(draft, context, kernel, nodes)}
    return Candidate(rule, kernel, chain, certificate), float(np.abs(difference).max()) / kernel.largest


def _unnamed(draft: Draft, kernel: Kernel, chain: Chain) -> list[Node]:
    numbers = iter(range(1, 2 * len(chain.layers) + 2))
    return _nodes(draft, kernel, chain, lambda base: f"{base}.chain{next(numbers)}")


def _price(draft: Draft, context: Context, kernel: Kernel, nodes: Sequence[Node]) -> dict[str, float]:
    """Multiply-adds and predicted seconds, before and after."""
    x, nominal = required(draft, kernel.node, "x"), draft.nominal
    return {
        "macs_before": float(_macs([x, kernel.constant, kernel.node], nominal)),
        "macs_after": float(_macs([x, *nodes], nominal)),
        "seconds_before": context.seconds(draft, [kernel.node], nominal),
        "seconds_after": context.seconds(draft, nodes, nominal),
    }


def _macs(nodes: Sequence[Node], nominal: Mapping[str, int]) -> int:
    """Multiply-adds of the convolutions among `nodes`, which hold their x and w."""
    by_name = {node.name: node for node in nodes}
    total = 0
    for node in nodes[1:]:
        if node.op == "conv2d":
            x, w = (by_name[name].type for name in node.operands[:2])
            total += concrete(OPS["conv2d"].macs([x, w], node.type, node.attrs), nominal)
    return total


Exact = Callable[[Kernel], "Sequence[Chain] | str | None"]
"""Chains that make up a kernel; or why there are none; or None where there is nothing to look for."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Of a convolution on calibration inputs: the covariance of its responses w * x, [groups, K/g, K/g], and E[x x^T]
    of the windows x of C/g R S values that w reads, [groups, C/g, R S, C/g, R S].
    """

    responses: Array
    windows: Array


Approximate = Callable[[Kernel, "Moments | None"], Iterable[Chain]]
"""Chains near a kernel, coarse and fine; moments help to choose them, where they are known."""


def _ahead(exact: Exact, draft: Draft) -> Exact:
    """The same function, with what it finds for the draft's convolutions known: looking takes as long as all else that
    passes do, and goes side by side.
    """
    nodes = [draft[name] for name in draft.names if draft[name].op == "conv2d"]
    kernels = [one for one in each(lambda node: read_kernel(draft, node), nodes) if isinstance(one, Kernel)]
    kernels.sort(key=lambda one: -one.stored.size)  # so that no thread begins the largest when the others end
    found = {(one.node, one.constant): chains for one, chains in zip(kernels, each(exact, kernels), strict=True)}

    def known(kernel: Kernel) -> Sequence[Chain] | str | None:
        key = kernel.node, kernel.constant
        return found[key] if key in found else exact(kernel)

    return known


@dataclass(frozen=True)
class ChainPass:
    """Replaces convolutions by chains that make them up exactly; offers near ones to whoever has a budget.

    Of the chains found, the one predicted to be the fastest is taken. It is refused where the convolution is faster,
    or one of the `rivals`' chains is.
    """

    name: str
    doc: str
    exact: Exact
    approximate: Approximate
    rivals: tuple[ChainPass, ...] = ()
    numerics: Numerics = Numerics.REASSOCIATES
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        ahead = replace(self, exact=_ahead(self.exact, Draft(graph)))
        rule = Rule(
            self.name,
            frozenset({"conv2d"}),
            lambda draft, node: ahead.match(draft, node, context),
            lambda draft, candidate: candidate.patch(draft),
            lambda candidate: candidate.chain.note,
            lambda candidate: candidate.certificate,
        )
        return rewrite_to_fixed_point(graph, (rule,))

    def match(self, draft: Draft, node: Node, context: Context) -> Candidate | Reject | None:
        """The best exact chain, where it gains."""
        kernel = read_kernel(draft, node)
        if isinstance(kernel, Reject):
            return kernel
        best = self.best(draft, kernel, context)
        if not isinstance(best, Candidate):
            return best if best is None else Reject(node.name, best)
        if context.force:
            return best
        if not best.gains:
            return Reject(node.name, f"no gain: {best.figures}")
        for rival in self.rivals:
            other = rival.best(draft, kernel, context)
            if isinstance(other, Candidate) and other.certificate["seconds_after"] < best.certificate["seconds_after"]:
                return Reject(node.name, f"{other.figures}: {rival.name} is faster than {best.chain.note}")
        return best

    def best(self, draft: Draft, kernel: Kernel, context: Context) -> Candidate | str | None:
        """The fastest of the exact chains; or why there is none."""
        chains = self.exact(kernel)
        if chains is None or isinstance(chains, str):
            return chains
        found = [certify(draft, context, self.name, kernel, chain) for chain in chains]
        within = [candidate for candidate, off in found if off <= TOLERANCE]
        if not within:
            off = min(off for _, off in found)
            return f"{found[0][0].chain.note} is off by {off:.2g} of the largest weight, more than {TOLERANCE:g}"
        return min(within, key=lambda candidate: candidate.certificate["seconds_after"])

    def candidates(self, draft: Draft, node: Node, context: Context, moments: Moments | None = None) -> list[Candidate]:
        """Near chains that are predicted to be faster, each with its certificate. None where weights are unfit."""
        kernel = read_kernel(draft, node)
        if isinstance(kernel, Reject):
            return []
        found: list[Candidate] = []
        for chain in self.approximate(kernel, moments):
            price = _price(draft, context, kernel, _unnamed(draft, kernel, chain))
            if context.force or Candidate(self.name, kernel, chain, price).gains:
                found.append(certify(draft, context, self.name, kernel, chain)[0])
        return found
