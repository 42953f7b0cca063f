"""A Report as one HTML file: no network, no file beside it, and nothing that a model calls itself is more than text."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from calibrant.analysis.report.model import Report
from calibrant.analysis.report.plain import legible, plain_report
from calibrant.core import SettingError
from calibrant.core.files import whole_files

LIBRARY = ("bokeh.min.js", "bokeh-api.min.js")
SCRIPTS = ("estimate.js", "charts.js", "value.js", "page.js")
HERE = files("calibrant.analysis.report")


def require_bokeh() -> None:
    """Raise SettingError where the plotting library is missing."""
    if importlib.util.find_spec("bokeh") is None:
        raise SettingError("a report is drawn with Bokeh, which is not installed: pip install 'calibrant[report]'")


def write_report(report: Report, path: str | Path) -> None:
    """Write the page; it appears whole or not at all. Raises SettingError without Bokeh, ExportError for the file."""
    require_bokeh()
    text = page(report)
    with whole_files(Path(path)) as (place,):
        place.write_text(text, encoding="utf-8")


def page(report: Report) -> str:
    """The page's text. The browser runs the scripts whose digests are in its policy, and asks for nothing else."""
    scripts = [*library(), *(read(name) for name in SCRIPTS)]
    parts = {
        "policy": policy(scripts),
        "title": as_text(report.title),
        "style": read("page.css"),
        "data": as_json(plain_report(report)),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], read("page.html"))


def read(name: str) -> str:
    """A file of this folder."""
    return (HERE / name).read_text(encoding="utf-8")


def library() -> list[str]:
    """The scripts of the installed Bokeh."""
    folder = files("bokeh") / "server" / "static" / "js"
    return [(folder / name).read_text(encoding="utf-8").replace("</script", "<\\/script") for name in LIBRARY]


def policy(scripts: list[str]) -> str:
    """A Content-Security-Policy under which these scripts run and no others, and nothing is loaded."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def as_json(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or begins another.

    >>> as_json("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def as_text(text: str) -> str:
    """Text that can stand between tags."""
    return legible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
