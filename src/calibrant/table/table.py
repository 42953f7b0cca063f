"""CalibrationTable: the sketches of every observed value of a model; a file, mergeable, solved by any method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from calibrant.core import (
    CalibrantError,
    DataError,
    IncompatibleSketches,
    ObservationError,
    QuantizationPolicy,
    QuantizationProperty,
    SettingError,
    TensorQuantizationConfig,
    unknown,
)
from calibrant.core.config import F32
from calibrant.core.notebook import html_table
from calibrant.graph import Graph
from calibrant.observers import build_observer
from calibrant.passes.calibration import Calibration
from calibrant.passes.runtime import plan, settle
from calibrant.sketches import Halves, SketchSpec, TensorSketch
from calibrant.table.container import Arrays, read, write
from calibrant.table.packing import MOST, pack, spec_of, unpack

_SYMMETRIC = QuantizationProperty.PER_TENSOR | QuantizationProperty.LINEAR | QuantizationProperty.SYMMETRICAL
NO_MASK = "(none)"
DIGITS = 8  # of a fingerprint, in messages


@dataclass(frozen=True)
class CalibrationTable:
    """Sketches by value name, with what they are of and who collected them.

    sketches: over all the samples; `sketches.even` and `sketches.odd` over two halves of them.
    fingerprint: of the model, weights included. samples: how many (along the first axis of the first input).
    engine: engine, version, and what computed. settings: calibrant's version, the platform whose values these are,
        the methods that they serve, and the mask that said which positions count, if any.

    Tables of the same model, engine and settings merge in any order into the same bytes.
    """

    sketches: Halves
    fingerprint: str
    samples: int
    engine: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def empty(
        cls, wanted: Mapping[str, SketchSpec], fingerprint: str, engine: str, settings: Mapping[str, str]
    ) -> CalibrationTable:
        """The table over no samples at all, of these values: merging it into one of its kind changes nothing."""
        nothing = {name: TensorSketch.empty(spec) for name, spec in wanted.items()}
        return cls(Halves(nothing, nothing), fingerprint, 0, engine, settings)

    def __len__(self) -> int:
        return len(self.sketches)

    def __iter__(self) -> Iterator[str]:
        return iter(self.sketches)

    def merge(self, other: CalibrationTable) -> CalibrationTable:
        """The table of all the samples of both. IncompatibleSketches, naming what differs, where anything else does."""
        if not isinstance(other, CalibrationTable):
            raise IncompatibleSketches(
                f"cannot merge a table with {other!r:.40}: give a CalibrationTable; CalibrationTable.load reads one"
            )
        differing = self.differences(other)
        if differing:
            raise IncompatibleSketches(f"cannot merge tables of different {'; '.join(differing)}")
        try:
            merged = self.sketches.merge(other.sketches)
        except IncompatibleSketches as error:
            raise IncompatibleSketches(f"cannot merge tables: {error}") from None
        return CalibrationTable(merged, self.fingerprint, self.samples + other.samples, self.engine, self.settings)

    def solve(
        self,
        value_name: str,
        method: str = "mse",
        policy: QuantizationPolicy | QuantizationProperty | TensorQuantizationConfig = _SYMMETRIC,
        *,
        num_of_bits: int | None = None,
        quant_min: int | None = None,
        quant_max: int | None = None,
        channel_axis: int | None = None,
        detail: dict[str, Any] | None = None,
    ) -> tuple[F32, F32]:
        """Scale and offset of one value.

        policy: a policy, on the grid -128..127 unless the keywords say otherwise, or a whole TensorQuantizationConfig,
        which is not changed. num_of_bits and the other keywords: as in that config; None: its own.
        Raises SettingError for an unknown value or method, ObservationError where the table lacks what the method
        needs: a method that wants raw values needs samples.
        """
        if value_name not in self.sketches:
            raise SettingError(unknown("value", value_name, self.sketches))
        said = {
            "num_of_bits": num_of_bits,
            "quant_min": quant_min,
            "quant_max": quant_max,
            "channel_axis": channel_axis,
            "detail": detail,
        }
        given: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
        if isinstance(policy, TensorQuantizationConfig):
            draft = policy.clone(scale=None, offset=None, observer_algorithm=method, **given)
        else:
            draft = TensorQuantizationConfig(policy, observer_algorithm=method, **given)
        return solved(draft, value_name, self.sketches[value_name])

    def plot(
        self,
        value_name: str,
        methods: Sequence[str] = ("minmax", "percentile", "mse", "kl"),
        num_of_bits: int = 8,
        symmetric: bool = False,
    ) -> Any:
        """Draw the histogram of one value, and the range that each method chooses on that grid.

        num_of_bits, symmetric: the grid, signed if symmetric, else from 0.
        Returns the two matplotlib axes, in a figure of their own: `table.plot("x")[0].figure.savefig("x.png")`. What a
        method cannot serve is left out. Raises SettingError for an unknown value and without the extra
        `calibrant[report]`, ObservationError where the table holds no histogram of the value.
        """
        from calibrant.analysis.findings import Grid
        from calibrant.table.plotting import plot_value

        if value_name not in self.sketches:
            raise SettingError(unknown("value", value_name, self.sketches))
        return plot_value(self.sketches, value_name, methods, Grid(num_of_bits, symmetric))

    def _repr_html_(self) -> str:
        """What a notebook shows: what was seen of each value."""
        caption = f"{len(self)} values, {self.samples} samples, for {self.settings.get('platform', 'no platform')}"
        seen = ((name, self.sketches[name].extremes.per_tensor()) for name in sorted(self))
        rows = (
            [
                name,
                f"{e.size:,}",
                f"{e.lo[0]:.4g} to {e.hi[0]:.4g}" if e.finite else "nothing finite",
                f"{100 * e.zeros / max(e.size, 1):.1f} %",
                f"{e.size - e.finite:,}",
            ]
            for name, e in seen
        )
        return html_table(caption, ["value", "elements", "range", "zeros", "NaN, Inf"], rows)

    def apply(self, graph: Graph, method: str | None = None, threads: int = 1) -> Halves:
        """Find scale and offset of every activation of `graph` whose config is INITIAL, as RuntimeCalibrationPass does.

        graph: of the model that the table is of, after `quantize_graph`. method: for all; None: each config's own.
        Either every config is solved or none is changed. Returns the sketches that they are solved from, which of
        equalized values are not those of the table. Raises IncompatibleSketches for the table of another model,
        ObservationError where it lacks a value, or what a method needs of it.
        """
        tasks = self.check(graph, method)
        solved_from = settle(graph, tasks, self.sketches, threads)
        graph.calibrated_samples = self.samples
        return solved_from

    def check(self, graph: Graph, method: str | None = None) -> list[Calibration]:
        """What `apply` would solve. Raises what it would raise for a table that does not fit."""
        if graph.fingerprint != self.fingerprint:
            raise IncompatibleSketches(
                f"the table is of another model: its fingerprint begins with {self.fingerprint[:DIGITS]}, the model's "
                f"with {graph.fingerprint[:DIGITS]}"
            )
        if graph.mask not in (None, self.settings.get("mask")):
            raise IncompatibleSketches(
                f"the table was collected with the mask {self.settings.get('mask', NO_MASK)}, and the setting names "
                f"{graph.mask}: collect it with that one"
            )
        tasks = plan(graph, method)
        for task in tasks:
            task.observer.refuse_without_raw_values()
        lacking = [root for task in tasks for root in task.roots if root not in self.sketches]
        if lacking:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            own, here = self.settings.get("platform"), graph.platform.name if graph.platform else None
            why = f"for {own}, and {here} quantizes others: collect it for {here}"
            if own == here:
                why = (
                    "with other options: collect it again with those that you quantize with (--symmetric, "
                    "--activation-type, --leave-in-float, --only; in code the same setting)"
                )
            raise ObservationError(f"the table has no statistics of '{lacking[0]}'{more}: it was collected {why}")
        return tasks

    def save(self, path: str | Path) -> None:
        """Write the table as safetensors; the file appears whole or not at all. ExportError where it cannot."""
        write(Path(path), *self.parts())

    @classmethod
    def load(cls, path: str | Path) -> CalibrationTable:
        """The table in that file. Nothing in it is executed.

        DataError, with the reason, for a file that is none, is damaged, or holds what no calibration could have
        collected. Loading takes at most 64 MB and 64 times the file's size, whatever the file says of itself.
        """
        return cls.of_parts(path, *read(Path(path)))

    def differences(self, other: CalibrationTable) -> list[str]:
        """In what the tables differ that must be the same for them to merge: `engine a and b`, and so on."""
        mine, others = ({"model": t.fingerprint, "engine": t.engine, **t.settings} for t in (self, other))
        unsaid = {"mask": NO_MASK}

        def said(settings: Mapping[str, str], what: str) -> str:
            return settings.get(what, unsaid.get(what, "unknown"))[: DIGITS if what == "model" else None]

        return [
            f"{what} {said(mine, what)} and {said(others, what)}"
            for what in sorted(mine.keys() | others.keys())
            if mine.get(what) != others.get(what)
        ]

    def parts(self) -> tuple[dict[str, Any], Arrays]:
        """The header and the arrays of its file."""
        arrays: Arrays = {}
        values = []
        for number, name in enumerate(sorted(self.sketches)):
            halves = []
            for which, half in enumerate((self.sketches.even, self.sketches.odd)):
                plain, packed = pack(half[name], f"{number}.{which}.")
                arrays |= packed
                halves.append(plain)
            values.append({"name": name, "spec": asdict(self.sketches.even[name].spec), "halves": halves})
        origin = {"fingerprint": self.fingerprint, "samples": self.samples, "engine": self.engine}
        return origin | {"settings": dict(self.settings), "values": values}, arrays

    @classmethod
    def of_parts(cls, path: str | Path, header: Mapping[str, Any], arrays: Arrays) -> CalibrationTable:
        """The table that `parts` took apart, checked. DataError, naming `path`, where it is none."""
        halves: tuple[dict[str, TensorSketch], ...] = ({}, {})
        name = ""
        try:
            for number, value in enumerate(header["values"]):
                name = str(value["name"])
                spec = spec_of(value["spec"])
                for which, half in enumerate(halves):
                    half[name] = unpack(spec, value["halves"][which], arrays, f"{number}.{which}.")
            settings = {str(key): str(what) for key, what in header["settings"].items()}
            if type(header["samples"]) is not int or not 0 <= header["samples"] <= MOST:
                raise DataError(f"it is of {header['samples']!r} samples")
            return cls(Halves(*halves), str(header["fingerprint"]), header["samples"], str(header["engine"]), settings)
        except (CalibrantError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            where = f", value '{name}'" if name else ""
            raise DataError(f"{path} is not a calibration table, or is damaged{where}: {error}") from None


def solved(draft: TensorQuantizationConfig, name: str, sketch: TensorSketch) -> tuple[F32, F32]:
    """Scale and offset that the method of `draft` finds in the sketch. ObservationError where it finds none."""
    observer = build_observer(draft, watch_on=name)
    observer.refuse_without_raw_values()
    observer.render_from(sketch)
    if draft.scale is None or draft.offset is None:
        raise ObservationError(f"method '{draft.observer_algorithm}' found no scale for '{name}'")
    return draft.scale, draft.offset
