"""PyTorch modules become graphs that compute the same. Skipped where torch is not installed."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import convc
from convc.errors import InputError, LimitError, ModelError
from convc.frontends.torch import is_module, load_torch
from convc.interp import run_graph
from convc.limits import Limits

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
nn = torch.nn
F = torch.nn.functional

TOLERANCE = {"reference": 1e-5, "cpu": 1e-4}
"""Of the largest output magnitude."""


class Function(nn.Module):  # type: ignore[misc]
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Function2(Function):
    def forward(self, x: Any, y: Any) -> Any:  # type: ignore[override]
        return self.function(x, y)


def shifted(x: Any) -> Any:
    """Channels moved by a row, as of temporal shift modules."""
    y = torch.zeros_like(x)
    y[:, :2, 1:] = x[:, :2, :-1]
    y[:, 2:, :-1] = x[:, 2:, 1:]
    y[:, :, :, 3] = 0.5
    return y


def written(x: Any) -> Any:
    """A place and a whole tensor written to."""
    y = x * 2
    y[:, -2] = x[:, 0]
    z = torch.empty_like(x)
    z[:] = y.mean(1, keepdim=True)
    return y + z


def module_of(what: Any) -> Any:
    """A module in evaluation mode with parameters that are not the initial ones; functions are wrapped."""
    if not isinstance(what, nn.Module):
        what = (Function if len(inspect.signature(what).parameters) == 1 else Function2)(what)
    for name, tensor in what.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape)
            tensor.copy_(noise + 0.5 if name.endswith("running_var") else tensor + 0.2 * noise)
    return what.eval()


def outputs_of(module: Any, inputs: Sequence[Any]) -> list[Any]:
    with torch.no_grad():
        found = module(*inputs)
    if isinstance(found, dict):
        found = list(found.values())
    return [t.numpy() for t in (found if isinstance(found, (list, tuple)) else [found])]


def assert_parity(what: Any, *shapes: tuple[int, ...], target: str, **options: Any) -> convc.CompiledModel:
    """The compiled module computes what torch does, at the example's batch and at another."""
    torch.manual_seed(0)
    module = module_of(what)
    model = convc.compile(module, example_inputs=[torch.randn(s) for s in shapes], target=target, **options)
    symbolic = model.inputs[0].shape[:1] == ("N",)
    for batch in (shapes[0][0], 3) if symbolic else (shapes[0][0],):
        inputs = [torch.randn((batch, *s[1:])) if symbolic else torch.randn(s) for s in shapes]
        expected = outputs_of(module, inputs)
        found = list(model.run({p.name: i.numpy() for p, i in zip(model.inputs, inputs, strict=True)}).values())
        for got, want in zip(found, expected, strict=True):
            assert got.shape == want.shape and got.dtype == want.dtype
            scale = float(np.max(np.abs(want), initial=1e-30))
            np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE[target] * scale)
    return model


IMAGE = (2, 4, 9, 8)
SIGNAL = (2, 4, 10)
TOKENS = (2, 6, 8)


def conv(**options: Any) -> Any:
    return nn.Conv2d(4, 8, **{"kernel_size": 3, **options})


