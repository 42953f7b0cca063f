"""Docstrings as they are written here, for the site: what is said of each parameter becomes an item of a list."""

import re
from typing import Any

import griffe

PARAMETERS = re.compile(r"^((?:[a-z_]\w*)(?:, [a-z_]\w*)*): ")


class Parameters(griffe.Extension):
    """Turns lines such as `steps: at most so many ...` of a docstring into items; what is indented below goes along."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_list(obj.docstring.value)


def as_list(text: str) -> str:
    """The docstring with a list for its parameters.

    >>> print(as_list("Promise.\\n\\nsteps: how many;\\n    None: all.\\nRaises nothing."))
    Promise.
    <BLANKLINE>
    - **steps**: how many;
        None: all.
    <BLANKLINE>
    Raises nothing.
    """
    lines: list[str] = []
    listing = False
    for line in text.splitlines():
        if PARAMETERS.match(line):
            if not listing and lines and lines[-1]:
                lines.append("")
            lines.append(PARAMETERS.sub(r"- **\1**: ", line))
            listing = True
            continue
        if listing and line and not line.startswith(" "):
            lines.append("")
            listing = False
        lines.append(line)
    return "\n".join(lines)
