"""Convolutions that are made of smaller ones, planted and found again; and those that are not, refused."""

from __future__ import annotations

import time

import numpy as np
import pytest
from support import assert_same_outputs

from convc.ir.graph import Graph, constant, graph_input, make_node
from convc.ir.patch import Draft
from convc.ir.verify import verify
from convc.passes import PASSES, Numerics, run_passes
from convc.passes.base import PassResult, Reject
from convc.passes.chain import Chain, Layer, certify, composed, read_kernel
from convc.passes.context import Context
from convc.passes.planes import quadratics
from convc.passes.rank import exact_rank, factors, off_rank
from convc.types import Array, DType

NAMES = ("separate_depthwise", "stack_conv5x5", "bottleneck", "separate_kernels")
GAUSS = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
SOBEL = np.outer([1, 2, 1], [-1, 0, 1])


class MacsOnly:
    """A cost model in which multiply-adds are all that counts."""

    def seconds(self, node, inputs) -> float:
        from convc.dims import concrete
        from convc.ops import OPS

        return 1e-9 * concrete(OPS[node.op].macs(inputs, node.type, node.attrs), {})


def network(w: Array, *, groups: int = 1, size: int = 9, epilogue: bool = True, padding=None, **attrs) -> Graph:
    """One convolution; with bias, residual and activation, or bare."""
    w = np.asarray(w, np.float32)
    random = np.random.default_rng(9)
    x = graph_input("x", DType.F32, (2, w.shape[1] * groups, size, size))
    values = [x, constant("w", w)]
    rows, columns = w.shape[2:]
    attrs = {"groups": groups, "padding": padding or (rows // 2, columns // 2, rows // 2, columns // 2), **attrs}
    if epilogue:
        values.append(constant("b", random.normal(size=len(w)).astype(np.float32)))
        bare = make_node("conv2d", "y", values, attrs)
        values.append(graph_input("r", DType.F32, bare.type.shape))
        attrs["activation"] = make_node("conv2d", "z", [x, values[1]], attrs).attrs["activation"]
    return Graph.build("g", [*values, make_node("conv2d", "y", values, attrs)], ["y"])


def run(name: str, graph: Graph, *, force: bool = False, macs_only: bool = True) -> PassResult:
    context = Context(cost=MacsOnly(), force=force) if macs_only else Context(force=force)
    result = PASSES[name].run(graph, context)
    verify(result.graph)
    return result


def rewritten(name: str, graph: Graph, **options) -> Graph:
    """The rewritten graph, which computes the same and is left alone by the pass."""
    result = run(name, graph, **options)
    assert [r.rule for r in result.rewrites][:1] == [name], result.refusals
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)
    assert result.rewrites[0].certificate["weight_error"] < 1e-6
    assert result.rewrites[0].certificate["macs_before"] == graph.macs()
    return result.graph


def refused(name: str, graph: Graph, *reasons: str, **options) -> str:
    result = run(name, graph, **options)
    assert result.graph is graph
    text = "; ".join(r.reason for r in result.refusals if r.node == "y")
    assert all(reason in text for reason in reasons), text
    return text


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def stack(*shapes: tuple[int, ...], seed: int = 0) -> tuple[Array, int]:
    """The composition of random kernels, first to last, and how many weights they have."""
    kernels = [normal(*shape, seed=seed + i) for i, shape in enumerate(shapes)]
    return composed([Layer(k) for k in kernels], shapes[0][1], 1), sum(k.size for k in kernels)


# ---- planted structure ------------------------------------------------------------------------------------------

PLANTED = [
    ("stack_conv5x5", [(8, 16, 3, 3), (16, 8, 3, 3)]),
    ("stack_conv5x5", [(7, 8, 3, 3), (8, 7, 3, 3)]),
    ("stack_conv5x5", [(16, 16, 3, 3), (32, 16, 3, 3)]),
    ("stack_conv5x5", [(8, 16, 3, 3), (8, 8, 3, 3)]),
    ("stack_conv5x5", [(4, 4, 3, 3), (4, 4, 3, 3)]),
    ("stack_conv5x5", [(8, 8, 3, 3), (8, 8, 3, 3)]),
    ("stack_conv5x5", [(20, 33, 3, 3), (21, 20, 3, 3)]),
    ("stack_conv5x5", [(24, 24, 3, 3), (25, 24, 3, 3)]),
    ("stack_conv5x5", [(48, 48, 3, 3), (64, 48, 3, 3)]),
    ("stack_conv5x5", [(4, 16, 3, 3), (4, 4, 3, 3), (16, 4, 3, 3)]),
    ("bottleneck", [(4, 16, 1, 1), (4, 4, 3, 3), (16, 4, 1, 1)]),
    ("bottleneck", [(12, 12, 5, 5), (32, 12, 1, 1)]),
    ("bottleneck", [(5, 24, 1, 1), (16, 5, 1, 1)]),
    ("separate_kernels", [(8, 16, 1, 3), (16, 8, 3, 1)]),
    ("separate_kernels", [(6, 8, 1, 7), (8, 6, 5, 1)]),
]


@pytest.mark.parametrize(("name", "shapes"), PLANTED)
def test_compositions_are_found_with_their_channels_between(name: str, shapes: list[tuple[int, ...]]) -> None:
    w, weights = stack(*shapes)
    places = 2 * 9 * 9
    graph = network(w)
    after = rewritten(name, graph)
    # What is computed beyond the border, or ahead of what the other axis pads, is more than the weights alone count.
    found = sum(c.type.elements for c in after.constants if c.type.rank == 4)
    assert found == weights
    assert [n.attrs["activation"] for n in after.operators][:-1] == [None] * (len(after.operators) - 1)
    assert after.macs() >= places * weights
    assert after.macs() < graph.macs()


@pytest.mark.parametrize("rank", [1, 5, 40, 300])
@pytest.mark.parametrize("shape", [(64, 64), (320, 900), (1000, 600)])
def test_a_quick_look_proves_only_ranks_that_are_higher(rank: int, shape: tuple[int, int]) -> None:
    rank = min(rank, min(shape) - 1)
    random = np.random.default_rng(rank)
    low = random.normal(size=(shape[0], rank)) @ random.normal(size=(rank, shape[1]))
    rounded = low.astype(np.float32).astype(np.float64)
    high = random.normal(size=shape)
    for tensor in (shape[0], 1, shape[1], 1), (shape[0] // 4, 4, shape[1] // 5, 5):
        assert off_rank(rounded[: shape[0], : tensor[2] * tensor[3]].reshape(tensor), rank) == 0
        assert off_rank(rounded[: shape[0], : tensor[2] * tensor[3]].reshape(tensor), rank + 1) == 0
        assert rank > 0.8 * min(shape) or off_rank(high[:, : tensor[2] * tensor[3]].reshape(tensor), rank) > 0.1


@pytest.mark.parametrize("rank", [1, 7, 30])
def test_factors_of_low_rank(rank: int) -> None:
    random = np.random.default_rng(rank)
    low = (random.normal(size=(2, 200, rank)) @ random.normal(size=(2, rank, 333))).astype(np.float32)
    w = low.astype(np.float64)
    u, values, v = factors(w)
    assert values.shape[-1] < 200
    largest = np.abs(w).max()
    assert np.abs((u * values[..., None, :]) @ v - w).max() < 1e-6 * largest
    exact = np.linalg.svd(w, compute_uv=False)
    assert [exact_rank(one, largest, w.shape[1:]) for one in values] == [rank, rank]
    np.testing.assert_allclose(values[:, :rank], exact[:, :rank], rtol=1e-6)
    noisy = w + 1e-3 * random.normal(size=w.shape)
    assert factors(noisy)[1].shape[-1] == 200


@pytest.mark.parametrize("k", [3, 5])
def test_products_of_pointwise_and_depthwise(k: int) -> None:
    w = normal(24, 12, 1, 1) * normal(1, 12, k, k, seed=1)
    after = rewritten("separate_depthwise", network(w))
    assert after.macs() == 162 * (12 * k * k + 24 * 12)
    assert [n.attrs["groups"] for n in after.operators] == [12, 1]


def test_two_filters_a_channel() -> None:
    w = np.einsum("ocj,cjrs->ocrs", normal(32, 6, 2), normal(6, 2, 5, 5, seed=1))
    after = rewritten("separate_depthwise", network(w))
    assert after["y.1"].type.shape[1] == 12


def test_depthwise_planes() -> None:
    planes = np.stack(
        [GAUSS, np.ones((5, 5)), np.outer([1, 2, 3, 2, 1], [0, 1, 2, 1, 0]), np.outer(range(5), range(5))]
    )
    after = rewritten("separate_kernels", network(planes[:, None], groups=4))
    assert [n.attrs["groups"] for n in after.operators] == [4, 4]
    assert after.macs() == 162 * 4 * 10
    # Seen by themselves, stacks of 3x3 take more: separate_kernels is named as the better way.
    assert "separate_kernels is faster" in refused("stack_conv5x5", network(planes[:, None], groups=4))
    forced = rewritten("stack_conv5x5", network(planes[:, None], groups=4), force=True)
    assert [n.type.shape[2] for n in forced.operators] == [11, 9] or len(forced.operators) == 2


def test_depthwise_planes_that_do_not_separate() -> None:
    planes = [stack((1, 1, 3, 3), (1, 1, 3, 3), seed=s)[0][0] for s in range(0, 40, 2)]
    after = rewritten("stack_conv5x5", network(np.stack(planes), groups=20, size=24, padding=(2,) * 4))
    assert [n.attrs["groups"] for n in after.operators] == [20, 20]
    assert sum(c.type.elements for c in after.constants if c.type.rank == 4) == 20 * 18


def test_depthwise_with_a_multiplier() -> None:
    w = np.einsum("kr,ks->krs", normal(6, 3), normal(6, 3, seed=1))[:, None]
    after = rewritten("separate_kernels", network(w, groups=3))
    assert [n.attrs["groups"] for n in after.operators] == [3, 6]


@pytest.mark.parametrize("name", ["bottleneck", "separate_kernels", "separate_depthwise"])
def test_groups(name: str) -> None:
    parts = {
        "bottleneck": lambda s: stack((3, 8, 1, 1), (3, 3, 3, 3), (8, 3, 1, 1), seed=s)[0],
        "separate_kernels": lambda s: stack((4, 8, 1, 3), (8, 4, 3, 1), seed=s)[0],
        "separate_depthwise": lambda s: normal(8, 8, 1, 1, seed=s) * normal(1, 8, 3, 3, seed=s + 1),
    }
    w = np.concatenate([parts[name](10 * g) for g in range(3)])
    rewritten(name, network(w, groups=3))


@pytest.mark.parametrize("name", ["separate_kernels", "separate_depthwise", "bottleneck"])
@pytest.mark.parametrize("k", [2, 3, 4, 7, 11])
def test_kernel_sizes(name: str, k: int) -> None:
    parts = {
        "bottleneck": lambda: stack((3, 8, 1, 1), (3, 3, k, k), (8, 3, 1, 1))[0],
        "separate_kernels": lambda: stack((2, 8, 1, k), (8, 2, k, 1))[0],
        "separate_depthwise": lambda: normal(16, 8, 1, 1) * normal(1, 8, k, k, seed=1),
    }
    rewritten(name, network(parts[name](), size=12))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(12))
def test_borders(name: str, seed: int) -> None:
    """Padding that differs on each side, stride and dilation that differ by axis."""
    random = np.random.default_rng(seed)
    kernels = {
        "bottleneck": lambda: stack((3, 9, 1, 1), (3, 3, 3, 3), (9, 3, 1, 1))[0],
        "separate_kernels": lambda: stack((2, 9, 1, 5), (9, 2, 3, 1))[0],
        "separate_depthwise": lambda: normal(16, 9, 1, 1) * normal(1, 9, 3, 5, seed=1),
        "stack_conv5x5": lambda: stack((3, 9, 3, 3), (9, 3, 3, 3))[0],
    }
    attrs = {
        "padding": tuple(int(p) for p in random.integers(0, 6, 4)),
        "stride": tuple(int(s) for s in random.integers(1, 4, 2)),
        "dilation": tuple(int(d) for d in random.integers(1, 3, 2)),
    }
    rewritten(name, network(kernels[name](), size=int(random.integers(9, 14)), **attrs), force=True)


def test_input_smaller_than_the_kernel() -> None:
    for shapes, name in (
        (((3, 9, 3, 3), (9, 3, 3, 3)), "stack_conv5x5"),
        (((2, 9, 1, 5), (9, 2, 5, 1)), "separate_kernels"),
    ):
        rewritten(name, network(stack(*shapes)[0], size=1, padding=(2,) * 4), force=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_whole_network_of_planted_kernels(dtype: type) -> None:
    """No budget, the default order of the passes: the multiply-adds of what it was made of, outputs to 1e-5."""
    kernels = {
        "five": stack((8, 16, 3, 3), (16, 8, 3, 3))[0],
        "seven": stack((4, 16, 3, 3), (4, 4, 3, 3), (16, 4, 3, 3), seed=3)[0],
        "outer": stack((4, 16, 1, 3), (16, 4, 3, 1), seed=6)[0],
        "pd": normal(16, 16, 1, 1, seed=8) * normal(1, 16, 3, 3, seed=9),
    }
    nodes = [graph_input("x", DType.F32, (1, 16, 12, 12))]
    value = nodes[0]
    for name, w in kernels.items():
        pad = w.shape[2] // 2
        # So that tanh is not saturated, where small errors of its input would be large ones of its output.
        w = w / np.sqrt((w**2).sum((1, 2, 3)).mean())
        weights = constant(f"{name}.w", w.astype(dtype).astype(np.float32))
        conv = make_node("conv2d", name, [value, weights], {"padding": (pad,) * 4})
        value = make_node("tanh", f"{name}.tanh", [conv])
        nodes += [weights, conv, value]
    graph = Graph.build("planted", nodes, [value.name])
    after, records = run_passes(graph, NAMES, cost=MacsOnly())
    assert_same_outputs(graph, after, Numerics.REASSOCIATES)
    assert [len(r.rewrites) for r in records] == [1, 2, 0, 1]
    weights = {c.name: c.type.shape for c in after.constants}
    assert (
        sum(int(np.prod(s)) for s in weights.values()) == 2 * 8 * 16 * 9 + (64 + 16 + 64) * 9 + 2 * 4 * 16 * 3 + 16 * 25
    )


# ---- counting ---------------------------------------------------------------------------------------------------


def counted(layers: list[Layer], k: int) -> tuple[float, float]:
    """Multiply-adds a place before and after, for a kernel of known factors on a field that the kernel just covers."""
    channels = layers[0].w.shape[1] * layers[0].groups
    w = composed(layers, channels, 1)
    graph = network(w, size=k, padding=(0, 0, 0, 0), epilogue=False)
    draft = Draft(graph)
    kernel = read_kernel(draft, draft["y"])
    assert not isinstance(kernel, Reject)
    candidate, _ = certify(draft, Context(), "counted", kernel, Chain(tuple(layers), ""))
    assert candidate.certificate["weight_error"] < 1e-6
    return float(w.size), float(sum(layer.w.size for layer in layers))


def depthwise_separable(channels: int, out: int, k: int) -> list[Layer]:
    return [Layer(normal(channels, 1, k, k), channels), Layer(normal(out, channels, 1, 1, seed=1))]


@pytest.mark.parametrize(
    ("layers", "k", "before", "after"),
    [
        (depthwise_separable(3, 4, 3), 3, 108, 39),
        (depthwise_separable(2, 3, 3), 3, 54, 24),
        ([Layer(normal(256, 256, 3, 3)), Layer(normal(512, 256, 3, 3, seed=1))], 5, 3_276_800, 1_769_472),
        ([Layer(normal(64, 256, 1, 1)), Layer(normal(64, 64, 3, 3)), Layer(normal(256, 64, 1, 1))], 3, 589_824, 69_632),
        ([Layer(SOBEL[1:2][None, None]), Layer(np.array([0.5, 1, 0.5])[None, None, :, None])], 3, 9, 6),
    ],
)
def test_counts(layers: list[Layer], k: int, before: int, after: int) -> None:
    assert counted(layers, k) == (before, after)


def test_sobel_and_the_depthwise_ratio() -> None:
    after = rewritten("separate_kernels", network(SOBEL[None, None], padding=(0, 0, 0, 0), epilogue=False))
    assert sum(c.type.elements for c in after.constants) == 6
    for out, k in ((4, 3), (3, 3), (64, 5)):
        graph = network(composed(depthwise_separable(4, out, k), 4, 1), epilogue=False)
        after = rewritten("separate_depthwise", graph)
        assert after.macs() / graph.macs() == pytest.approx(1 / out + 1 / k**2)


# ---- refusals ---------------------------------------------------------------------------------------------------

RANDOM = [(8, 8, 3), (64, 64, 3), (16, 32, 5), (24, 16, 5), (8, 8, 5), (12, 3, 7), (256, 256, 3), (16, 16, 7)]


@pytest.mark.parametrize(("out", "channels", "k"), RANDOM)
def test_random_dense_kernels_are_refused_with_what_was_measured(out: int, channels: int, k: int) -> None:
    graph = network(normal(out, channels, k, k), epilogue=False)
    for name in NAMES:
        if name != "stack_conv5x5" or k > 3:
            text = refused(name, graph, force=True)
            assert any(character.isdigit() for character in text.split("by")[-1])


def test_random_depthwise_planes_are_refused() -> None:
    graph = network(normal(16, 1, 5, 5), groups=16)
    refused("separate_kernels", graph, "its 5x5 planes are not separable: channel", "has rank 5, off rank 2 by 0.")
    refused("stack_conv5x5", graph, "is no product: the nearest found is off by 0.")
    assert not run("bottleneck", graph).refusals and not run("separate_depthwise", graph).refusals


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(bad: float) -> None:
    w = stack((2, 8, 1, 3), (8, 2, 3, 1))[0]
    w[3, 2, 1, 1] = bad
    for name in NAMES:
        refused(name, network(w), "%w, holds NaN or infinity")


def test_other_refusals() -> None:
    separable = stack((2, 8, 1, 3), (8, 2, 3, 1))[0]
    for name in NAMES:
        refused(name, network(np.zeros((8, 8, 3, 3))), "is zero everywhere")
    refused(
        "separate_kernels", network(separable, size=1), "no gain: ", "us predicted for 3x1 after 1x3", macs_only=False
    )
    refused("stack_conv5x5", network(normal(4, 4, 5, 3)), "5x3 is no odd square")
    x = graph_input("x", DType.F32, (1, 8, 5, 5))
    w = graph_input("w", DType.F32, (8, 8, 3, 3))
    computed = Graph.build("g", [x, w, make_node("conv2d", "y", [x, w])], ["y"])
    for name in NAMES:
        refused(name, computed, "w of %y, %w, is computed by input")


def test_almost_separable_is_not() -> None:
    """A change of 1e-4 of the largest weight is no rounding."""
    w = stack((2, 8, 1, 3), (8, 2, 3, 1))[0]
    refused("separate_kernels", network(w + 1e-4 * np.abs(w).max() * normal(*w.shape, seed=5)), "its rank")


# ---- surroundings -----------------------------------------------------------------------------------------------


def test_shared_weights_users_outputs_and_symbolic_sizes() -> None:
    w = constant("w", stack((2, 8, 1, 3), (8, 2, 3, 1))[0].astype(np.float32))
    from convc.dims import Dim

    x = graph_input("x", DType.F32, (Dim.symbol("N"), 8, Dim.symbol("H"), 12))
    first = make_node("conv2d", "first", [x, w], {"padding": (1, 1, 1, 1), "stride": (2, 1)})
    second = make_node("conv2d", "second", [first, w])
    total = make_node("mul", "total", [first, first])
    graph = Graph.build("g", [x, w, first, second, total], ["first", "second", "total"], {"N": 2, "H": 11})
    after = rewritten_twice(graph)
    assert [n.op for n in after.operators] == ["conv2d"] * 4 + ["mul"]
    assert after["first"].type == first.type and after["first"].source == first.source


def rewritten_twice(graph: Graph) -> Graph:
    result = run("separate_kernels", graph)
    assert [r.node for r in result.rewrites] == ["first", "second"]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)
    return result.graph


def test_prologue_goes_to_the_first_and_epilogue_to_the_last() -> None:
    from support import graph_of

    w, _ = stack((2, 8, 1, 3), (8, 2, 3, 1))
    text = graph_of(
        """
        %x = input : f32[1, 8, 6, 6]
        %r = input : f32[1, 8, 6, 6]
        %w = constant normal(seed=1) : f32[8, 8, 3, 3]
        %b = constant normal(seed=2) : f32[8]
        %s = constant normal(seed=3) : f32[8]
        %y = conv2d(%x, %w, %b, %r, %s, %b) {padding=[1, 1, 1, 1], prologue=relu, activation=tanh}
        return %y
        """
    )
    nodes = [constant("w", w.astype(np.float32)) if n.name == "w" else n for n in text.nodes]
    after = rewritten("separate_kernels", Graph.build("g", nodes, ["y"]))
    first, last = after.operators
    assert str(first.attrs["prologue"]) == "relu" and first.attrs["activation"] is None
    assert last.attrs["prologue"] is None and str(last.attrs["activation"]) == "tanh"
    assert last.inputs[2:] == ("b", "r") and first.inputs[4:] == ("s", "b")


@pytest.mark.parametrize(
    "coefficients",
    [
        [1, 4, 6, 4, 1],
        [0, 0, 1, 0, 0],
        [0, 1, 2, 3, 0],
        [1, 0, 0, 0, 1],
        [1, 2, 3, 4, 5, 6, 7],
        [-2, 0, 0, 0, 0],
        [1, -3, 2],
    ],
)
def test_real_polynomials_are_products_of_real_quadratics(coefficients: list[float]) -> None:
    product = np.ones(1)
    for factor in quadratics(np.array(coefficients, float)):
        assert factor.shape == (3,) and factor.dtype == np.float64
        product = np.convolve(product, factor)
    np.testing.assert_allclose(product, coefficients, atol=1e-12)


def test_large_kernels_without_structure_cost_little() -> None:
    graph = network(normal(512, 512, 3, 3), epilogue=False)
    for name in NAMES:
        start = time.process_time()
        run(name, graph)
        assert time.process_time() - start < 1.0