MODULES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    # Convolutions.
    "conv2d": (lambda: conv(padding=1, stride=2), IMAGE),
    "conv2d_grouped": (lambda: conv(groups=2, bias=False), IMAGE),
    "conv2d_depthwise": (lambda: conv(groups=4, padding=(1, 0)), IMAGE),
    "conv2d_dilated": (lambda: conv(kernel_size=(3, 2), dilation=(2, 1)), IMAGE),
    "conv2d_same": (lambda: conv(kernel_size=(4, 3), padding="same"), IMAGE),
    "conv2d_valid": (lambda: conv(padding="valid"), IMAGE),
    "conv2d_reflect": (lambda: conv(padding=1, padding_mode="reflect"), IMAGE),
    "conv2d_replicate": (lambda: conv(padding=2, padding_mode="replicate"), IMAGE),
    "conv2d_circular": (lambda: conv(padding=1, padding_mode="circular"), IMAGE),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), SIGNAL),
    "conv1d_same": (lambda: nn.Conv1d(4, 6, 4, padding="same"), SIGNAL),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1), IMAGE),
    "conv_transpose2d_grouped": (
        lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2, dilation=2, bias=False), IMAGE),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, output_padding=1), SIGNAL),
    # Normalisations.
    "batch_norm2d": (lambda: nn.BatchNorm2d(4, eps=1e-3), IMAGE),
    "batch_norm1d": (lambda: nn.BatchNorm1d(8), (2, 8)),
    "batch_norm_plain": (lambda: nn.BatchNorm2d(4, affine=False), IMAGE),
    "group_norm": (lambda: nn.GroupNorm(2, 4), IMAGE),
    "group_norm_plain": (lambda: nn.GroupNorm(2, 4, affine=False), IMAGE),
    "layer_norm": (lambda: nn.LayerNorm(8), TOKENS),
    "layer_norm_of_planes": (lambda: nn.LayerNorm((9, 8), eps=1e-3), IMAGE),
    "layer_norm_plain": (lambda: nn.LayerNorm(8, elementwise_affine=False), TOKENS),
    "layer_norm_of_channels": (
        lambda: nn.Sequential(Function(lambda x: x.permute(0, 2, 3, 1)), nn.LayerNorm(4),
                              Function(lambda x: x.permute(0, 3, 1, 2))), IMAGE),
    "instance_norm": (lambda: nn.Sequential(conv(), nn.InstanceNorm2d(8, affine=True)), IMAGE),
    "instance_norm_plain": (lambda: nn.Sequential(conv(), nn.InstanceNorm2d(8)), IMAGE),
    "instance_norm_tracking": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), IMAGE),
    "local_response_norm": (lambda: nn.LocalResponseNorm(3, alpha=0.1), IMAGE),
    "normalize": (lambda: Function(lambda x: F.normalize(x, dim=1)), IMAGE),
    "weight_norm": (lambda: nn.utils.parametrizations.weight_norm(conv()), IMAGE),
    "spectral_norm": (lambda: nn.utils.parametrizations.spectral_norm(conv()), IMAGE),
    # Pooling.
    "max_pool2d": (lambda: nn.MaxPool2d(3, 2, 1), IMAGE),
    "max_pool2d_ceil": (lambda: nn.MaxPool2d((2, 3), 2, ceil_mode=True), IMAGE),
    "max_pool2d_dilated": (lambda: nn.MaxPool2d(2, 1, dilation=2), IMAGE),
    "max_pool1d": (lambda: nn.MaxPool1d(3, 2, 1), SIGNAL),
    "avg_pool2d": (lambda: nn.AvgPool2d(3, 2, 1), IMAGE),
    "avg_pool2d_excluding": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), IMAGE),
    "avg_pool2d_divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), IMAGE),
    "avg_pool1d": (lambda: nn.AvgPool1d(2), SIGNAL),
    "adaptive_avg_pool2d": (lambda: nn.AdaptiveAvgPool2d(1), IMAGE),
    "adaptive_avg_pool2d_dividing": (lambda: nn.AdaptiveAvgPool2d((3, 2)), IMAGE),
    "adaptive_avg_pool2d_overlapping": (lambda: nn.AdaptiveAvgPool2d((8, 7)), IMAGE),
    "adaptive_avg_pool2d_rows": (lambda: nn.AdaptiveAvgPool2d((1, None)), IMAGE),
    "adaptive_avg_pool1d": (lambda: nn.AdaptiveAvgPool1d(5), SIGNAL),
    "adaptive_max_pool2d": (lambda: nn.AdaptiveMaxPool2d((3, 4)), IMAGE),
    "adaptive_max_pool2d_whole": (lambda: nn.AdaptiveMaxPool2d(1), IMAGE),
    "adaptive_avg_pool2d_uneven": (lambda: nn.AdaptiveAvgPool2d((5, 3)), IMAGE),
    "adaptive_avg_pool2d_uneven_and_even": (lambda: nn.AdaptiveAvgPool2d((5, 4)), IMAGE),
    "adaptive_avg_pool2d_larger": (lambda: nn.AdaptiveAvgPool2d((12, 11)), IMAGE),
    "adaptive_avg_pool1d_uneven": (lambda: nn.AdaptiveAvgPool1d(4), SIGNAL),
    "adaptive_max_pool2d_uneven": (lambda: nn.AdaptiveMaxPool2d((5, 3)), IMAGE),
    # Products.
    "linear": (lambda: nn.Linear(8, 5), TOKENS),
    "addmm": (lambda: Function(lambda x: torch.addmm(torch.arange(4.0), x, torch.ones(8, 4) / 3, alpha=2)), (2, 8)),
    "matmul_constant": (lambda: Function(lambda x: x @ torch.linspace(-1, 1, 24).view(8, 3)), TOKENS),
    "bmm": (lambda: Function(lambda x: torch.bmm(x, x.transpose(1, 2))), TOKENS),
    "einsum": (lambda: Function(lambda x: torch.einsum("nij,nkj->nik", x, x)), TOKENS),
    "attention": (lambda: Function(lambda x: F.scaled_dot_product_attention(x, x, x)), TOKENS),
    "attention_causal": (lambda: Function(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)), TOKENS),
    # Shapes.
    "flatten": (lambda: nn.Flatten(), IMAGE),
    "flatten_planes": (lambda: nn.Flatten(2), IMAGE),
    "unflatten": (lambda: nn.Unflatten(1, (2, 2)), IMAGE),
    "view": (lambda: Function(lambda x: x.view(x.size(0), -1)), IMAGE),
    "view_by_size": (lambda: Function(lambda x: x.reshape(x.shape[0] * x.shape[1], x.shape[2] * 8)), IMAGE),
    "permute": (lambda: Function(lambda x: x.permute(0, 2, 3, 1)), IMAGE),
    "transpose": (lambda: Function(lambda x: x.transpose(1, -1)), IMAGE),
    "cat": (lambda: Function(lambda x: torch.cat([x, x * 2], 1)), IMAGE),
    "stack": (lambda: Function(lambda x: torch.stack([x, x + 1], 2)), IMAGE),
    "chunk": (lambda: Function(lambda x: x.chunk(2, 1)), IMAGE),
    "split": (lambda: Function(lambda x: x.split((1, 3), 1)[1]), IMAGE),
    "split_evenly": (lambda: Function(lambda x: torch.cat(x.split(3, 1)[::-1], 1)), IMAGE),
    "unbind": (lambda: Function(lambda x: x.unbind(1)[2]), IMAGE),
    "slice": (lambda: Function(lambda x: x[:, 1:-1, ::2, 3:]), IMAGE),
    "select": (lambda: Function(lambda x: x[:, -1]), IMAGE),
    "index": (lambda: Function(lambda x: x[:, torch.tensor([2, 0, 1])]), IMAGE),
    "index_two_axes": (
        lambda: Function(lambda x: x[:, :, torch.tensor([[0], [-1], [3]]), torch.tensor([5, 0])]), IMAGE),
    "unfold": (lambda: Function(lambda x: x.unfold(2, 4, 2).unfold(3, 3, 5)), IMAGE),
    "im2col": (lambda: nn.Unfold((3, 2), dilation=(1, 2), padding=(2, 1), stride=(2, 3)), IMAGE),
    "im2col_without_batch": (lambda: Function(lambda x: F.unfold(x[0], 3)), IMAGE),
    "col2im": (
        lambda: nn.Sequential(
            nn.Unfold((3, 2), (1, 2), (2, 1), (2, 3)), nn.Fold((9, 8), (3, 2), (1, 2), (2, 1), (2, 3))), IMAGE),
    "col2im_without_batch": (lambda: Function(lambda x: F.fold(x[0, :, 0], (3, 5), (2, 2))), (1, 8, 2, 8)),
    "cumsum": (lambda: Function(lambda x: x.cumsum(1) + (x > 0).cumsum(2, dtype=torch.float32)), IMAGE),
    "write_to_slices": (lambda: Function(shifted), IMAGE),
    "write_to_a_place": (lambda: Function(written), IMAGE),
    "flip": (lambda: Function(lambda x: x.flip(3)), IMAGE),
    "flip_no_axis": (lambda: Function(lambda x: x.flip(()) + 1), IMAGE),
    "squeeze_no_axis": (lambda: Function(lambda x: x.mean(1, keepdim=True).squeeze(()) + 1), IMAGE),
    "round_decimals": (
        lambda: Function(lambda x: torch.round(x, decimals=2) + torch.round(300 * x, decimals=-2)), IMAGE
    ),
    "rsub_alpha": (lambda: Function(lambda x: torch.rsub(x, x.flip(1), alpha=3) + torch.rsub(x, 2, alpha=-0.5)), IMAGE),
    "softplus_threshold": (lambda: nn.Softplus(3.0, 0.2), IMAGE),
    "roll": (lambda: Function(lambda x: torch.roll(x, (1, -2), (2, 3))), IMAGE),
    "repeat": (lambda: Function(lambda x: x.repeat(1, 2, 1, 1)), IMAGE),
    "expand": (lambda: Function(lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1) + x), IMAGE),
    "squeeze": (lambda: Function(lambda x: x.mean((2, 3), keepdim=True).squeeze(3).squeeze(2).unsqueeze(1)), IMAGE),
    "pad": (lambda: Function(lambda x: F.pad(x, (1, 0, 2, -1), value=0.5)), IMAGE),
    "pad_reflect": (lambda: nn.ReflectionPad2d((1, 2, 0, 1)), IMAGE),
    "pad_replicate": (lambda: nn.ReplicationPad2d(2), IMAGE),
    "pad_zero": (lambda: nn.ZeroPad2d(1), IMAGE),
    "pixel_shuffle": (lambda: nn.PixelShuffle(2), IMAGE),
    "pixel_unshuffle": (lambda: nn.PixelUnshuffle(2), (2, 3, 4, 8)),
    "channel_shuffle": (lambda: nn.ChannelShuffle(2), IMAGE),
    "channel_shuffle_by_hand": (
        lambda: Function(lambda x: x.view(x.shape[0], 2, 2, 9, 8).transpose(1, 2).reshape(x.shape)), IMAGE),
    # Reductions.
    "mean": (lambda: Function(lambda x: x.mean((2, 3))), IMAGE),
    "mean_of_channels": (lambda: Function(lambda x: x.mean(1, keepdim=True)), IMAGE),
    "sum": (lambda: Function(lambda x: x.sum(-1)), IMAGE),
    "amax": (lambda: Function(lambda x: x.amax((1, 2))), IMAGE),
    "max": (lambda: Function(lambda x: x.max(1)[0]), IMAGE),
    "argmax": (lambda: Function(lambda x: x.argmax(1)), IMAGE),
    "std": (lambda: Function(lambda x: x.std((2, 3), keepdim=True)), IMAGE),
    "norm": (lambda: Function(lambda x: x.norm(dim=1)), IMAGE),
    "batch_norm_of_batch": (lambda: nn.BatchNorm2d(4, track_running_stats=False), IMAGE),
    "batch_norm_of_batch_plain": (lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False), IMAGE),
    "softmax": (lambda: nn.Softmax(1), IMAGE),
    "log_softmax": (lambda: nn.LogSoftmax(-1), IMAGE),
    # Arithmetic.
    "scalars": (lambda: Function(lambda x: (2 - x * 3 + 1) / 4), IMAGE),
    "powers": (lambda: Function(lambda x: x**2 + x.abs() ** 1.5 + torch.rsqrt(x.abs() + 1)), IMAGE),
    "alpha": (lambda: Function(lambda x: torch.add(x, x.relu(), alpha=0.5)), IMAGE),
    "in_place": (lambda: Function(lambda x: x.mul(2).add_(1).relu_().clamp_(max=2)), IMAGE),
    "where": (lambda: Function(lambda x: torch.where(x > 0.3, x, x * 0.1)), IMAGE),
    "masks": (lambda: Function(lambda x: x.masked_fill((x > 0) & ~(x >= 1), -1.0)), IMAGE),
    "integers": (lambda: Function(lambda x: x + torch.arange(8) + (x > 0)), IMAGE),
    "maximum": (lambda: Function(lambda x: torch.maximum(x, x.flip(1)) - torch.minimum(x, -x)), IMAGE),
    "clamp": (lambda: Function(lambda x: x.clamp(-0.5, 1.5) + x.clamp(min=0.0)), IMAGE),
    "divide_and_floor": (lambda: Function(lambda x: torch.div(x, 0.7, rounding_mode="floor")), IMAGE),
    "functions": (lambda: Function(lambda x: x.exp() + x.abs().sqrt() + x.sin() + x.cos() + x.erf() - x.ceil()), IMAGE),
    "dropout": (lambda: nn.Sequential(nn.Dropout(0.3), nn.Dropout2d(0.3), nn.ReLU()), IMAGE),
    "zeros": (lambda: Function(lambda x: torch.cat([x, x.new_zeros(x.shape[0], 1, 9, 8), torch.ones_like(x)], 1)),
              IMAGE),
}  # fmt: skip

