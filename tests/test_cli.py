"""The command line: in this process where that shows as much, in processes of its own where it does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from convc.cli import inputs, models, output
from convc.cli.main import VERBS, main
from convc.cli.output import in_options
from convc.cli.run import describe, top_classes, write_arrays
from convc.data import load_digits_train
from convc.errors import InputError
from convc.frontends.builder import Builder
from convc.interp import run_graph
from convc.source import read_source
from convc.tensors import write_tensors


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A little classifier of pictures as a textual file with its weights."""
    b = Builder("small", seed=1)
    x = b.input("x", ("N", 3, 16, 16), nominal={"N": 1})
    y = b.relu(b.batch_norm(b.conv(x, 8, kernel=3, name="stem"), name="norm"))
    graph = b.finish({"scores": b.linear(b.flatten(b.global_avg_pool(y)), 5, name="head")})
    path = tmp_path_factory.mktemp("small") / "small.txt"
    path.write_text(f"{graph}\n")
    path.with_suffix(".safetensors").write_bytes(b"".join(write_tensors(graph.weights())))
    return str(path)


def in_process_of_its_own(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "convc", *words], capture_output=True, text=True, timeout=120, check=False, **more
    )


# Use, errors, exit codes


def test_help_is_quick_and_lists_every_verb() -> None:
    took = []
    for _ in range(3):
        start = time.perf_counter()
        result = in_process_of_its_own("--help")
        took.append(time.perf_counter() - start)
    assert result.returncode == 0
    assert all(f"\n    {verb} " in result.stdout for verb in VERBS)
    assert min(took) < 0.3


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"usage: convc {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["", "nothing", "compile", "inspect nothing zoo:dcgan", "run x --threads 0"])
def test_wrong_use_ends_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert "usage: convc" in capsys.readouterr().err


def test_an_error_is_one_message_with_a_hint_and_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "nothing"]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("convc: the zoo has no network 'nothing'\nHint: it has alexnet, ")
    with pytest.raises(InputError):
        main(["zoo", "nothing", "--debug"])


@pytest.mark.parametrize(
    "words",
    ["compile {} -o {}", "compile {} --stop-after read -o {}", "inspect {} --html {}", "inspect {} --save-onnx {}"],
)
def test_a_model_is_not_written_over(
    words: str, small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, other = tmp_path / "net.onnx", tmp_path / "same.onnx"
    source.write_bytes(Path(small).read_bytes())
    other.symlink_to(source)
    for target in (source, other):
        assert main(words.format(source, target).split()) == 2
        assert f"{target} is the model that is read" in capsys.readouterr().err
    assert source.read_bytes() == Path(small).read_bytes()


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        (
            'fix the sizes, as in input_shapes={"x": (1, 3, 224, 224)}',
            "fix the sizes, as in --input-shape x:1x3x224x224",
        ),
        ('override it: input_shapes={"a b": (None, "N",)}', "override it: --input-shape a b:AxN"),
        (
            "resize the input, or compile with input_shapes=",
            "resize the input, or compile with --input-shape NAME:SIZES",
        ),
        ('give it a number, as in input_shapes={"x": ...}', "give it a number, as in --input-shape NAME:SIZES"),
        ("cast it, or use target='reference'", "cast it, or use --target reference"),
        ("check the exporter", "check the exporter"),
    ],
)
def test_hints_speak_of_options(hint: str, told: str) -> None:
    assert in_options(hint) == told


