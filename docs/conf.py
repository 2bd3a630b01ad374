"""The site: Markdown pages, generated pages, and the API from docstrings. `make docs` builds it into build/docs/."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import convc

project = "convc"
author = "the authors of convc"
version = release = convc.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["README.md", "**/README.md"]
myst_heading_anchors = 3
highlight_language = "text"
default_role = "code"
smartquotes = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = False

# Nothing is fetched, neither when the site is built nor when it is read: the theme brings its style, scripts and icons.
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"convc {release}"
html_theme_options = {"sidebar_hide_name": False}
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False


def write_pages(app: Any) -> None:
    """Write what is generated, ahead of reading."""
    from pages import write

    write(HERE / "generated")


def as_restructured(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code` and indented blocks: other marks are escaped, ahead of napoleon."""
    found: list[str] = []
    code = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not code and found and not found[-1].strip():
            found += ["::", ""]
            code = True
        code = code and (indented or not line.strip())
        if code:
            found.append(line)
            continue
        parts = re.split(r"(`[^`\n]+`)", line)
        found.append("".join(p if i % 2 else re.sub(r"([\\*|_])", r"\\\1", p) for i, p in enumerate(parts)))
    lines[:] = found


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", as_restructured, priority=100)
    return {"parallel_read_safe": True}
