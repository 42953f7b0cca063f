"""What all sketches share: equality by content, canonical bytes, and the refusal to merge what differs."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

import numpy as np

from calibrant.core import IncompatibleSketches


@dataclass(frozen=True, slots=True, eq=False)
class Canonical:
    """A frozen dataclass of numbers, arrays, and other such values.

    Its bytes follow from its content alone. Sketches are canonical (cells sorted, integers only, empty cells absent),
    so the same multiset of observed values gives the same bytes, whatever the order and the batches.
    """

    def to_bytes(self) -> bytes:
        """Class name, then each field's name, kind and content, little endian."""
        return type(self).__name__.encode() + b"\0" + b"".join(_field_bytes(self, f.name) for f in fields(self))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]  # they hold arrays


def _field_bytes(sketch: object, name: str) -> bytes:
    value = getattr(sketch, name)
    if isinstance(value, np.ndarray):
        head = f"{name}:{value.dtype.str[1:]}:{value.shape}\0"
        return head.encode() + value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
    if isinstance(value, Canonical):
        content = value.to_bytes()
        return f"{name}:{len(content)}\0".encode() + content
    return f"{name}={json.dumps(value)}\0".encode()


def refuse_difference(what: str, pairs: dict[str, tuple[object, object]]) -> None:
    """Raise IncompatibleSketches when a pair differs, naming each one that does."""
    differing = [f"{name} {one!r} and {other!r}" for name, (one, other) in pairs.items() if one != other]
    if differing:
        raise IncompatibleSketches(
            f"cannot merge two {what}: {', '.join(differing)} differ; collect both with the same settings"
        )