def test_the_hint_of_a_command_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx
    from onnx import TensorProto, helper

    port = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 0, 4, 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [port], [onnx.ValueInfoProto(name="y")])
    path = tmp_path / "relu.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString())
    assert main(["inspect", str(path)]) == 2
    hint = capsys.readouterr().err.splitlines()[1]
    assert hint.endswith("override it: --input-shape x:AxNxBxC")
    assert main(["inspect", str(path), *hint.split(": ")[-1].split()]) == 0


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("convc.zoo.build", lambda name, seed: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert main(["zoo", "dcgan"]) == 130
    assert capsys.readouterr().err == "convc: interrupted\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    ours, theirs = os.pipe()
    with subprocess.Popen([sys.executable, "-m", "convc", "passes"], stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        os.close(ours)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141


# Text


def test_control_characters_of_a_model_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert output.clean("a\x1b[31mb\u202ec\x07\u009b") == "a\\x1b[31mb\\u202ec\\x07\\x9b"
    assert output.clean("größe 数 [bold]\n") == "größe 数 [bold]\n"
    output.table(["name"], [["\x1b]0;title\x07"], ["two\nlines"]])
    assert capsys.readouterr().out == "name\n\\x1b]0;title\\x07\ntwo lines\n"


def test_tables_keep_to_100_columns_and_cut_or_wrap(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["name", ">count", "text"], [["n" * 200, 7, "word " * 40], ["m", 12345, ""]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[1].count("...") == 1 and "    7  word" in lines[1]
    assert lines[2].strip().startswith("word")
    assert lines[-1].split() == ["m", "12345"]


def test_figures_that_json_cannot_hold_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"a": [float("nan"), 1.5], "b": (float("inf"), "x")})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": [None, "x"]}


def test_units() -> None:
    assert [output.count(n) for n in (0, 4096, 123_456, 25_557_032, 4.1e9, 1e13)] == [
        "0", "4096", "123.5k", "25.56M", "4.10G", "10.00T"
    ]  # fmt: skip
    assert [output.size(n) for n in (12, 1500, 2e6, 3e9)] == ["12 B", "1.5 kB", "2.0 MB", "3.0 GB"]


def test_a_pipe_gets_no_colour_and_a_terminal_without_colour_neither(small: str) -> None:
    pty = pytest.importorskip("pty")
    piped = in_process_of_its_own("inspect", "model", small)
    assert "\x1b" not in piped.stdout and "stem" in piped.stdout
    ours, theirs = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm"}
    words = [sys.executable, "-m", "convc", "inspect", "model", small]
    subprocess.run(words, stdout=theirs, env=environment, timeout=60, check=True)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    assert "stem" in shown
    assert "\x1b[3" not in shown and "\x1b[9" not in shown


# Options


def test_shapes_of_inputs_are_read() -> None:
    assert models.parse_shapes(["x:1x3x224x224", "y:0:Nx7", "z:Max,3"]) == {
        "x": (1, 3, 224, 224), "y:0": ("N", 7), "z": ("Max", 3)
    }  # fmt: skip
    for wrong in ("1x3", "x:", ":1x3", "x:1x-3", "x:1x3.5"):
        with pytest.raises(InputError, match="--input-shape .* cannot be read. Hint: write"):
            models.parse_shapes([wrong])


def test_passes_are_a_pipeline_or_a_list() -> None:
    assert models.parse_passes(None) == "default"
    assert models.parse_passes("none") == "none"
    assert models.parse_passes("fuse_batchnorm, fold_padding") == ["fuse_batchnorm", "fold_padding"]


# Inputs


def model_with(*values: tuple[str, type[np.generic], tuple[int | str, ...]]) -> Any:
    made = [SimpleNamespace(name=n, dtype=np.dtype(d), shape=s) for n, d, s in values]
    return SimpleNamespace(inputs=made, graph=SimpleNamespace(nominal={"N": 1, "H": 4, "W": 6}))


PICTURE = ("x", np.float32, ("N", 3, "H", "W"))


def gather(model: Any, *words: str) -> dict[str, np.ndarray[Any, Any]]:
    import argparse

    parser = argparse.ArgumentParser()
    inputs.add_input_options(parser)
    models.add_compile_options(parser)
    return inputs.gather(model, parser.parse_args(list(words)))


def test_random_inputs_are_seeded_and_take_nominal_or_given_sizes() -> None:
    model = model_with(PICTURE, ("ids", np.int64, ("N",)))
    found = gather(model)
    assert found["x"].shape == (1, 3, 4, 6) and found["x"].dtype == np.float32
    assert found["ids"].dtype == np.int64 and set(found["ids"].tolist()) <= {0, 1}
    np.testing.assert_array_equal(found["x"], gather(model, "--input", "x=random")["x"])
    assert not np.array_equal(found["x"], gather(model, "--seed", "1")["x"])
    assert gather(model, "--input-shape", "x:2x3x8x8")["x"].shape == (2, 3, 8, 8)


def test_arrays_come_from_npy_and_npz(tmp_path: Path) -> None:
    x, ids = np.ones((1, 3, 4, 6), np.float32), np.array([3])
    np.save(tmp_path / "x=1.npy", x)
    np.savez(tmp_path / "both.npz", x=x, ids=ids)
    two = model_with(PICTURE, ("ids", np.int64, ("N",)))
    for words in ((f"{tmp_path}/both.npz",), (f"x={tmp_path}/x=1.npy", f"ids={tmp_path}/both.npz")):
        found = gather(two, *(w for word in words for w in ("--input", word)))
        np.testing.assert_array_equal(found["x"], x)
        np.testing.assert_array_equal(found["ids"], ids)
    np.testing.assert_array_equal(gather(model_with(PICTURE), "--input", f"{tmp_path}/x=1.npy")["x"], x)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "z=random"], "the model has no input z. Hint: its inputs are x, ids"),
        (["--input", "random"], "--input random does not say which input it is for. Hint: write x=FILE"),
        (["--input", "x=absent.npy"], "absent.npy does not exist"),
        (["--input", "x=absent.jpg"], "input x: absent.jpg does not exist"),
        (["--input", "x=absent.txt"], "input x: absent.txt is of no known kind. Hint: use .npy, .npz, .bmp"),
        (["--input", "absent.npz"], "absent.npz does not exist"),
        (["--input", "ids=absent.png"], "input ids: absent.png is an image, the input is 1"),
    ],
)
def test_inputs_that_do_not_fit_are_named(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gather(model_with(PICTURE, ("ids", np.int64, ("N",))), *words)


def test_objects_in_array_files_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([print], object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=np.array([print], object))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(InputError, match=f"cannot read .*{name}.* Hint: write it with numpy.save"):
            gather(model_with(PICTURE), "--input", f"x={tmp_path}/{name}")


def test_pictures_are_cropped_resized_and_scaled(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((8, 20, 3), np.uint8)
    pixels[:, :2], pixels[:, 2:18], pixels[:, 18:] = (255, 0, 0), (51, 102, 255), (0, 255, 0)
    image.fromarray(pixels).save(tmp_path / "wide.png")
    found = gather(model_with(PICTURE), "--input", f"{tmp_path}/wide.png")["x"]
    assert found.shape == (1, 3, 4, 6) and found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found[0, :, 1, 2], [0.2, 0.4, 1.0], atol=1e-6)
    np.testing.assert_allclose(found, np.broadcast_to(found[:, :, :1, :1], found.shape), atol=1e-6)
    words = ("--input", f"{tmp_path}/wide.png", "--mean", "0.2,0.4,0.5", "--std", "0.5")
    np.testing.assert_allclose(gather(model_with(PICTURE), *words)["x"][0, :, 1, 2], [0, 0, 1], atol=1e-6)
    batch = gather(model_with(PICTURE), *("--input", f"x={tmp_path}/wide.png") * 3)["x"]
    assert batch.shape == (3, 3, 4, 6)
    grey = gather(model_with(("x", np.uint8, (1, 1, 4, 4))), "--input", f"{tmp_path}/wide.png")["x"]
    assert grey.dtype == np.uint8 and grey.shape == (1, 1, 4, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--mean", "1,2"], "--mean has 2 figures. Hint: give 1 or 3"), (["--std", "0"], "--std holds 0")],
)
def test_figures_for_pictures_are_checked(tmp_path: Path, words: list[str], message: str) -> None:
    pytest.importorskip("PIL.Image").new("RGB", (8, 8)).save(tmp_path / "p.png")
    with pytest.raises(InputError, match=message):
        gather(model_with(PICTURE), "--input", f"{tmp_path}/p.png", *words)


def test_a_picture_without_pillow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match=r"needs Pillow. Hint: pip install 'convc\[image\]'"):
        gather(model_with(PICTURE), "--input", "p.png")


