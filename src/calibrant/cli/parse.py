"""From what is typed after an option to its value. Wrong text is a BadParameter that says what is expected."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from calibrant.core import SettingError, TargetPlatform, unknown

if TYPE_CHECKING:
    from calibrant.data import Resize

UNITS = {"": 1, "b": 1} | {f"{p}{b}": s**i for i, p in enumerate("kmgt", 1) for b, s in (("b", 1000), ("ib", 1024))}
UNITS |= {p: 1024**i for i, p in enumerate("kmgt", 1)}
OVERRIDE_KEYS = {
    "bits": "num_of_bits",
    "num_of_bits": "num_of_bits",
    "method": "calib_algorithm",
    "calib_algorithm": "calib_algorithm",
    "symmetric": "symmetric",
}


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A parser of whole numbers, both ends included.

    >>> whole(2, 16)("8")
    8
    """

    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else None
        if value is None or value < least or (most is not None and value > most):
            expected = f"from {least} to {most}" if most is not None else f"from {least}"
            raise typer.BadParameter(f"'{text}' is not a whole number {expected}")
        return value

    return parse


def number(what: str, least: float = -math.inf) -> Callable[[str], float]:
    """A parser of finite numbers from `least` on.

    >>> number("a share")("0.5")
    0.5
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= least):
            raise typer.BadParameter(f"'{text}' is not {what}")
        return value

    return parse


def one_of(what: str, choices: Sequence[str]) -> Callable[[str], str]:
    """A parser that takes these words, in any case.

    >>> one_of("layout", ["nchw", "nhwc"])("NCHW")
    'nchw'
    """

    def parse(text: str) -> str:
        if text.casefold() not in choices:
            raise typer.BadParameter(unknown(what, text, choices))
        return text.casefold()

    return parse


def names(text: str) -> list[str]:
    """Names with commas or spaces between, each once.

    >>> names("mse,KL, mse")
    ['mse', 'kl']
    """
    found = list(dict.fromkeys(name.casefold() for name in re.split(r"[,\s]+", text) if name))
    if not found:
        raise typer.BadParameter(f"'{text}' names nothing")
    return found


def platform(text: str) -> TargetPlatform:
    """A platform by name: see `TargetPlatform.of`.

    >>> platform("trt").name, platform("OpenVINO_int8").name
    ('TRT_INT8', 'OPENVINO_INT8')
    """
    try:
        return TargetPlatform.of(text)
    except SettingError as error:
        raise typer.BadParameter(str(error)) from None


def resize(text: str) -> Resize:
    """N: the shorter side; HxW: exactly; original: not at all."""
    from calibrant.data import Resize

    if text.casefold() == "original":
        return Resize("original")
    sides = _sides(text)
    if sides is None:
        raise typer.BadParameter(f"'{text}' is neither N (the shorter side), nor HxW (exactly), nor 'original'")
    return Resize("short", sides[0]) if len(sides) == 1 else Resize("exact", *sides)


def crop(text: str) -> tuple[int, int]:
    """N or HxW.

    >>> crop("224"), crop("48x320")
    ((224, 224), (48, 320))
    """
    sides = _sides(text)
    if sides is None:
        raise typer.BadParameter(f"'{text}' is neither N nor HxW")
    return (sides[0], sides[-1])


def numbers(text: str) -> tuple[float, ...]:
    """One number, or several with commas or spaces between.

    >>> numbers("0.5"), numbers("0.485,0.456, 0.406")
    ((0.5,), (0.485, 0.456, 0.406))
    """
    try:
        found = tuple(float(part) for part in re.split(r"[,\s]+", text.strip()))
    except ValueError:
        found = ()
    if not found or not all(abs(n) < float("inf") for n in found):
        raise typer.BadParameter(f"'{text}' is neither one number nor one for each channel (0.485,0.456,0.406)")
    return found


def size_in_bytes(text: str) -> int:
    """Bytes, with a unit if wanted.

    >>> size_in_bytes("512MB"), size_in_bytes("1GiB"), size_in_bytes("2g")
    (512000000, 1073741824, 2147483648)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().casefold())
    if found is None or found[2] not in UNITS or not (size := int(float(found[1]) * UNITS[found[2]])):
        raise typer.BadParameter(f"'{text}' is no size in bytes: write it like 512MB or 2GiB")
    return size


def share(text: str) -> float:
    """A number between 0 and 1, for --percentile.

    >>> share("0.999")
    0.999
    """
    try:
        value = float(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no number between 0 and 1") from None
    if 1 < value <= 100:
        raise typer.BadParameter(f"{text} is no share between 0 and 1: for {text} per cent write {value / 100:g}")
    if not 0 < value <= 1:
        raise typer.BadParameter(f"{text} is not between 0 and 1")
    return value


def override(text: str) -> tuple[str, dict[str, Any]]:
    """PATTERN:key=value,... with the keys bits, method, symmetric.

    >>> override("/head/.*:bits=16,method=minmax,symmetric=true")
    ('/head/.*', {'num_of_bits': 16, 'calib_algorithm': 'minmax', 'symmetric': True})
    """
    pattern, colon, changes = text.rpartition(":")
    if not colon or not pattern or "=" not in changes:
        raise typer.BadParameter(f"'{text}' is not of the form 'PATTERN:bits=16,method=minmax,symmetric=true'")
    found: dict[str, Any] = {}
    for change in changes.split(","):
        key, _, value = (part.strip() for part in change.partition("="))
        if key not in OVERRIDE_KEYS:
            raise typer.BadParameter(unknown(f"key in '{text}'", key, ["bits", "method", "symmetric"]))
        found[OVERRIDE_KEYS[key]] = _override_value(OVERRIDE_KEYS[key], value, text)
    return pattern, found


def _override_value(key: str, value: str, text: str) -> Any:
    if key == "num_of_bits":
        if not value.isdecimal() or not 2 <= int(value) <= 16:
            raise typer.BadParameter(f"'{text}': bits takes 2 to 16, got '{value}'")
        return int(value)
    if key == "symmetric":
        if value.casefold() not in ("true", "false"):
            raise typer.BadParameter(f"'{text}': symmetric takes true or false, got '{value}'")
        return value.casefold() == "true"
    if not value:
        raise typer.BadParameter(f"'{text}': method is empty")
    return value.casefold()


def _sides(text: str) -> tuple[int, ...] | None:
    found = re.fullmatch(r"(\d+)(?:[x,](\d+))?", text.strip().casefold())
    sides = tuple(int(side) for side in found.groups() if side is not None) if found else ()
    return sides if sides and min(sides) > 0 else None
