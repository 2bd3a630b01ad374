"""The table of rewrites of the default pipeline on each network, as a golden file; `--update-golden` writes it anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest

from convc import zoo
from convc.backends.cpu.cost import CpuCost
from convc.backends.cpu.isa import ISAS
from convc.frontends.onnx import load_onnx
from convc.passes import run_passes

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "rewrites"
NETWORKS = [*zoo.ZOO, *sorted(path.stem for path in LIGHT.glob("light_*.onnx"))]
QUICK = {"dcgan", "digits", "effnet", "mobilenet_v1", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2", "squeezenet"}


def table(name: str) -> str:
    """A line for each pass that changed the network: rewrites by rule, operators, multiply-adds at nominal sizes."""
    graph = load_onnx(LIGHT / f"{name}.onnx") if name.startswith("light_") else zoo.build(name)
    result, records = run_passes(graph, "default", cost=CpuCost(ISAS["avx512"]))
    lines = [f"{name}: {len(graph.operators)} operators, {graph.macs()} MACs, {graph.parameters()} parameters"]
    for record in records:
        if record.changed:
            rules = Counter(rewrite.rule for rewrite in record.rewrites)
            counted = ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items()))
            lines.append(f"{record.index:3d} {record.name}: {counted}; {_sizes(record.ops_after, record.macs_after)}")
    operators = ", ".join(f"{op} {count}" for op, count in sorted(records[-1].ops_after.items()))
    return "\n".join([*lines, f"left: {operators}; {result.parameters()} parameters", ""])


def _sizes(operators: Mapping[str, int], macs: int) -> str:
    return f"{sum(operators.values())} operators, {macs} MACs"


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_rewrites(name: str, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / f"{name}.txt"
    found = table(name)
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert path.is_file(), f"{path} is missing: run with --update-golden"
    assert found == path.read_text(encoding="utf-8")
