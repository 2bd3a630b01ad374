"""Every kernel of whole networks, compiled without a GPU: no spills, no float64, nothing unresolved."""

from __future__ import annotations

from functools import cache

import pytest
from cuda_support import lockstep_program

from convc.backends.cuda import compile as compiling
from convc.backends.cuda.lower import lower
from convc.backends.program import Program
from convc.compiler import optimise
from convc.errors import TargetError
from convc.model import Options
from convc.source import read_source

pytestmark = pytest.mark.skipif(
    compiling.missing() != "", reason=f"the cuda extra is not installed: {compiling.missing()} is missing"
)
NETWORKS = ("resnet50", "mobilenet_v2", "shufflenet_v1", "densenet121")
ARCHITECTURES = ("sm_80", "sm_90a")


@cache
def _made(source: str, arch: str) -> compiling.CompiledKernel:
    return compiling.compile_kernel(source, arch)


def assert_sound(kernels: dict[str, str], arch: str) -> None:
    """Compile them all; report every kernel that is not as it should be."""
    wrong = []
    for name, source in sorted(kernels.items()):
        made = _made(source, arch)
        if made.spills or made.stack or made.registers > 255:
            wrong.append(f"{name}: {made.registers} registers, {made.spills} bytes spilled, stack of {made.stack}")
        for text in (".f64", ".extern .func", ".local"):
            if text in made.ptx:
                wrong.append(f"{name}: {text} in its PTX")
    assert not wrong, "\n".join(wrong)


@cache
def program(network: str, precision: str, arch: str) -> Program:
    graph, _ = optimise(read_source(f"zoo:{network}"), Options(f"cuda:{arch}", precision=precision), "default")
    return lower(graph, precision, arch)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_kernels_of_the_digit_classifier(precision: str) -> None:
    kernels = dict(lockstep_program(read_source("zoo:digits"), precision, "default").kernels)
    assert_sound(kernels, "sm_90a")


def test_kernels_around_the_convolutions_of_a_large_network() -> None:
    kernels = {
        name: source
        for name, source in program("densenet121", "bfloat16", "sm_80").kernels.items()
        if "_conv" not in name or "partial" in name
    }
    assert len(kernels) > 5
    assert_sound(kernels, "sm_80")


@pytest.mark.parametrize(("precision", "arch"), [("float16", "sm_80"), ("float32", "sm_90a")])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_kernel_of_a_network(network: str, precision: str, arch: str) -> None:
    assert_sound(dict(program(network, precision, arch).kernels), arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16"])
def test_every_kernel_of_whole_networks(precision: str, arch: str) -> None:
    kernels: dict[str, str] = {}
    for network in NETWORKS:
        kernels |= program(network, precision, arch).kernels
    assert_sound(kernels, arch)


@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_tensor_cores_and_asynchronous_copies_are_used(precision: str) -> None:
    kernels = program("resnet50", precision, "sm_90a").kernels
    name = next(name for name in sorted(kernels) if "_conv1x1_" in name and "partial" not in name)
    try:
        sass = compiling.disassemble(compiling.compile_kernel(kernels[name], "sm_90a").cubin)
    except TargetError as error:
        pytest.skip(str(error))
    counts = compiling.opcodes(sass)
    for wanted in ("HMMA", "LDGSTS", "LDSM"):
        assert any(name.startswith(wanted) for name in counts), f"{name}: no {wanted} among {sorted(counts)}"
