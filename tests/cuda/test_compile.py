"""Machine code without a GPU: registers, spills, instructions, for an A100 and an H100; the store; what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kernel_support import needs_compiler

from convc.backends.cuda import choice, compile, conv, depthwise, winograd
from convc.backends.cuda.build import GENERATOR_FILES, build_cubins, kernel_key
from convc.backends.cuda.epilogue import emit_reduce
from convc.backends.cuda.spec import ConvSpec, DepthwiseSpec, Epilogue, Tile
from convc.backends.store import Store
from convc.errors import TargetError

ARCHITECTURES = ("sm_80", "sm_90a")
TENSOR = Tile(128, 128, 32, 64, 32, 3)


def end(math: str, **more: object) -> Epilogue:
    return Epilogue(**{"output": math, **more})  # type: ignore[arg-type]


CONVOLUTIONS = {
    "tf32": ConvSpec("tf32", TENSOR, epilogue=end("tf32", activation="relu")),
    "tf32 pointwise": ConvSpec("tf32", TENSOR, False, epilogue=end("tf32", activation="clip", residual=True)),
    "tf32 part": ConvSpec("tf32", Tile(64, 32, 32, 32, 16, 4), partial=True),
    "f16": ConvSpec("f16", Tile(128, 64, 64, 32, 32, 3), epilogue=end("f16", activation="silu", residual=True)),
    "bf16 groups": ConvSpec("bf16", Tile(64, 64, 64, 32, 32, 4), epilogue=end("bf16", lanes=True)),
    "f32": ConvSpec("f32", Tile(64, 64, 32, 32, 32, 3), epilogue=end("f32", activation="gelu")),
    "f32 transposed": ConvSpec("f32", Tile(32, 32, 32, 16, 16, 3), scatter=True, epilogue=end("f32", residual=True)),
}
MULTIPLY = {"tf32": "HMMA.1688.F32.TF32", "f16": "HMMA.16816.F32", "bf16": "HMMA.16816.F32.BF16", "f32": "FFMA"}
OTHERS = {
    "reduce": emit_reduce("tf32", end("tf32", activation="relu", residual=True)),
    "winograd spread": winograd.emit_spread(),
    "winograd gather": winograd.emit_gather(end("f32", activation="relu", residual=True)),
    "depthwise f32": depthwise.emit(DepthwiseSpec("f32", (3, 3), (1, 1), epilogue=end("f32", activation="clip"))),
    "depthwise f16": depthwise.emit(
        DepthwiseSpec("f16", (5, 5), (2, 2), columns=2, epilogue=end("f16", activation="hard_swish"))
    ),
}


def sound(source: str, arch: str) -> dict[str, int]:
    """Opcodes of a kernel that neither spills, nor computes in float64, nor calls what is not there."""
    kernel = compile.compile_kernel(source, arch)
    assert kernel.spills == 0 and kernel.stack == 0 and 0 < kernel.registers <= 255
    assert ".f64" not in kernel.ptx and ".extern .func" not in kernel.ptx
    try:
        text = compile.disassemble(kernel.cubin)
    except TargetError as error:
        pytest.skip(str(error))
    found = compile.opcodes(text)
    assert not {name.partition(".")[0] for name in found} & {"DADD", "DMUL", "DFMA", "LDL", "STL"}
    assert all("`(.L_" in line for line in text.splitlines() if " CALL" in line)  # only jumps within the kernel
    return found


@needs_compiler
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_use_the_instructions_they_should(name: str, arch: str) -> None:
    spec = CONVOLUTIONS[name]
    found = sound(conv.emit(spec, arch)[1], arch)
    tile = spec.tile
    assert found[MULTIPLY[spec.math]] >= tile.wm * tile.wn * tile.bk // {"f32": 8 * 32, "tf32": 1024}.get(
        spec.math, 2048
    )
    assert any(opcode.startswith("LDGSTS") and opcode.endswith("128") for opcode in found)
    if spec.math != "f32":
        assert found["LDSM.16.M88.4"] == (tile.wm + tile.wn) // 16 * tile.bk * (4 if spec.math == "tf32" else 2) // 32
    if not spec.partial:
        assert found["LDG.E.128"] > 0 or not spec.epilogue.bias
    assert spec.epilogue.lanes or found["STG.E.128"] > 0


@needs_compiler
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", OTHERS)
def test_other_kernels(name: str, arch: str) -> None:
    found = sound(OTHERS[name][1], arch)
    assert found["LDG.E.128"] > 0 and found["STG.E.128"] > 0


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("math", choice.CANDIDATES)
def test_no_candidate_spills(math: str, arch: str) -> None:
    spec = ConvSpec(math, TENSOR, epilogue=end(math, activation="relu", residual=True))  # type: ignore[arg-type]
    tiles = choice.CANDIDATES[math]
    assert [one.spec.tile for one in choice.survivors(spec, tiles, arch)] == list(tiles)


@needs_compiler
def test_registers_are_bounded_so_that_the_blocks_that_fit_do_fit() -> None:
    spec = CONVOLUTIONS["tf32"]
    bounded = compile.compile_kernel(conv.emit(spec)[1], "sm_90a")
    assert conv.resident(spec, choice.machine("sm_90a")) == 2 and bounded.registers <= 128 and bounded.spills == 0


@needs_compiler
def test_a_candidate_is_examined() -> None:
    tiles = [Tile(32, 32, 32, 16, 16, 4), Tile(64, 64, 32, 32, 32, 12)]
    kept = choice.survivors(CONVOLUTIONS["tf32"], tiles, "sm_80")
    assert [one.spec.tile for one in kept] == tiles[:1]  # the other's ring is larger than shared memory
    assert kept[0].blocks >= 4 and kept[0].registers < 128


@needs_compiler
def test_cubins_are_kept_and_found_without_numba(tmp_path: Path) -> None:
    store, source = Store(tmp_path), dict([OTHERS["reduce"]])
    made, compiled = build_cubins(source, "sm_80", store)
    assert compiled == 1
    again, compiled = build_cubins(source, "sm_80", store)
    assert compiled == 0 and {n: k.cubin for n, k in again.items()} == {n: k.cubin for n, k in made.items()}
    code = (
        "import sys; from pathlib import Path; from convc.backends.cuda.build import build_cubins\n"
        "from convc.backends.cuda.epilogue import emit_reduce; from convc.backends.cuda.spec import Epilogue\n"
        "from convc.backends.store import Store\n"
        "end = Epilogue(residual=True, activation='relu', output='tf32')\n"
        f"print(build_cubins(dict([emit_reduce('tf32', end)]), 'sm_80', Store(Path({str(tmp_path)!r})))[1])\n"
        "print([m for m in ('numba', 'numba_cuda', 'llvmlite', 'cuda') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["0", "[]"], done.stderr


def test_the_key_knows_source_name_and_architecture() -> None:
    keys = {kernel_key(n, s, a) for n in ("f", "g") for s in ("def f(): pass", "def f(): 1") for a in ARCHITECTURES}
    assert len(keys) == 8
    for name in GENERATOR_FILES:
        assert (Path(compile.__file__).parent / name).is_file()


@needs_compiler
def test_ptx_that_the_assembler_refuses_is_one_clear_line() -> None:
    with pytest.raises(TargetError, match=r"PTX for sm_80 was refused: .*Hint"):
        compile.assemble(".version 8.0\n.target sm_80\n.address_size 64\nbroken\n", "sm_80")


def test_what_is_missing_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile, "missing", lambda: "numba-cuda")
    with pytest.raises(
        TargetError, match=r"needs numba-cuda, which is not installed\. Hint: pip install 'convc\[cuda\]'"
    ):
        compile.require()


@pytest.mark.parametrize("arch", ["", "sm_9", "compute_90", "sm_90b"])
def test_an_unknown_architecture_is_refused(arch: str) -> None:
    with pytest.raises(TargetError, match="unknown CUDA architecture .*Hint: use one of sm_80"):
        compile.capability(arch)


def test_a_kept_kernel_that_is_none_is_refused() -> None:
    for data in (b"", b"{}\n", b'{"registers": 1, "spills": 0, "stack": 0, "shared": 0}\nno code'):
        with pytest.raises(TargetError, match="a kept kernel"):
            compile.CompiledKernel.from_bytes(data)
