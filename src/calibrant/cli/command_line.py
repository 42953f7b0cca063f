"""What to type: a `calibrant quantize` that does what was tried, a `calibrant compare` of what came of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calibrant.advice import Fix
from calibrant.cli.reading import Reading
from calibrant.core import TargetPlatform
from calibrant.data import Resize


def quantize_command(model: Path, reading: Reading, platform: TargetPlatform, fix: Fix, output: str) -> str:
    """The line, quoted for a shell.

    >>> fix = Fix("mse", ("fc",), 20.0, 1.0, reduce_range=True)
    >>> quantize_command(Path("m.onnx"), Reading("photos"), TargetPlatform.ONNXRUNTIME, fix, "better.onnx")
    'calibrant quantize m.onnx --data photos --method mse --reduce-range --leave-in-float fc --output better.onnx'
    """
    words = ["calibrant", "quantize", str(model), *reading_words(reading)]
    if platform is not TargetPlatform.ONNXRUNTIME:
        words += ["--platform", platform.name]
    if fix.method is not None:
        words += ["--method", fix.method]
    words += ["--reduce-range"] if fix.reduce_range else []
    for name in fix.leave_in_float:
        words += ["--leave-in-float", name]
    return shlex.join([*words, "--output", output])


def compare_command(model: Path, other: Path, reading: Reading) -> str:
    """The line, quoted for a shell."""
    return shlex.join(["calibrant", "compare", str(model), str(other), *reading_words(reading)])


def reading_words(reading: Reading) -> list[str]:
    """The options with which samples are read so.

    >>> reading_words(Reading("photos", 32, images={"mean": (0.5, 0.25, 1.0), "crop": (224, 224), "std": None}))
    ['--data', 'photos', '--samples', '32', '--mean', '0.5,0.25,1', '--crop', '224']
    """
    words = ["--data", reading.data or ""]
    for option, number in (("--samples", reading.samples), ("--batch-size", reading.batch_size)):
        words += [] if number is None else [option, str(number)]
    words += ["--skip-bad"] if reading.skip_bad else []
    words += [] if reading.mask is None else ["--mask", reading.mask]
    for name, value in reading.images.items():
        words += [] if value is None else [f"--{name}", _text(value)]
    return words


def _text(value: Any) -> str:
    if isinstance(value, Resize):
        return "original" if value.how == "original" else "x".join(str(n) for n in (value.height, value.width) if n)
    if isinstance(value, tuple) and all(isinstance(n, int) for n in value):
        return "x".join(str(n) for n in dict.fromkeys(value))
    return ",".join(f"{n:.9g}" for n in value) if isinstance(value, tuple) else str(value)


def improved_name(model: Path) -> str:
    """A name for what the line writes, which is not there yet.

    >>> improved_name(Path("nowhere/net.onnx"))
    'net.improved.onnx'
    """
    return next(name for name in _names(model.stem) if not Path(name).exists())


def _names(stem: str) -> Iterator[str]:
    yield f"{re.sub(r'[.]onnx$', '', stem)}.improved.onnx"
    number = 2
    while True:
        yield f"{stem}.improved{number}.onnx"
        number += 1
