"""CalibrationTable: the sketches of every observed value of a model; a file, mergeable, solved by any method."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from calibrant.core import (
    CalibrantError,
    DataError,
    ExportError,
    IncompatibleSketches,
    ObservationError,
    QuantizationPolicy,
    QuantizationProperty,
    SettingError,
    TensorQuantizationConfig,
    unknown,
)
from calibrant.core.config import F32
from calibrant.observers import build_observer
from calibrant.sketches import Extremes, Histogram, LogBins, Margins, SketchSpec, TensorSketch

SCHEMA = 1
_PARTS: dict[str, type] = {
    "extremes": Extremes,
    "histogram": Histogram,
    "channel_histogram": Histogram,
    "margins": Margins,
}
_SYMMETRIC = QuantizationProperty.PER_TENSOR | QuantizationProperty.LINEAR | QuantizationProperty.SYMMETRICAL


@dataclass(frozen=True)
class CalibrationTable:
    """Sketches by value name, with the model's fingerprint, the number of samples, and what wrote them.

    Tables of the same model merge in any order into the same bytes. Loading a file executes nothing.
    """

    sketches: Mapping[str, TensorSketch]
    fingerprint: str
    samples: int
    engine: str

    def __len__(self) -> int:
        return len(self.sketches)

    def __iter__(self) -> Iterator[str]:
        return iter(self.sketches)

    def merge(self, other: CalibrationTable) -> CalibrationTable:
        """The table of all the samples of both. IncompatibleSketches where model, engine or values differ."""
        for what in ("fingerprint", "engine"):
            one, two = getattr(self, what), getattr(other, what)
            if one != two:
                raise IncompatibleSketches(f"cannot merge tables: {what} is {one} and {two}")
        if self.sketches.keys() != other.sketches.keys():
            odd = sorted(self.sketches.keys() ^ other.sketches.keys())
            raise IncompatibleSketches(f"cannot merge tables: only one of them has {', '.join(odd[:3])}")
        merged = {name: sketch.merge(other.sketches[name]) for name, sketch in self.sketches.items()}
        return CalibrationTable(merged, self.fingerprint, self.samples + other.samples, self.engine)

    def solve(
        self,
        value_name: str,
        method: str = "mse",
        policy: QuantizationPolicy | QuantizationProperty | TensorQuantizationConfig = _SYMMETRIC,
        **config: Any,
    ) -> tuple[F32, F32]:
        """Scale and offset of one value.

        policy: a policy, on the grid -128..127 unless `config` says otherwise (num_of_bits, quant_min, quant_max,
        channel_axis, detail), or a whole TensorQuantizationConfig, which is not changed.
        Raises SettingError for an unknown value or method, ObservationError where the table lacks what the method
        needs: a method that wants raw values needs samples.
        """
        if value_name not in self.sketches:
            raise SettingError(unknown("value", value_name, self.sketches))
        if isinstance(policy, TensorQuantizationConfig):
            draft = policy.clone(scale=None, offset=None, observer_algorithm=method)
        else:
            draft = TensorQuantizationConfig(policy, observer_algorithm=method, **config)
        observer = build_observer(draft, watch_on=value_name)
        if observer.needs_raw_values():
            raise ObservationError(
                f"method '{method}' looks at raw values, which a table does not hold: calibrate with samples instead"
            )
        observer.render_from(self.sketches[value_name])
        if draft.scale is None or draft.offset is None:
            raise ObservationError(f"method '{method}' found no scale for '{value_name}'")
        return draft.scale, draft.offset

    def save(self, path: str | Path) -> None:
        """Write the table as safetensors; the file appears whole or not at all. ExportError where it cannot."""
        tensors, header = _to_tensors(self)
        target = Path(path)
        try:
            handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        except OSError as error:
            raise ExportError(f"cannot write {target}: {error.strerror}") from None
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(save(tensors, metadata={"calibrant": json.dumps(header)}))
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    @classmethod
    def load(cls, path: str | Path) -> CalibrationTable:
        """The table in that file. DataError, with the reason, for a file that is none or is damaged."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the calibration table {path}: {error.strerror}") from None
        try:
            length = int.from_bytes(data[:8], "little")
            header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["calibrant"])
            if header["schema"] != SCHEMA:
                raise DataError(f"schema {header['schema']} is not known to this version, which reads {SCHEMA}")
            return _from_tensors(load(data), header)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        except (SafetensorError, CalibrantError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is not a calibration table, or is damaged: {error}") from None


def _to_tensors(table: CalibrationTable) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    values = []
    for number, (name, sketch) in enumerate(sorted(table.sketches.items())):
        parts: dict[str, dict[str, Any] | None] = {}
        for part in _PARTS:
            held = getattr(sketch, part)
            parts[part] = None if held is None else {}
            for f in fields(held) if held is not None else ():
                value = getattr(held, f.name)
                if isinstance(value, np.ndarray):
                    tensors[f"{number}.{part}.{f.name}"] = value
                elif not isinstance(value, LogBins):
                    parts[part][f.name] = value  # type: ignore[index]
        values.append({"name": name, "spec": asdict(sketch.spec), "parts": parts})
    header = {"schema": SCHEMA, "fingerprint": table.fingerprint, "samples": table.samples, "engine": table.engine}
    return tensors, header | {"values": values}


def _from_tensors(tensors: dict[str, NDArray[Any]], header: dict[str, Any]) -> CalibrationTable:
    sketches = {}
    for number, value in enumerate(header["values"]):
        spec = SketchSpec(**value["spec"])
        parts: dict[str, Any] = dict.fromkeys(_PARTS)
        for part, scalars in value["parts"].items():
            if scalars is None:
                continue
            arguments = dict(scalars)
            for f in fields(_PARTS[part]):
                if f.name == "bins":
                    channelled = part == "channel_histogram"
                    arguments["bins"] = LogBins(spec.channel_mantissa_bits if channelled else spec.mantissa_bits)
                elif f.name not in arguments:
                    arguments[f.name] = tensors[f"{number}.{part}.{f.name}"]
            parts[part] = _PARTS[part](**arguments)
        sketches[str(value["name"])] = TensorSketch(spec=spec, **parts)
    return CalibrationTable(sketches, str(header["fingerprint"]), int(header["samples"]), str(header["engine"]))
