"""Paths that a user typed: what to say when there is nothing, and what lies in a folder."""

from pathlib import Path

from calibrant.core import closest


def missing(path: Path, what: str) -> str:
    """The sentence for a path that does not exist: the part that is missing, and the nearest name beside it.

    >>> missing(Path("no such folder/x.onnx"), "the model")
    "the model 'no such folder/x.onnx' does not exist: there is no folder 'no such folder'"
    """
    wrong = path
    while not wrong.parent.exists():
        wrong = wrong.parent
    text = f"{what} '{path}' does not exist"
    if wrong != path:
        text += f": there is no folder '{wrong}'"
    beside = [p.name for p in wrong.parent.iterdir()] if wrong.parent.is_dir() else []
    near = closest(wrong.name, beside)
    return f"{text}; did you mean '{wrong.parent / near}'?" if near else text


def visible(folder: Path) -> list[Path]:
    """What lies in `folder`, sorted by name; hidden entries (their name begins with a dot) are left out."""
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)


def count(n: int, singular: str, plural: str | None = None) -> str:
    """
    >>> count(1, "image"), count(3, "image"), count(2, "file of another kind", "files of another kind")
    ('1 image', '3 images', '2 files of another kind')
    """
    return f"{n} {singular if n == 1 else plural or singular + 's'}"
