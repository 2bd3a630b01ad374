"""Measured choices on disk: one JSON file for each machine and code generator, replaced as a whole."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convc.backends.store import Store


def choice_file(store: Store, *facts: str) -> Path:
    """The file for a machine and generator that `facts` name, beside the store's kernels."""
    return store.folder.parent / "choices" / f"{'-'.join(facts)}.json"


def read_choice_file(path: Path) -> Any:
    """What is in the file, to be looked at before it is used; nothing where there is none or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_choice_file(path: Path, choices: Mapping[str, list[int]]) -> None:
    """Replace the file, as a whole; a folder that cannot be written only costs measuring again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
            json.dump(choices, file, indent=0, sort_keys=True)
        os.replace(file.name, path)
    except OSError:
        return