ACTIVATIONS: dict[str, Any] = {
    "relu": nn.ReLU(), "relu6": nn.ReLU6(), "hardtanh": nn.Hardtanh(-0.3, 0.7), "leaky_relu": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(4), "prelu_one": nn.PReLU(), "rrelu": nn.RReLU(), "elu": nn.ELU(0.7), "selu": nn.SELU(),
    "celu": nn.CELU(0.6), "sigmoid": nn.Sigmoid(), "hardsigmoid": nn.Hardsigmoid(), "hardswish": nn.Hardswish(),
    "silu": nn.SiLU(), "tanh": nn.Tanh(), "softplus": nn.Softplus(), "softplus_beta": nn.Softplus(2.0, 10.0),
    "softsign": nn.Softsign(), "mish": nn.Mish(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"),
    "logsigmoid": nn.LogSigmoid(), "hardshrink": nn.Hardshrink(), "softshrink": nn.Softshrink(),
    "tanhshrink": nn.Tanhshrink(), "threshold": nn.Threshold(0.2, -1.0), "glu": nn.GLU(1),
}  # fmt: skip
MODULES |= {f"activation_{name}": (lambda m=module: m, IMAGE) for name, module in ACTIVATIONS.items()}

RESIZES: dict[str, dict[str, Any]] = {
    "nearest": {"scale_factor": 2}, "nearest_fraction": {"scale_factor": 1.7}, "nearest_size": {"size": (5, 13)},
    "nearest_exact": {"size": (6, 11), "mode": "nearest-exact"}, "bilinear": {"scale_factor": 2.0, "mode": "bilinear"},
    "bilinear_size": {"size": (5, 13), "mode": "bilinear"},
    "bilinear_corners": {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
    "bilinear_recomputed": {"scale_factor": 1.7, "mode": "bilinear", "recompute_scale_factor": True},
    "bilinear_fraction": {"scale_factor": 1.7, "mode": "bilinear"}, "bicubic": {"scale_factor": 2, "mode": "bicubic"},
    "bicubic_corners": {"size": (20, 7), "mode": "bicubic", "align_corners": True},
    "bilinear_smooth": {"size": (5, 4), "mode": "bilinear", "antialias": True},
    "bicubic_smooth": {"size": (4, 5), "mode": "bicubic", "antialias": True},
}  # fmt: skip
MODULES |= {
    f"interpolate_{name}": (lambda o=options: Function(lambda x: F.interpolate(x, **o)), IMAGE)
    for name, options in RESIZES.items()
}
MODULES["interpolate_linear"] = (lambda: Function(lambda x: F.interpolate(x, scale_factor=2, mode="linear")), SIGNAL)


@pytest.mark.parametrize("target", ["reference", "cpu"])
@pytest.mark.parametrize("name", MODULES)
def test_operators_compute_what_torch_does(name: str, target: str) -> None:
    make, shape = MODULES[name]
    assert_parity(copy.deepcopy(make()), shape, target=target)


# Pieces of published networks, written as torchvision writes them.


class BasicBlock(nn.Module):  # type: ignore[misc]
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride > 1
            else None
        )

    def forward(self, x: Any) -> Any:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 16, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layer1(x)), 1))


