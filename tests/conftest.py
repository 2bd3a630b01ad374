"""Options and fixtures for all tests."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")
    parser.addoption("--update-golden", action="store_true", help="write golden files anew from what is found")


def pytest_configure(config: pytest.Config) -> None:
    """One kernel store a run: workers of pytest-xdist inherit the variable, so each kernel is compiled once."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="convc-tests-")
        os.environ["CONVC_CACHE_DIR"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow") or "slow" in config.getoption("-m"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
