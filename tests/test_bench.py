"""`convc bench`: what takes part, what is told and kept, and the exit codes for CI. Times are set where they decide."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measure_support import small_graph, write_small

from convc.cli import bench, bench_files, models
from convc.cli.main import main
from convc.errors import InputError
from convc.interp import run_graph
from convc.measure.timing import Budget

QUICK = ("--no-start", "--threads", "1", "-n", "3", "--warmup", "1")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_small(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def slow_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused takes 1 ms, unfused 2 ms, all else 3 ms, whatever runs."""
    seconds = {"fused": 0.001, "": 0.001, "unfused": 0.002}

    def race(contestants: Mapping[str, Callable[[], object]], budget: Budget, **more: Any) -> dict[str, list[float]]:
        for run in contestants.values():
            run()
        return {name: [seconds.get(name, 0.003)] * 4 for name in contestants}

    monkeypatch.setattr("convc.measure.bench.race", race)


def found_by(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["bench", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_fused_against_unfused_with_accuracy_and_the_environment(
    small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = found_by(capsys, small, *QUICK, "--percentile", "50,99.9")
    one = found["comparisons"][0]
    assert list(one["results"]) == ["fused", "unfused"] and one["shapes"] == {"x": [1, 3, 16, 16]}
    for result in one["results"].values():
        assert result["figures"]["runs"] == 3 and list(result["figures"]["percentiles"]) == ["50", "99.9"]
        assert 0 < result["figures"]["min"] <= result["figures"]["median"]
        assert result["error"] < 1e-5 and result["memory"]["arena"] > 0 and result["memory"]["code"] > 0
    assert one["results"]["fused"]["steps"] < one["results"]["unfused"]["steps"]
    fused, unfused = (one["results"][name]["figures"]["median"] for name in ("fused", "unfused"))
    assert one["ratios"]["unfused"] == pytest.approx(unfused / fused)
    assert found["target"].startswith("cpu:") and found["environment"]["threads"] >= 1
    assert found["start"] == [] and found["profile"] is None and found["ablation"] is None


def test_tables_keep_to_100_columns(
    small: str, slow_engine: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("convc.measure.profile.limit_of", lambda program: 1e11)
    assert main(["bench", small, *QUICK, "--ablate", "--profile"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    for part in (
        "1 thread, x 1x3x16x16",
        "fused is 2.00 times as fast as unfused",
        "P99",
        "images/s",
        "of activations",
    ):
        assert part in text
    assert "with one pass left out; all passes take 1 ms:" in text and "fuse_epilogue" in text
    assert "slowest" in text and "norm by fuse_batchnorm" in text and "numpy" in text


def test_batches_sizes_and_threads_are_all_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from convc.frontends.builder import Builder

    b = Builder("fixed")
    x = b.input("x", (2, 3, "H", "W"), nominal={"H": 8, "W": 8})
    (tmp_path / "net.txt").write_text(f"{b.finish({'y': b.relu(x)})}\n")
    words = ("--target", "reference", "--no-start", "-n", "1", "--batch", "1,2", "--sizes", "8,4x6", "--threads", "1,2")
    found = found_by(capsys, str(tmp_path / "net.txt"), *words)["comparisons"]
    assert [(one["threads"], one["shapes"]["x"]) for one in found] == [
        (threads, [batch, 3, *size]) for threads in (1, 2) for batch in (1, 2) for size in ([8, 8], [4, 6])
    ]
    assert [one["items"] for one in found] == [1, 1, 2, 2] * 2


def test_batch_follows_the_first_input_and_sizes_are_those_of_images() -> None:
    shapes = {"x": (4, 3, 8, 8), "mask": (4, 5), "table": (7, 5)}
    assert bench.resized(shapes, 2, (6, 5)) == {"x": (2, 3, 6, 5), "mask": (2, 5), "table": (7, 5)}
    assert bench.image_sizes("224,320x240") == ((224, 224), (320, 240))


def test_shapes_inputs_and_outputs_go_in_and_out(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(5).standard_normal((2, 3, 16, 16), np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    out, times = str(tmp_path / "y.npy"), str(tmp_path / "times.csv")
    words = ("--load-inputs", str(tmp_path / "x.npz"), "--save-outputs", out, "--export-times", times)
    found = found_by(capsys, small, *QUICK, *words, "--no-unfused", "--no-accuracy")
    assert found["comparisons"][0]["items"] == 2 and found["comparisons"][0]["results"]["fused"]["error"] is None
    expected = run_graph(small_graph(), {"x": x})["scores"]
    np.testing.assert_allclose(np.load(out), expected, atol=1e-4 * np.abs(expected).max())
    lines = Path(times).read_text().splitlines()
    assert lines[0] == "configuration,network,run,seconds" and len(lines) == 4
    assert lines[1].startswith('"1 thread, x 2x3x16x16",fused,0,')
    assert main(["bench", small, *QUICK, "--shapes", "x:3x3x16x16", "--export-times", str(tmp_path / "t.json")]) == 0
    kept = json.loads((tmp_path / "t.json").read_text())
    assert kept[0]["shapes"] == {"x": [3, 3, 16, 16]} and len(kept[0]["seconds"]["unfused"]) == 3


def test_one_pass_is_left_out_at_a_time(small: str, slow_engine: None, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--ablate",
        "--no-unfused",
        "--target",
        "reference",
        "--passes",
        "fuse_batchnorm,fold_padding,fuse_epilogue",
    )
    found = found_by(capsys, small, *QUICK, *words)["ablation"]
    rows = {one["name"]: one for one in found["passes"]}
    assert found["median"] == 0.001 and list(rows) == ["fuse_batchnorm", "fold_padding", "fuse_epilogue"]
    assert rows["fuse_epilogue"]["ratio"] == pytest.approx(3) and rows["fuse_epilogue"]["rewrites"] == 1
    assert rows["fold_padding"]["ratio"] is None and rows["fold_padding"]["reason"] == "rewrites nothing here"


def test_assertions_end_with_1(
    small: str, slow_engine: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = (small, *QUICK, "--target", "reference", "--no-accuracy")
    found = found_by(capsys, *quick, "--assert-faster-than", "unfused")
    assert found["assertions"] == [{"what": "fused is 2.00 times as fast as unfused, 1 thread, x 1x3x16x16",
                                    "holds": True, "ratio": 2.0}]  # fmt: skip
    path = tmp_path / "baseline.json"
    for before, code in ((0.001, 0), (0.00099, 0), (0.0009, 1)):
        found["comparisons"][0]["results"]["fused"]["figures"]["median"] = before
        path.write_text(json.dumps(found))
        assert main(["bench", *quick, "--assert-within", "5%", str(path)]) == code
        assert ("assertion failed: fused takes 1.111 times" in capsys.readouterr().err) == bool(code)
    found["comparisons"][0]["threads"] = 9
    path.write_text(json.dumps(found))
    assert main(["bench", *quick, "--assert-within", "5%", str(path)]) == 2
    assert "holds no figure for 1 thread, x 1x3x16x16" in capsys.readouterr().err


def test_other_engines_take_part_where_they_are_installed(
    small: str, slow_engine: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    known = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name in {"openvino", "ncnn"} else known(name))
    words = ("bench", small, *QUICK, "--target", "reference", "--against", "onnxruntime,openvino,ncnn", "--json")
    assert main([*words, "--assert-faster-than", "onnxruntime"]) == 0
    told = capsys.readouterr()
    one = json.loads(told.out)["comparisons"][0]
    assert list(one["results"]) == ["fused", "unfused", "onnxruntime"] and one["results"]["onnxruntime"]["error"] < 1e-5
    assert one["absent"] == {name: f"{name} is not installed (pip install {name})" for name in ("openvino", "ncnn")}
    assert "convc: openvino is left out: openvino is not installed (pip install openvino)" in told.err
    assert main([*words, "--assert-faster-than", "openvino"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--against tvm", "--against names tvm, which is no engine\nHint: use onnxruntime, openvino, ncnn, torch"),
        ("--assert-faster-than torch", "--assert-faster-than torch: it does not take part\nHint: add --against torch"),
        ("--assert-faster-than 1.0", "--assert-faster-than 1.0: that is no contestant\nHint: name unfused, or one of"),
        ("--assert-faster-than unfused --no-unfused", "unfused: it does not take part"),
        ("--assert-within 5 x.json", "--assert-within 5 is no share\nHint: write --assert-within 5% baseline.json"),
        ("--assert-within 5% absent.json", "cannot read --assert-within absent.json"),
        ("--export-times t.txt", "--export-times t.txt is neither .csv nor .json"),
        ("--save-outputs y.txt", "--save-outputs y.txt is neither .npy nor .npz"),
        ("--input x=x.npy --batch 2", "--input comes with its own sizes"),
    ],
)
def test_options_that_do_not_go_together(
    small: str, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", small, "--target", "reference", *QUICK, *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_compiled_file_runs_alone(small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "small.convc")
    assert main(["compile", small, "-o", path, "--threads", "1"]) == 0
    capsys.readouterr()
    one = found_by(capsys, path, *QUICK, "--batch", "2")["comparisons"][0]
    assert list(one["results"]) == ["fused"] and one["items"] == 2 and one["results"]["fused"]["error"] < 1e-5
    assert main(["bench", path, *QUICK]) == 0
    assert "give what it was made from to compare with unfused" in capsys.readouterr().err
    for words in (["--ablate"], ["--passes", "none"]):
        assert main(["bench", path, *QUICK, *words]) == 2
        assert "is compiled already" in capsys.readouterr().err


def test_a_picture_is_drawn_or_what_is_missing_told(
    small: str, slow_engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", small, *QUICK, "--target", "reference", "--no-accuracy", "--plot"]
    with monkeypatch.context() as patch:
        for name in ("matplotlib", "matplotlib.backends.backend_agg", "matplotlib.figure"):
            patch.setitem(__import__("sys").modules, name, None)
        assert main([*words, str(tmp_path / "out.png")]) == 2
    assert "--plot needs matplotlib\nHint: pip install 'convc[bench]'" in capsys.readouterr().err
    pytest.importorskip("matplotlib")
    assert main([*words, str(tmp_path / "out.png")]) == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert main([*words, str(tmp_path / "out.xyz")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_an_interrupt_leaves_no_file(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("convc.measure.bench.race", interrupt)
    assert main(["bench", small, *QUICK, "--target", "reference", "--export-times", str(tmp_path / "t.csv")]) == 130
    assert not list(tmp_path.iterdir()) and capsys.readouterr().err.endswith("convc: interrupted\n")


def test_numbers_are_read_strictly() -> None:
    assert models.positives("1,8") == (1, 8) and bench.percentiles("50,99.9") == (50.0, 99.9)
    for read, text in ((models.positives, "1,0"), (bench.percentiles, "101"), (bench.positive_float, "0")):
        with pytest.raises(ValueError):
            read(text)
    for text in ("5", "x%", "-1%"):
        with pytest.raises(InputError, match="is no share"):
            bench_files.tolerance(text)


def test_what_other_programs_use_is_told() -> None:
    from convc.measure.environment import Others

    others = Others()
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:
        pass
    alone = others.processors()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        others = Others()
        time.sleep(1.0)
        beside = others.processors()
        process.kill()
    assert beside > 0.4 and (alone < beside or alone > 0.5)  # this process itself does not count; others may be at work