# Outputs


def test_the_largest_classes_come_first_and_ties_in_order() -> None:
    scores = np.array([[0.1, 0.7, 0.7, 0.0]], np.float32)
    found = top_classes(scores, 3, ["zero", "one"])[0]
    assert [(f["class"], f["label"]) for f in found] == [(1, "one"), (2, ""), (0, "zero")]
    assert top_classes(scores.reshape(1, 4, 1, 1), 9, [])[0][3]["class"] == 3
    with pytest.raises(InputError, match="--top needs an output of N x classes, found 1x4x2x2"):
        top_classes(np.zeros((1, 4, 2, 2)), 1, [])


def test_outputs_are_written_under_any_name(tmp_path: Path) -> None:
    arrays = {"file": np.arange(3), "a/b:0": np.zeros((2, 2), np.float32)}
    write_arrays(str(tmp_path / "y.npz"), arrays)
    with np.load(tmp_path / "y.npz") as found:
        assert set(found.files) == set(arrays)
        np.testing.assert_array_equal(found["file"], arrays["file"])
    write_arrays(str(tmp_path / "y.npy"), {"y": np.arange(3)})
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.arange(3))
    with pytest.raises(InputError, match="2 outputs do not fit in .*y.npy. Hint: use .npz"):
        write_arrays(str(tmp_path / "y.npy"), arrays)
    assert describe(np.zeros(0))["min"] is None


