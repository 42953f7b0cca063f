"""Two models on the same samples: how far their outputs are apart, and what each costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from calibrant.analysis.measures import Difference
from calibrant.core import DataError, ModelError
from calibrant.engines import InputSpec, iterate_samples
from calibrant.engines.session import reason

_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_OTHERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_, "tensor(uint8)": np.uint8}
_OTHERS |= {"tensor(int8)": np.int8, "tensor(string)": np.object_}


@dataclass
class OutputDifference:
    """How far one output of the second model is from that of the first, over all samples.

    rows, agreeing: of an output of rank 2, how many rows there were and in how many the largest value is in the same
    place; 0 rows otherwise.
    """

    difference: Difference = field(default_factory=Difference)
    rows: int = 0
    agreeing: int = 0

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in dB, as `Difference` has it."""
        return self.difference.sqnr_db

    @property
    def largest(self) -> float:
        """Of the absolute differences."""
        return self.difference.largest

    @property
    def agreement(self) -> float | None:
        """The share of rows whose largest value is in the same place; None where the output has no rows."""
        return self.agreeing / self.rows if self.rows else None

    def add(self, one: NDArray[Any], other: NDArray[Any]) -> None:
        """Take in one sample's outputs, of equal shape."""
        self.difference.add(one, other)
        if one.ndim == 2 and one.shape[1] > 1:
            self.rows += len(one)
            self.agreeing += int((one.argmax(axis=1) == other.argmax(axis=1)).sum())


@dataclass
class Comparison:
    """Of two models: outputs by name, over how many samples, milliseconds for each sample, and bytes of the files."""

    samples: int = 0
    outputs: dict[str, OutputDifference] = field(default_factory=dict)
    milliseconds: tuple[float, float] = (0.0, 0.0)
    size: tuple[int, int] = (0, 0)


def compare(
    float_model: str | Path,
    other_model: str | Path,
    samples: Iterable[Any],
    collate_fn: Callable[[Any], Any] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Comparison:
    """Run both models over the samples in onnxruntime, on the CPU, in turn.

    The models may come from any tool; the outputs are matched by name, and where no name is in both, by their order.
    Milliseconds are the median over samples; the first sample warms up. on_step: called with the samples done.
    Raises ModelError for a model that onnxruntime cannot run, or whose inputs or outputs do not correspond; DataError
    for samples that do not fit.
    """
    paths = Path(float_model), Path(other_model)
    one, other = (open_model(path) for path in paths)
    specs = input_specs(one)
    if [spec.name for spec in specs] != [spec.name for spec in input_specs(other)]:
        names = f"{_names(specs)} and {_names(input_specs(other))}"
        raise ModelError(f"{paths[0]} and {paths[1]} have different inputs: {names}")
    pairs = _pairs(one, other, paths)
    found = Comparison(size=(_bytes(paths[0]), _bytes(paths[1])))
    found.outputs = {name: OutputDifference() for name, _ in pairs}
    seconds: tuple[list[float], list[float]] = ([], [])
    for feed in iterate_samples(samples, specs, None, collate_fn):
        exact = _run(one, feed, [name for name, _ in pairs], seconds[0])
        quantized = _run(other, feed, [name for _, name in pairs], seconds[1])
        for name, a, b in zip(found.outputs, exact, quantized, strict=True):
            if a.shape != b.shape:
                raise ModelError(f"output '{name}' is {a.shape} in {paths[0]}, {b.shape} in {paths[1]}")
            found.outputs[name].add(a, b)
        found.samples += 1
        if on_step is not None:
            on_step(found.samples)
    found.milliseconds = _median(seconds[0]), _median(seconds[1])
    return found


def input_specs(session: Any) -> list[InputSpec]:
    """What the inputs of an onnxruntime session take."""
    known = _FLOATS | _OTHERS
    specs = []
    for value in session.get_inputs():
        if value.type not in known:
            raise ModelError(f"input '{value.name}' is {value.type}, which samples cannot be")
        shape = tuple(d if isinstance(d, int) and d >= 0 else str(d) if d else None for d in value.shape)
        specs.append(InputSpec(value.name, np.dtype(known[value.type]), shape))
    return specs


def open_model(path: Path) -> Any:
    """A session of that file. DataError where there is none, ModelError where onnxruntime cannot run it."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types share no base but Exception
        raise ModelError(f"onnxruntime cannot run {path}: {reason(error)}") from error


def _pairs(one: Any, other: Any, paths: Sequence[Path]) -> list[tuple[str, str]]:
    """Names of the floating outputs that correspond."""
    first, second = ([o.name for o in session.get_outputs() if o.type in _FLOATS] for session in (one, other))
    common = [name for name in first if name in second]
    pairs = [(name, name) for name in common] or list(zip(first, second, strict=False))
    if not pairs:
        raise ModelError(f"{paths[0]} and {paths[1]} have no floating output to compare")
    return pairs


def _run(session: Any, feed: Mapping[str, Any], names: Sequence[str], seconds: list[float]) -> list[NDArray[Any]]:
    start = time.perf_counter()
    made: list[NDArray[Any]] = session.run(list(names), feed)
    seconds.append(time.perf_counter() - start)
    return made


def _median(seconds: list[float]) -> float:
    """In milliseconds, without the first run, which warms up."""
    return 1000 * float(np.median(seconds[1:] or seconds))


def _bytes(path: Path) -> int:
    """Of the file, and of the tensors beside it that exporters put into `<name>.data`."""
    beside = path.with_name(path.name + ".data")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def _names(specs: Sequence[InputSpec]) -> str:
    return ", ".join(spec.name for spec in specs)
