"""One self-contained page: the template with style, script and data inside. Nothing is loaded from elsewhere.

Texts from a model are data only: they stand in one JSON element in which no `<` is left, and the script shows them as
text. A content security policy lets nothing run but the script of this page, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from convc.files import atomic_write
from convc.report.collect import collect

if TYPE_CHECKING:
    from convc.measure.profile import Profile
    from convc.model import CompiledModel

SCRIPTS = ("base.js", "canvas.js", "graph.js", "details.js", "passes.js", "charts.js", "app.js", "main.js")


def write_report(model: CompiledModel, path: str | Path, *, profile: Profile | None = None) -> None:
    """Write the report of a model, whole or not at all. Raises InputError where the file cannot be written."""
    page = render(model, profile)
    with atomic_write(os.fspath(path)) as file:
        file.write(page.encode("utf-8"))


def render(model: CompiledModel, profile: Profile | None = None) -> str:
    """The page as text."""
    folder = files("convc.report")
    script = '"use strict";\n' + "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    style = (folder / "page.css").read_text("utf-8")
    parts = {
        "POLICY": f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}",
        "TITLE": html.escape(f"{model.graph.name} - convc report"),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": embed(collect(model, profile)),
    }
    pieces = (folder / "page.html").read_text("utf-8").split("@@")
    return "".join(parts[piece] if index % 2 else piece for index, piece in enumerate(pieces))


def embed(value: object) -> str:
    """JSON that may stand inside a script element: ASCII, without `<`, `>` or `&`."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}'"