# Looking at networks


def test_layers_and_totals_agree_with_the_graph(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "model", small, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == sum(layer["parameters"] for layer in facts["layers"]) == 8 * 27 + 8 + 16 + 45
    assert facts["macs"] == sum(layer["macs"] for layer in facts["layers"]) == 8 * 27 * 256 + 40
    assert facts["layers"][0]["type"] == "f32[N, 8, 16, 16]" and facts["layers"][0]["shape"] == [1, 8, 16, 16]
    assert main(["inspect", "model", small, "--input-shape", "x:2x3x16x16"]) == 0
    assert "2x8x16x16" in capsys.readouterr().out


def test_the_textual_form_comes_out_whole(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "model", small, "--text"]) == 0
    assert capsys.readouterr().out == Path(small).read_text()


def test_pass_records_are_listed_with_reasons(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "passes", small, "--rewrites", "--refusals"]) == 0
    text = capsys.readouterr().out
    assert "fuse_batchnorm" in text and "%norm" in text
    assert main(["inspect", "passes", small, "--json", "--passes", "fuse_batchnorm"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [(r["name"], r["numerics"], len(r["rewrites"])) for r in records] == [("fuse_batchnorm", "reassociates", 1)]


def test_the_tables_of_passes_and_networks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    numerics = {one["name"]: one["numerics"] for one in listed["passes"]}
    assert numerics["fuse_batchnorm"] == "reassociates" and numerics["fold_padding"] == "exact"
    assert all(one["doc"] for one in listed["passes"])
    assert set(listed["pipelines"]) >= {"default", "none"}
    assert main(["zoo", "mobilenet_v2", "dcgan", "--json"]) == 0
    networks = json.loads(capsys.readouterr().out)
    assert networks[0]["parameters"] == 3_504_872 and networks[1]["name"] == "dcgan"


def test_a_graph_is_written_after_a_pass(small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", small, "--stop-after", "read"]) == 0
    assert capsys.readouterr().out == Path(small).read_text()
    dumps = tmp_path / "dumps"
    words = ["compile", small, "--stop-after", "fuse_batchnorm", "-o", f"{tmp_path}/g.txt", "--dump-dir", str(dumps)]
    assert main(words) == 0
    text = (tmp_path / "g.txt").read_text()
    assert "conv2d" in text and "batch_norm(" not in text and "relu(" in text
    assert any(path.name.endswith("fuse_batchnorm.diff") for path in dumps.iterdir())
    assert main(["compile", small, "--stop-after", "nothing"]) == 2
    assert "stop_after='nothing' is no pass of this pipeline" in capsys.readouterr().err


# End to end


@pytest.fixture(scope="module")
def compiled(small: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("compiled") / "small.convc")
    assert main(["compile", small, "-o", path, "--threads", "1"]) == 0
    return path


def test_compile_then_run_in_processes_of_their_own(small: str, tmp_path: Path) -> None:
    x = np.random.default_rng(3).standard_normal((2, 3, 16, 16), np.float32)
    np.save(tmp_path / "x.npy", x)
    made = in_process_of_its_own("compile", small, "-o", "small.convc", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    facts = json.loads(made.stdout)
    assert facts["output"] == "small.convc" and facts["bytes"] == (tmp_path / "small.convc").stat().st_size
    assert facts["steps"] > 0 and facts["kernels"] > 0 and facts["parameters"] == 8 * 27 + 8 + 45
    assert made.stderr == ""
    words = ("run", "small.convc", "--input", "x.npy", "--output", "y.npz", "--top", "2")
    found = in_process_of_its_own(*words, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "scores, image 1" in found.stdout and found.stderr == "convc: wrote y.npz\n"
    expected = run_graph(read_source(small), {"x": x})["scores"]
    with np.load(tmp_path / "y.npz") as arrays:
        np.testing.assert_allclose(arrays["scores"], expected, atol=1e-4 * np.abs(expected).max())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.convc", "x.npy", "y.npz"]


def test_a_compiled_file_keeps_its_account(compiled: str, small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "passes", compiled, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [len(r["rewrites"]) for r in records if r["name"] == "fuse_batchnorm"] == [1]
    assert main(["inspect", "model", compiled]) == 0
    assert "batch_norm" not in capsys.readouterr().out
    assert main(["inspect", "program", compiled, "--json"]) == 0
    program = json.loads(capsys.readouterr().out)
    read = [place for step in program["steps"] for place in step["inputs"]]
    assert {"value": "x", "place": "input", "offset": 0} in read
    assert main(["inspect", "kernels", compiled, "--json"]) == 0
    names = [kernel["name"] for kernel in json.loads(capsys.readouterr().out)]
    assert {step["kernel"] for step in program["steps"]} <= set(names)
    assert main(["inspect", "kernels", compiled, "--source", names[0]]) == 0
    assert f"def {names[0]}(" in capsys.readouterr().out


def test_what_does_not_fit_a_compiled_file_is_refused(compiled: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["run", compiled, "--passes", "none"], "compiled already\nHint: leave out --target and --passes"),
        (["compile", compiled, "-o", "again.convc"], "compiled already\nHint: give the model that it was made from"),
        (["inspect", "kernels", compiled, "--source", "nothing"], "the model has no kernel nothing\nHint: it has "),
        (["inspect", "model", compiled, "--input-shape", "x:1x3x8x8"], "Hint: leave out --input-shape"),
        (["run", compiled, "--output", "y.txt"], "neither .npy nor .npz"),
        (["run", compiled, "--labels", "absent.txt"], "cannot read --labels absent.txt"),
        (["run", compiled, "--input", "x=absent.npy"], "absent.npy does not exist"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err


def test_compile_without_a_place_for_the_result_says_so(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", small]) == 2
    assert capsys.readouterr().err == "convc: no output file is given\nHint: add -o NAME.convc\n"
    assert main(["compile", small, "-o", "/absent/folder/net.convc"]) == 2
    assert "cannot write /absent/folder/net.convc: No such file" in capsys.readouterr().err


def test_a_damaged_file_is_named_and_never_run(
    compiled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(Path(compiled).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.convc").write_bytes(data)
    assert main(["run", str(tmp_path / "bad.convc")]) == 2
    assert "the file is damaged or was edited" in capsys.readouterr().err


def test_an_interrupted_compilation_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "CONVC_CACHE_DIR": str(tmp_path / "store")}
    words = [sys.executable, "-m", "convc", "compile", "zoo:mobilenet_v2", "-o", str(tmp_path / "net.convc")]

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=listen) as process:
        end = time.monotonic() + 60
        while not list((tmp_path / "store").glob("kernels/*.o")) and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told == "convc: interrupted\n"
    assert [p.name for p in tmp_path.iterdir()] == ["store"]
    assert {p.suffix for p in (tmp_path / "store" / "kernels").iterdir()} == {".o"}


def test_the_demo_predicts_the_same_as_the_interpreter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["same_predictions"] == facts["images"] > 300
    assert facts["accuracy_compiled"] == facts["accuracy_interpreter"] > 0.97
    assert facts["largest_relative_error"] < 1e-4
    assert facts["after"]["operators"] < facts["before"]["operators"]
    assert set(facts["latency_us"]) == {"1", str(facts["images"])}


def test_the_store_is_shown_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path))
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "a.o").write_bytes(bytes(1500))
    (tmp_path / "kernels" / "mine.txt").write_bytes(b"")
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/kernels: 1 kernels, 1.5 kB\n"
    assert main(["cache", "--clear", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"folder": f"{tmp_path}/kernels", "kernels": 0, "bytes": 0, "removed": 1}
    assert [p.name for p in (tmp_path / "kernels").iterdir()] == ["mine.txt"]


def test_a_store_that_cannot_be_written_costs_one_warning(small: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {**os.environ, "CONVC_CACHE_DIR": str(tmp_path / "file" / "store")}
    found = in_process_of_its_own("run", small, "--input", "random", env=environment)
    assert found.returncode == 0 and "scores" in found.stdout
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("convc: warning: kernel store") and "Hint: " in found.stderr


def test_a_budget_is_spent_on_calibration_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "images.npy", load_digits_train()[:32])
    options = ["--budget", "0.03", "--calibration", f"image={tmp_path / 'images.npy'}"]
    assert main(["inspect", "passes", "zoo:digits", "--pass", "spend_budget", "--json", *options]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["rewrites"] and record["macs_after"] < record["macs_before"]
    assert main(["compile", "zoo:digits", "-o", str(tmp_path / "d.convc"), "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["macs"] == record["macs_after"]
    assert main(["check", str(tmp_path / "d.convc"), "--no-onnxruntime"]) == 0
    assert "the network after spend_budget, which approximates the one that was read" in capsys.readouterr().out
    assert main(["inspect", "passes", str(tmp_path / "d.convc"), *options]) == 2
    assert "leave out --target, --passes, --budget and --calibration" in capsys.readouterr().err
    assert main(["compile", "zoo:digits", "-o", str(tmp_path / "e.convc"), *options[2:]]) == 2
    assert "without a budget" in capsys.readouterr().err
    assert main(["inspect", "passes", "zoo:digits", "--pass", "spend_budget", *options[:2]]) == 0
    assert "--calibration X=FILE gives what the network will see" in capsys.readouterr().err


def test_calibration_is_given_for_every_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    b = Builder("two")
    x, y = b.input("x", ("N", 2)), b.input("y", ("N", 2))
    (tmp_path / "net.txt").write_text(f"{b.finish(b.add(x, y))}\n", "utf-8")
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    given = ["--budget", "0.1", "--calibration", f"x={tmp_path / 'x.npy'}"]
    assert main(["compile", str(tmp_path / "net.txt"), "-o", str(tmp_path / "net.convc"), *given]) == 2
    told = capsys.readouterr().err
    assert "--calibration gives nothing for input y" in told and "Hint: add --calibration y=FILE" in told


def test_force_rewrites_without_gain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    b = Builder("sobel")
    w = np.outer([1, 2, 1], [-1, 0, 1]).astype(np.float32)[None, None]
    (tmp_path / "net.txt").write_text(f"{b.finish(b.conv2d(b.input('x', (1, 1, 8, 8)), w))}\n", "utf-8")
    found = {}
    for force in ([], ["--force"]):
        assert main(["inspect", "passes", str(tmp_path / "net.txt"), "--json", *force]) == 0
        records = json.loads(capsys.readouterr().out)
        found[bool(force)] = next(r for r in records if r["name"] == "separate_kernels")["rewrites"]
    assert not found[False] and [one["node"] for one in found[True]]


def test_names_that_the_terminal_cannot_show_are_escaped(tmp_path: Path) -> None:
    b = Builder("größe")
    (tmp_path / "net.txt").write_text(f"{b.finish({'y': b.relu(b.input('x', (1, 2)), name='数')})}\n", "utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    found = in_process_of_its_own("inspect", "model", str(tmp_path / "net.txt"), env=environment)
    assert found.returncode == 0 and "gr\\xf6\\xdfe" in found.stdout and "\\u6570" in found.stdout


def test_the_environment_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["threads"] >= 1 and "portable" in facts["instruction_sets"]
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["store"] == str(Path(os.environ["CONVC_CACHE_DIR"]) / "kernels")
