"""The zoo's networks: sizes as published, activations in range, weights that stay the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest

from convc import zoo
from convc.dims import Dim
from convc.errors import InputError, ModelError
from convc.interp import run_graph, run_nodes
from convc.ir.graph import Graph


@dataclass(frozen=True)
class Published:
    """Parameters, and multiply-adds of one image in units of `unit`, both as `source` prints them."""

    parameters: int
    macs: float
    unit: float
    source: str


GIGA, MEGA = 1e9, 1e6
TORCHVISION = "torchvision, weights' meta: num_params and _ops"
PUBLISHED = {
    "alexnet": Published(61_100_840, 0.714, GIGA, TORCHVISION),
    "vgg16": Published(138_357_544, 15.470, GIGA, TORCHVISION),
    "vgg16_bn": Published(138_365_992, 15.470, GIGA, TORCHVISION),
    "googlenet": Published(6_624_904, 1.498, GIGA, TORCHVISION),
    "resnet18": Published(11_689_512, 1.814, GIGA, TORCHVISION),
    "resnet50": Published(25_557_032, 4.089, GIGA, TORCHVISION),
    "resnext50": Published(25_028_904, 4.230, GIGA, TORCHVISION),
    "densenet121": Published(7_978_856, 2.834, GIGA, TORCHVISION),
    "squeezenet1_0": Published(1_248_424, 0.819, GIGA, TORCHVISION),
    "squeezenet": Published(1_235_496, 0.349, GIGA, TORCHVISION),
    "mobilenet_v2": Published(3_504_872, 0.301, GIGA, TORCHVISION),
    "shufflenet_v2": Published(2_278_604, 0.145, GIGA, TORCHVISION),
    # 27,161,264 with the auxiliary classifier: convolution weights 128 x 768 and 768 x 128 x 25, BatchNormalization
    # 2 x (128 + 768), a linear layer of 769,000.
    "inception_v3": Published(27_161_264 - (98_304 + 2_457_600 + 1_792 + 769_000), 5.713, GIGA, TORCHVISION),
    "mobilenet_v1": Published(4_231_976, 569, MEGA, "Keras, trainable parameters; Howard et al. 2017, table 4"),
    "se_resnet50": Published(28_088_024, 4.1, GIGA, "timm, seresnet50"),
    "shufflenet_v1": Published(1_865_728, 137, MEGA, "Zhang et al. 2017, table 1, g = 3; parameters: see below"),
    "dcgan": Published(3_576_704, 104.6, MEGA, "pytorch/examples; multiply-adds: see below"),
}
SIDE = {"alexnet": 95, "vgg16": 64, "vgg16_bn": 64, "inception_v3": 139, "effnet": 32, "digits": 8}


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    return {}


def built(graphs: dict[str, Graph], name: str) -> Graph:
    """The graph, kept for other tests unless its weights are many."""
    graph = graphs.get(name) or zoo.build(name)
    if graph.parameters() < 50_000_000:
        graphs[name] = graph
    return graph


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(graphs: dict[str, Graph], name: str) -> None:
    graph, published = built(graphs, name), PUBLISHED[name]
    assert graph.parameters() == published.parameters, published.source
    digits = len(str(published.macs).partition(".")[2])
    assert round(graph.macs() / published.unit, digits) == published.macs, published.source


def test_exact_multiply_adds(graphs: dict[str, Graph]) -> None:
    """As fvcore and ptflops count convolutions and linear layers."""
    exact = {"resnet50": 4_089_184_256, "resnet18": 1_814_073_344, "mobilenet_v2": 300_774_272, "alexnet": 714_188_480}
    exact |= {"vgg16": 15_470_264_320, "densenet121": 2_834_161_664, "mobilenet_v1": 568_740_352}
    assert {name: built(graphs, name).macs() for name in exact} == exact


def test_shufflenet_v1_by_its_table(graphs: dict[str, Graph]) -> None:
    """Table 1 of the paper for g = 3, layer by layer: the paper gives no parameter count."""
    pixels, inputs, g = 28 * 28, 24, 3
    macs, parameters = 112 * 112 * 24 * 27, 24 * 27 + 2 * 24
    for stage, (outputs, repeat) in enumerate([(240, 4), (480, 8), (960, 4)]):
        middle = outputs // 4
        for unit in range(repeat):
            first = unit == 0
            area = pixels * (4 if first else 1)
            last = outputs - inputs if first else outputs
            reduce = inputs * middle // (1 if first and stage == 0 else g)
            macs += area * reduce + pixels * (9 * middle + middle * last // g)
            parameters += reduce + 9 * middle + middle * last // g + 2 * (2 * middle + last)
            inputs = outputs
        pixels //= 4
    graph = built(graphs, "shufflenet_v1")
    assert graph.parameters() == parameters + 960 * 1000 + 1000
    assert graph.macs() == macs + 960 * 1000


def test_generator_by_its_layers(graphs: dict[str, Graph]) -> None:
    """A transposed convolution multiplies each input pixel with the whole kernel of each output channel."""
    widths, sides = [100, 512, 256, 128, 64, 3], [1, 4, 8, 16, 32]
    macs = sum(side**2 * a * b * 16 for side, a, b in zip(sides, widths, widths[1:], strict=False))
    graph = built(graphs, "dcgan")
    assert graph.macs() == macs
    assert graph[graph.outputs[0].node].type.shape[1:] == (3, 64, 64)


def test_fcn_by_its_parts(graphs: dict[str, Graph]) -> None:
    """torchvision's 35,322,218 parameters and 152.717 G include an auxiliary head, but no upsampling."""
    auxiliary = 1024 * 256 * 9 + 2 * 256 + 256 * 21 + 21
    graph = built(graphs, "fcn")
    assert graph.parameters() == 35_322_218 - auxiliary + 21 * 16 * 16
    pixels = 65 * 65
    theirs = graph.macs(H=520, W=520) - 21 * 256 * pixels + (1024 * 256 * 9 + 256 * 21) * pixels
    assert round(theirs / 1e9, 3) == 152.717
    assert graph[graph.outputs[0].node].type.concrete({"N": 2, "H": 96, "W": 64}) == (2, 21, 96, 64)
    assert {n.attrs["dilation"] for n in graph.operators if n.op == "conv2d"} == {(1, 1), (2, 2), (4, 4)}


