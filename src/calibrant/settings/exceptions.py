"""What is said about single operations and values: where they run, and how they are quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from calibrant.core import SettingError, TargetPlatform, unknown
from calibrant.settings.base import Setting, is_a


@dataclass
class DispatchingTable(Setting):
    """Which operation runs where: a name, op type or regular expression, and a platform; FP32 leaves it in float."""

    dispatchings: dict[str, str] = field(default_factory=dict)

    def append(self, operation: str, platform: TargetPlatform | str) -> None:
        """Send `operation` to `platform`."""
        self.dispatchings[operation] = TargetPlatform.of(platform).name

    def __iter__(self) -> Iterator[tuple[str, TargetPlatform]]:
        return ((name, TargetPlatform.of(platform)) for name, platform in self.dispatchings.items())

    def __len__(self) -> int:
        return len(self.dispatchings)


OVERRIDE_KEYS: dict[str, type] = {"num_of_bits": int, "calib_algorithm": str, "symmetric": bool}


def check_override(pattern: str, changes: object) -> None:
    """Raise SettingError unless `changes` is a mapping of known override keys to values of their type."""
    if not isinstance(changes, Mapping) or not changes:
        keys = ", ".join(OVERRIDE_KEYS)
        raise SettingError(f"the override of '{pattern}' takes a mapping of {keys}; got {changes!r}")
    for key, value in changes.items():
        if key not in OVERRIDE_KEYS:
            raise SettingError(unknown(f"key in the override of '{pattern}'", str(key), OVERRIDE_KEYS))
        if not is_a(value, OVERRIDE_KEYS[key]):
            raise SettingError(f"the override of '{pattern}': {key} takes {OVERRIDE_KEYS[key].__name__}, got {value!r}")
