from __future__ import annotations

import pytest
from support import assert_refuses, assert_rewrites, assert_same_outputs, graph_of, run_pass

from convc.passes import PASSES, Numerics

PASS = PASSES["lower_channel_shuffle"]


def test_a_shuffle_is_a_gather() -> None:
    assert_rewrites(
        PASS,
        """
        %x = input : f32[2, 6, 3, 3]
        %y = channel_shuffle(%x) {groups=2}
        return %y
        """,
        """
        %x = input : f32[2, 6, 3, 3]
        %y.indices.1 = constant [0, 3, 1, 4, 2, 5]
        %y = gather(%x, %y.indices.1) {axis=1}
        return %y
        """.replace("5]\n", "5] : i64[6]\n"),
        rules=["lower_channel_shuffle"],
    )


@pytest.mark.parametrize("shape", ["2, 12, 5, 4", "1, 12, 1, 7", "N, 12, H, 3"])
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
def test_any_groups(shape: str, groups: int) -> None:
    graph = graph_of(f"%x = input : f32[{shape}] %y = channel_shuffle(%x) {{groups={groups}}} return %y")
    result = run_pass(PASS, graph)
    assert [node.op for node in result.graph.operators] == ["gather"]
    assert_same_outputs(graph, result.graph, Numerics.EXACT)


def test_a_symbolic_number_of_channels_stays() -> None:
    text = "%x = input : f32[2, C, 3, 3] %y = channel_shuffle(%x) {groups=1} return %y"
    assert_refuses(PASS, text, "y", "its number of channels, C, is not known")