def test_xception_by_its_modules(graphs: dict[str, Graph]) -> None:
    """Figure 5 of the paper, at 299; parameters as Keras counts the trainable ones."""

    def separable(side: int, inputs: int, outputs: int) -> int:
        return side**2 * (9 * inputs + inputs * outputs)

    macs = 149**2 * 27 * 32 + 147**2 * 9 * 32 * 64
    for side, inputs, first, second in (
        (147, 64, 128, 128),
        (74, 128, 256, 256),
        (37, 256, 728, 728),
        (19, 728, 728, 1024),
    ):
        macs += separable(side, inputs, first) + separable(side, first, second)
        macs += ((side + 1) // 2) ** 2 * inputs * second
    macs += 8 * 3 * separable(19, 728, 728) + separable(10, 1024, 1536) + separable(10, 1536, 2048) + 2048 * 1000
    graph = built(graphs, "xception")
    assert graph.macs() == macs
    assert graph.parameters() == 22_855_952


def test_effnet_by_its_blocks(graphs: dict[str, Graph]) -> None:
    macs = parameters = 0
    area, inputs = 32 * 32, 3
    for width in (32, 64, 128):
        macs += area * (inputs * width + 3 * width) + area // 2 * 3 * width + area // 4 * 4 * width * width
        parameters += inputs * width + 6 * width + 4 * width * width + 2 * (3 * width + 2 * width)
        area, inputs = area // 4, 2 * width
    graph = built(graphs, "effnet")
    assert graph.macs() == macs + 4096 * 10
    assert graph.parameters() == parameters + 4096 * 10 + 10


FIXED = {"alexnet", "vgg16", "vgg16_bn", "effnet", "dcgan", "digits"}


def images(graph: Graph, side: int) -> dict[str, np.ndarray]:
    shape = graph.inputs[0].type.concrete({"N": 2, "H": side, "W": side})
    return {graph.inputs[0].name: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}


@pytest.mark.parametrize("name", [n for n in zoo.ZOO if n not in {"vgg16", "squeezenet1_0", "digits"}])
def test_activations_stay_in_range_at_every_depth(graphs: dict[str, Graph], name: str) -> None:
    side = SIDE.get(name, 96)
    graph = zoo.build(name, size=side) if name in FIXED & SIDE.keys() else built(graphs, name)
    values = run_nodes(graph, images(graph, side))
    for node in graph.operators:
        spread = float(values[node.name].std())
        assert 0.05 < spread < 20, f"{node}: standard deviation {spread}"
    first, second = values[graph.outputs[0].node]
    assert np.abs(first - second).max() > 0.02 * np.abs(first).max(), "two images, one answer"


@pytest.mark.parametrize("name", [n for n in zoo.ZOO if n != "vgg16_bn"])
def test_sizes_are_symbolic_where_the_network_allows(graphs: dict[str, Graph], name: str) -> None:
    graph = built(graphs, name)
    shape = graph.inputs[0].type.shape
    assert shape[0] == Dim.symbol("N")
    assert (shape[2:] == (Dim.symbol("H"), Dim.symbol("W"))) == (name not in FIXED)
    output = graph[graph.outputs[0].node].type
    assert output.shape[0] == Dim.symbol("N")
    if name not in {"fcn", "dcgan"}:
        assert output.shape == (Dim.symbol("N"), 10 if name in {"effnet", "digits"} else 1000)


def test_one_graph_runs_at_many_sizes() -> None:
    graph = zoo.build("shufflenet_v2")
    for n, h, w in ((1, 64, 64), (3, 33, 70)):
        x = np.random.default_rng(0).standard_normal((n, 3, h, w), dtype=np.float32)
        assert run_graph(graph, {"image": x})["logits"].shape == (n, 1000)


def test_weights_do_not_depend_on_sizes() -> None:
    free, fixed = zoo.build("resnet18"), zoo.build("resnet18", batch=4, size=(64, 96))
    assert fixed.inputs[0].type.shape == (4, 3, 64, 96)
    for name, array in free.weights().items():
        np.testing.assert_array_equal(array, fixed[name].array)


def test_seeds_give_other_weights() -> None:
    first, second = zoo.build("squeezenet", seed=0).weights(), zoo.build("squeezenet", seed=1).weights()
    assert not any(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["densenet121", "shufflenet_v1", "dcgan"])
def test_without_a_seed_there_are_types_and_no_data(name: str) -> None:
    seeded, bare = zoo.build(name), zoo.build(name, seed=None)
    assert [(node.name, node.type) for node in bare.nodes] == [(node.name, node.type) for node in seeded.nodes]
    assert (bare.macs(), bare.parameters()) == (seeded.macs(), seeded.parameters())
    assert len({node.value.digest for node in bare.constants if node.value is not None}) == len(bare.constants)
    inputs = {node.name: np.zeros(node.type.concrete(bare.nominal), np.float32) for node in bare.inputs}
    with pytest.raises(ModelError, match="has no data.*or a seed"):
        run_graph(bare, inputs)


def test_weights_are_pinned() -> None:
    """Drawn weights to the bit. Measured statistics by their sums: sums of products may round otherwise elsewhere."""
    graph = zoo.build("resnet18")

    def digest(name: str) -> str:
        return hashlib.sha256(graph[name].array.tobytes()).hexdigest()[:16]

    assert {name: digest(name) for name in ("conv1.weight", "layer4.1.conv2.weight", "bn1.weight", "fc.bias")} == {
        "conv1.weight": "37245acb3c01ca96",
        "layer4.1.conv2.weight": "db23d29ada9b18e6",
        "bn1.weight": "7d3e271acfebd9a2",
        "fc.bias": "51be8c60ff69252e",
    }
    assert float(graph["layer4.1.bn2.running_var"].array.sum()) == pytest.approx(322.3766, rel=1e-4)


def test_names_and_weights_are_those_of_torchvision(graphs: dict[str, Graph]) -> None:
    """A state dictionary loads as it is: some of its names and shapes, by heart."""
    some = {
        "resnet50": {"layer3.5.bn3.running_var": (1024,), "layer2.0.downsample.0.weight": (512, 256, 1, 1)},
        "mobilenet_v2": {"features.1.conv.0.0.weight": (32, 1, 3, 3), "features.17.conv.3.weight": (320,)},
        "densenet121": {
            "features.denseblock4.denselayer16.norm1.weight": (992,),
            "features.transition1.conv.weight": (128, 256, 1, 1),
        },
        "inception_v3": {
            "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
            "Mixed_6e.branch7x7dbl_2.bn.weight": (192,),
        },
        "googlenet": {"inception4e.branch2.1.conv.weight": (320, 160, 3, 3), "inception5b.branch4.1.bn.bias": (128,)},
        "squeezenet": {"features.12.expand3x3.weight": (256, 64, 3, 3), "classifier.1.weight": (1000, 512, 1, 1)},
        "vgg16": {"features.28.weight": (512, 512, 3, 3), "classifier.6.bias": (1000,)},
        "alexnet": {"features.10.weight": (256, 256, 3, 3), "classifier.1.weight": (4096, 9216)},
        "shufflenet_v2": {"stage2.0.branch1.2.weight": (58, 24, 1, 1), "stage4.3.branch2.6.running_mean": (232,)},
    }
    for network, expected in some.items():
        graph = built(graphs, network)
        assert {name: graph[name].type.shape for name in expected} == expected


def test_no_parameter_is_trivial(graphs: dict[str, Graph]) -> None:
    """Every gamma, beta, mean and variance varies, so that a wrong folding shows."""
    graph = built(graphs, "mobilenet_v2")
    for node in graph.operators:
        if node.op == "batch_norm":
            gamma, beta, mean, var = (graph[i].array for i in node.operands[1:])
            assert all(np.unique(a).size > 0.5 * a.size for a in (gamma, beta, mean, var)), node
            assert gamma.min() > 0 and var.min() > 0


def test_shuffles_are_written_as_exporters_write_them(graphs: dict[str, Graph]) -> None:
    for name, shuffles in (("shufflenet_v1", 16), ("shufflenet_v2", 16)):
        ops = [n.op for n in built(graphs, name).operators]
        assert ops.count("transpose") == shuffles and "channel_shuffle" not in ops


def test_options_and_mistakes() -> None:
    deeper = zoo.build("resnet18", classes=7)
    assert deeper[deeper.outputs[0].node].type.shape[1] == 7
    wide = zoo.build("googlenet", third_kernel=5)
    assert wide["inception3a.branch3.1.conv.weight"].type.shape == (32, 16, 5, 5)
    with pytest.raises(InputError, match=r"no network 'resnet51'.*it has alexnet"):
        zoo.build("resnet51")
    with pytest.raises(InputError, match=r"dcgan: size=32.*64"):
        zoo.build("dcgan", size=32)