class InvertedResidual(nn.Module):  # type: ignore[misc]
    """MobileNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6(inplace=True),
            nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24), nn.ReLU6(inplace=True),
            nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return x + self.conv(x)


class ShuffleUnit(nn.Module):  # type: ignore[misc]
    """ShuffleNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.branch2 = nn.Sequential(
            nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        x1, x2 = x.chunk(2, dim=1)
        x = torch.cat((x1, self.branch2(x2)), dim=1)
        batch, channels, height, width = x.size()
        x = torch.transpose(x.view(batch, 2, channels // 2, height, width), 1, 2).contiguous()
        return x.view(batch, channels, height, width)


class SqueezeExcitation(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(16, 4, 1)
        self.fc2 = nn.Conv2d(4, 16, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Any) -> Any:
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x


class UNet(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
        self.middle = nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.out = nn.Conv2d(24, 2, 3, padding=1)

    def forward(self, x: Any) -> dict[str, Any]:
        skip = self.down(x)
        y = F.relu(self.middle(F.max_pool2d(skip, 2)))
        other = F.interpolate(y, size=skip.shape[-2:], mode="bilinear", align_corners=False)[:, :8]
        return {"out": self.out(torch.cat([skip, self.up(y), other], 1)), "aux": y}


def generator() -> Any:
    """DCGAN."""
    return nn.Sequential(
        nn.ConvTranspose2d(20, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
        nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip


class Encoder(nn.Module):  # type: ignore[misc]
    """Vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16))
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 16))

    def forward(self, x: Any) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return (x + self.mlp(x))[:, 0]


NETWORKS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "resnet": (ResNet, (1, 3, 40, 48)),
    "mobilenet_v2": (InvertedResidual, (2, 8, 12, 10)),
    "shufflenet_v2": (ShuffleUnit, (2, 16, 6, 6)),
    "squeeze_excitation": (SqueezeExcitation, (2, 16, 7, 7)),
    "unet": (UNet, (2, 3, 16, 16)),
    "dcgan": (generator, (2, 20, 1, 1)),
    "vision_transformer": (Encoder, (2, 3, 16, 16)),
}


@pytest.mark.parametrize("passes", ["default", "none"])
@pytest.mark.parametrize("target", ["reference", "cpu"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_what_torch_does(name: str, target: str, passes: str) -> None:
    make, shape = NETWORKS[name]
    assert_parity(make(), shape, target=target, passes=passes)


# Names, memory, sizes.


def read(what: Any, *shapes: tuple[int, ...], **options: Any) -> Any:
    return load_torch(module_of(what), [torch.zeros(s) for s in shapes], **options)


def test_nodes_are_named_after_modules_and_parameters() -> None:
    graph = read(ResNet(), (1, 3, 32, 32))
    assert graph.name == "ResNet"
    assert [n.name.replace("flatten", "view") for n in graph.operators] == [
        "conv1", "bn1", "relu", "maxpool",
        "layer1.0.conv1", "layer1.0.bn1", "layer1.0.relu", "layer1.0.conv2", "layer1.0.bn2", "layer1.0.add",
        "layer1.0.relu_1",
        "layer1.1.downsample.0", "layer1.1.downsample.1",
        "layer1.1.conv1", "layer1.1.bn1", "layer1.1.relu", "layer1.1.conv2", "layer1.1.bn2", "layer1.1.add",
        "layer1.1.relu_1", "avgpool", "view", "fc",
    ]  # fmt: skip
    assert {n.name for n in graph.constants} == {k for k in ResNet().state_dict() if "num_batches" not in k}
    assert graph["layer1.0.conv2"].source == ("layer1.0.conv2",)
    assert [o.name for o in graph.outputs] == ["output"]
    assert graph.parameters() == sum(p.numel() for p in ResNet().parameters())


def test_parameters_share_the_memory_of_the_module() -> None:
    module = module_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5)))
    graph = load_torch(module, (torch.zeros(1, 3, 4, 4),))
    for name, tensor in module.state_dict().items():
        assert np.shares_memory(graph[name].array, tensor.numpy()), name
        assert not graph[name].array.flags.writeable


def test_the_module_is_left_as_it_was() -> None:
    module = module_of(ResNet())
    module.layer1[0].conv1.weight.requires_grad_(False)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    flags = [(p.requires_grad, p.data_ptr(), p.grad) for p in module.parameters()]
    attributes = {path: set(vars(part)) for path, part in module.named_modules()}
    x = torch.randn(1, 3, 32, 32)
    copied = x.clone()
    convc.compile(module, example_inputs=(x,), target="reference")
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert flags == [(p.requires_grad, p.data_ptr(), p.grad) for p in module.parameters()]
    assert attributes == {path: set(vars(part)) for path, part in module.named_modules()}
    assert not any(part.training for part in module.modules()) and torch.is_grad_enabled()
    assert torch.equal(x, copied)


def test_tied_parameters_are_one_constant() -> None:
    class Tied(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x: Any) -> Any:
            return self.b(self.a(x))

    graph = read(Tied(), (2, 4))
    assert graph["a"].input("w") == graph["b"].input("w")


def test_several_inputs_and_outputs_have_names() -> None:
    graph = read(lambda x, y: (x + y, [x - y]), (2, 3), (2, 3))
    assert [n.name for n in graph.inputs] == ["x", "y"]
    assert [o.name for o in graph.outputs] == ["output_0", "output_1_0"]
    assert [str(n.type) for n in graph.inputs] == ["f32[N, 3]", "f32[N, 3]"]
    assert [o.name for o in read(UNet(), (1, 3, 8, 8)).outputs] == ["out", "aux"]


def test_arguments_behind_a_star() -> None:
    class Sum(nn.Module):  # type: ignore[misc]
        def forward(self, *parts: Any) -> Any:
            return sum(parts)

    graph = read(Sum(), (2, 3), (2, 3))
    assert [n.name for n in graph.inputs] == ["parts_0", "parts_1"]
    found = run_graph(graph, {"parts_0": np.ones((3, 3), np.float32), "parts_1": np.ones((3, 3), np.float32)})
    assert found["output"].tolist() == [[2, 2, 2]] * 3


def test_an_input_that_is_an_output_and_one_that_is_not_used() -> None:
    graph = read(lambda x, y: (y, y * 0 + 1), (2, 3), (2, 3))
    assert [n.name for n in graph.inputs] == ["x", "y"]
    y = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = convc.compile(graph)(np.zeros((2, 3), np.float32), y)
    np.testing.assert_array_equal(found[0], y)


def test_axis_0_is_symbolic_and_image_sizes_where_asked() -> None:
    assert str(read(ResNet(), (1, 3, 32, 32)).inputs[0].type) == "f32[N, 3, 32, 32]"
    assert read(ResNet(), (4, 3, 32, 32)).nominal == {"N": 4}
    shapes = {"x": (None, 3, None, None)}
    assert str(read(ResNet(), (4, 3, 32, 32), input_shapes=shapes).inputs[0].type) == "f32[4, 3, 32, 32]"
    fixed = read(ResNet(), (4, 3, 32, 32), input_shapes={"x": (2, 3, 48, 64)})
    assert [str(n.type) for n in (fixed["conv1"], fixed["fc"])] == ["f32[2, 8, 24, 32]", "f32[2, 10]"]


def test_image_sizes_may_be_symbolic() -> None:
    if not hasattr(torch.export.Dim, "DYNAMIC"):
        pytest.skip("this version of torch takes image sizes only with bounds")
    torch.manual_seed(0)
    module = module_of(ResNet())
    shapes = {"x": ("B", None, "H", "W")}
    model = convc.compile(module, example_inputs=(torch.zeros(1, 3, 32, 32),), input_shapes=shapes, target="reference")
    assert model.inputs[0].shape == ("B", 3, "H", "W")
    for shape in ((2, 3, 33, 47), (1, 3, 64, 32)):
        x = torch.randn(shape)
        want = outputs_of(module, [x])[0]
        np.testing.assert_allclose(model(x.numpy()), want, rtol=0, atol=1e-5 * np.max(np.abs(want)))


# Refusals.


class Branch(nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return x + 1 if x.shape[-1] > 5 else x


@pytest.mark.parametrize(
    ("what", "shape", "message"),
    [
        (nn.Sequential(nn.ReLU()), (2, 3), "Sequential: it is in training mode. Hint: call .eval"),
        (nn.Conv2d(3, 4, 1).double().eval(), (2, 3, 4, 4), "parameter weight is float64, expected float32. Hint: call"),
        (nn.Conv2d(3, 4, 1).half().eval(), (2, 3, 4, 4), "parameter weight is float16, expected float32"),
        (Function(lambda x: F.grid_sample(x, x[..., :2])).eval(), (2, 2, 4, 4), "not supported: aten.grid_sampler"),
        (Function(lambda x: x + torch.rand(3)).eval(), (2, 3), r"not supported: aten.rand.default \(rand\)"),
        (Function(lambda x: F.dropout(x)).eval(), (2, 3), "dropout"),
        (Function(lambda x: x.cummax(1)[0] + x.cumprod(1)).eval(), (3, 3), "aten.cummax.*aten.cumprod"),
        (Function(lambda x: x.view(2, 6)).eval(), (2, 2, 3), r"cannot trace Function: .*Hint: .*input_shapes"),
        (Function(lambda x: x if x.sum() > 0 else -x).eval(), (2, 3), "cannot trace Function: .*Hint"),
        (Function(lambda x: x[torch.tensor([0]), :, torch.tensor([1])]).eval(), (2, 3, 4),
         "indexing by a mask, or by several computed"),
        (nn.Conv3d(3, 4, 1).eval(), (2, 3, 4, 4, 4), "a convolution over 3 axes is not supported"),
        (Function(lambda x: x.to(torch.complex64)).eval(), (2, 3), "complex64"),
        (nn.MaxPool2d(2, return_indices=True).eval(), (1, 3, 4, 4), "output_1 is no value but what comes with one"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_is_named(what: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        convc.compile(what, example_inputs=(torch.zeros(shape),), target="reference")


def test_the_part_in_training_mode_is_named() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Dropout())).eval()
    module[1][0].train()
    with pytest.raises(ModelError, match="its part 1.0 is in training mode"):
        load_torch(module, (torch.zeros(1, 3, 4, 4),))


def test_another_path_for_other_sizes_is_refused() -> None:
    with pytest.raises(ModelError, match="Branch"):
        read(Branch(), (2, 8), input_shapes={"x": ("N", "W")})
    assert len(read(Branch(), (2, 8)).operators) == 1


def test_batches_of_two_inputs_must_agree() -> None:
    module = module_of(lambda x, y: x.mean(0) + y)
    with pytest.raises(InputError, match="N is 2 at axis 0 of x and 3 at axis 0 of y"):
        load_torch(module, (torch.zeros(2, 4), torch.zeros(3, 4)))
    graph = load_torch(module, (torch.zeros(2, 4), torch.zeros(3, 4)), input_shapes={"x": ("M", 4)})
    assert [str(n.type) for n in graph.inputs] == ["f32[M, 4]", "f32[N, 4]"]


@pytest.mark.parametrize(
    ("examples", "shapes", "message"),
    [
        (None, None, "Identity needs example_inputs"),
        ([1], None, "example input input is a int, expected a tensor"),
        ((1, 2), None, "2 example_inputs do not fit Identity.forward"),
        ("x", {"y": (1,)}, "input_shapes names y, which is no input. Hint: inputs are input"),
        ("x", {"input": (1,)}, r"gives input the shape \(1,\), expected 2 sizes as in \[2, 3\]"),
        ("x", {"input": (0, 3)}, "axis 0 of input as 0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(examples: Any, shapes: Any, message: str) -> None:
    given = (torch.zeros(2, 3),) if examples == "x" else examples
    with pytest.raises(InputError, match=message):
        convc.compile(nn.Identity().eval(), example_inputs=given, input_shapes=shapes)


def test_limits_hold() -> None:
    with pytest.raises(LimitError, match="limits.macs=10"):
        read(nn.Conv2d(3, 4, 1), (1, 3, 4, 4), limits=Limits(macs=10))
    with pytest.raises(LimitError, match="limits.tensor_bytes"):
        read(lambda x: x + torch.ones(1000, 3), (1, 1, 3), limits=Limits(tensor_bytes=1000))


def test_modules_are_told_without_importing_torch() -> None:
    assert is_module(nn.ReLU()) and is_module(ResNet())
    assert not is_module(torch.zeros(1)) and not is_module(math) and not is_module(nn.ReLU)
