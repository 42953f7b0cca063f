"""Two ONNX files, opened side by side: what they take, what they give, what corresponds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from calibrant.core import DataError, ModelError, closest
from calibrant.engines import InputSpec
from calibrant.engines.session import reason

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_OTHERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_, "tensor(uint8)": np.uint8}
_OTHERS |= {"tensor(int8)": np.int8, "tensor(string)": np.object_}


@dataclass(frozen=True)
class OpenPair:
    """Sessions of both models, and what in the second is what the first calls so.

    specs: the inputs of the first. inputs: of each of them its counterpart. outputs: names of the counterparts, where
    there is one. unmatched: outputs of either without one.
    """

    paths: tuple[Path, Path]
    sessions: tuple[Any, Any]
    specs: list[InputSpec]
    inputs: dict[str, InputSpec]
    outputs: dict[str, str]
    unmatched: list[str]

    @classmethod
    def open(cls, float_model: str | Path, other_model: str | Path) -> OpenPair:
        """Raises DataError for a file that is not there, ModelError for what onnxruntime cannot run, or for models of
        which the inputs do not correspond, or no output does.
        """
        paths = Path(float_model), Path(other_model)
        one, other = (open_model(path) for path in paths)
        specs = input_specs(one)
        inputs = _matched_inputs(specs, input_specs(other), paths)
        outputs = _matched(_names(one.get_outputs()), _names(other.get_outputs()))
        if not outputs:
            raise ModelError(f"{paths[0]} and {paths[1]} have no outputs to compare")
        unmatched = [name for name in _names(one.get_outputs()) if name not in outputs]
        unmatched += [name for name in _names(other.get_outputs()) if name not in outputs.values()]
        return cls(paths, (one, other), specs, inputs, outputs, unmatched)

    def renamed(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """A sample of the first model as the second one takes it: another floating type, perhaps."""
        return {
            self.inputs[name].name: array.astype(self.inputs[name].dtype, copy=False) for name, array in feed.items()
        }

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of the files, and of the tensors that lie beside them in `<name>.data`."""
        one, other = (_bytes(path) for path in self.paths)
        return one, other


def input_specs(session: Any) -> list[InputSpec]:
    """What the inputs of an onnxruntime session take."""
    known = FLOATS | _OTHERS
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
        near = closest(path.name, [p.name for p in path.parent.glob("*.onnx")]) if path.parent.is_dir() else None
        raise DataError(f"{path}: no such file" + (f"; did you mean '{path.with_name(near)}'?" if near else ""))
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong arrives as an exception, with the same text
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types share no base but Exception
        raise ModelError(f"onnxruntime cannot run {path}: {reason(error)}") from error


def _matched_inputs(
    ours: Sequence[InputSpec], theirs: Sequence[InputSpec], paths: tuple[Path, Path]
) -> dict[str, InputSpec]:
    """By name; where no name is in both, by order. Raises ModelError unless every input has a counterpart."""
    matched = _matched([spec.name for spec in ours], [spec.name for spec in theirs])
    if len(matched) != len(ours) or len(ours) != len(theirs):
        raise ModelError(
            f"{paths[0]} and {paths[1]} have different inputs: {_listed(ours)} and {_listed(theirs)}; "
            "give two models that take the same samples"
        )
    by_name = {spec.name: spec for spec in theirs}
    for spec in ours:
        other = by_name[matched[spec.name]]
        same_type = spec.dtype == other.dtype or spec.dtype.kind == other.dtype.kind == "f"
        if not (same_type and _fit(spec.shape, other.shape)):
            raise ModelError(f"the models take different samples: {paths[0]} has {spec}, {paths[1]} has {other}")
    return {spec.name: by_name[matched[spec.name]] for spec in ours}


def _fit(one: Sequence[int | str | None] | None, other: Sequence[int | str | None] | None) -> bool:
    """Whether a sample can have both shapes."""
    if one is None or other is None:
        return True
    differing = (a != b and isinstance(a, int) and isinstance(b, int) for a, b in zip(one, other, strict=False))
    return len(one) == len(other) and not any(differing)


def _matched(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    common = {name: name for name in ours if name in theirs}
    return common or dict(zip(ours, theirs, strict=False))


def _names(values: Sequence[Any]) -> list[str]:
    return [value.name for value in values]


def _listed(specs: Sequence[InputSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _bytes(path: Path) -> int:
    beside = path.with_name(path.name + ".data")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
