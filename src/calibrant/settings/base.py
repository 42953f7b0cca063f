"""What every setting is: fields that are checked when they are assigned, and plain data to and from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from calibrant.core import SettingError, unknown


@dataclass
class Setting:
    """Fields that refuse an unknown name or a value of the wrong type, when they are assigned."""

    _choices: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        hints = _hints(type(self))
        if name not in hints:
            raise SettingError(unknown(f"key of {type(self).__name__}", name, hints))
        where = f"{type(self).__name__}.{name}"
        if not is_a(value, hints[name]):
            raise SettingError(f"{where} takes {_spell(hints[name])}, got {value!r} ({type(value).__name__})")
        choices = self._choices.get(name)
        if choices and value not in choices:
            raise SettingError(f"{where} takes one of {', '.join(map(str, choices))}; got {value!r}")
        super().__setattr__(name, value)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; `from_dict` reads it back."""
        return {name: _plain(getattr(self, name)) for name in _hints(type(self))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """A setting with the given keys; those left out keep their defaults. An unknown key is a SettingError."""
        setting = cls()
        hints = _hints(cls)
        for name, value in data.items():
            kind = hints.get(name)
            read = getattr(kind, "from_dict", None)
            if read is not None and not isinstance(value, Mapping):
                raise SettingError(f"{cls.__name__}.{name} takes a mapping, got {value!r}")
            setattr(setting, name, read(value) if read is not None else _read(value, kind))
        return setting


def _hints(cls: type) -> dict[str, Any]:
    return _read_hints(cls)


@cache
def _read_hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


def is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is UnionType:
        return any(is_a(value, k) for k in get_args(kind))
    if kind is Any:
        return True
    if get_origin(kind) is list:
        return isinstance(value, list) and all(is_a(v, get_args(kind)[0]) for v in value)
    if get_origin(kind) is dict:
        of_key, of_value = get_args(kind)
        return isinstance(value, dict) and all(is_a(k, of_key) and is_a(v, of_value) for k, v in value.items())
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _spell(kind: Any) -> str:
    if get_origin(kind) is UnionType:
        return " or ".join(_spell(k) for k in get_args(kind))
    return "null" if kind is NoneType else str(kind) if get_args(kind) else kind.__name__


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, Setting) else value


def _read(value: Any, kind: Any) -> Any:
    return float(value) if kind is float and isinstance(value, int) and not isinstance(value, bool) else value
