"""What sketches tell of each value: what was seen, and what each method makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from calibrant.core import (
    ConfigError,
    ObservationError,
    QuantizationProperty,
    StateError,
    TensorQuantizationConfig,
)
from calibrant.observers import squared_error
from calibrant.passes.calibration import Calibration
from calibrant.sketches import Halves, TensorSketch


@dataclass(frozen=True)
class Grid:
    """The integers that scales are found for: int and symmetric, or uint with a zero point."""

    bits: int = 8
    symmetric: bool = False
    percentile: float | None = None

    def __str__(self) -> str:
        return f"{'int' if self.symmetric else 'uint'}{self.bits} {'symmetric' if self.symmetric else 'asymmetric'}"

    @property
    def config(self) -> TensorQuantizationConfig:
        """An unsolved config of that grid, that takes values with NaN and Inf by their finite elements."""
        kind = QuantizationProperty.SYMMETRICAL if self.symmetric else QuantizationProperty.ASYMMETRICAL
        detail = {} if self.percentile is None else {"percentile": self.percentile}
        return TensorQuantizationConfig(
            QuantizationProperty.PER_TENSOR | QuantizationProperty.LINEAR | kind,
            num_of_bits=self.bits,
            quant_min=-(1 << self.bits - 1) if self.symmetric else 0,
            quant_max=(1 << self.bits - (1 if self.symmetric else 0)) - 1,
            detail=detail | {"ignore_nonfinite": True},
        )


@dataclass(frozen=True)
class Choice:
    """What a method chooses for a value.

    low, high: the range that scale and offset cover. squared_error, sqnr: estimated from the sketch, the mean one and
    in dB (inf where there is no error); None without a histogram. move: between the scales of two halves of the
    samples, as a share of the scale; None where that is not known, or was not asked for.
    """

    scale: float
    offset: int
    low: float
    high: float
    squared_error: float | None
    sqnr: float | None
    move: float | None


@dataclass(frozen=True)
class Finding:
    """A value that was observed. lo, hi: of the finite elements, None while there are none; zeros: their share of all.

    choices: by method, of those that serve the value; refused: by method, why it does not.
    """

    name: str
    elements: int
    lo: float | None
    hi: float | None
    zeros: float
    nan: int
    pos_inf: int
    neg_inf: int
    choices: dict[str, Choice] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def nonfinite(self) -> int:
        return self.nan + self.pos_inf + self.neg_inf


def find(
    sketches: Halves,
    names: Iterable[str],
    methods: Sequence[str],
    moving: Sequence[str],
    grid: Grid,
    threads: int = 1,
) -> list[Finding]:
    """The findings of these values, several at a time.

    methods: to solve by; moving: of these, those whose movement between the halves is wanted, which takes three times
    as long. Values that were collected per channel are looked at as whole tensors.
    """

    def finding(name: str) -> Finding:
        halves = Halves({name: whole(sketches.even[name])}, {name: whole(sketches.odd[name])})
        return found_of(name, halves, methods, moving, grid.config)

    with ThreadPoolExecutor(threads, thread_name_prefix="calibrant-find") as pool:
        return list(pool.map(finding, names))


def found_of(
    name: str,
    halves: Halves,
    methods: Sequence[str],
    moving: Sequence[str],
    config: TensorQuantizationConfig,
    shared: Halves | None = None,
) -> Finding:
    """What is found of one value. config: of the grid, per tensor.

    shared: under the value's name, what its scale is solved from where others are on it too; None: its own sketches.
    """
    seen, shared = halves[name].extremes.per_tensor(), shared or halves
    choices: dict[str, Choice] = {}
    refused: dict[str, str] = {}
    for method in methods:
        try:
            task = Calibration.of(config, [name], method)
            task.observer.refuse_without_raw_values()
            if method in moving:
                task.solve(shared)
            else:
                task.observer.render_from(shared[name])
            choices[method] = chosen(task.draft, halves[name], task.moved)
        except (ObservationError, ConfigError, StateError) as error:
            refused[method] = str(error)
    return Finding(
        name,
        seen.size,
        float(seen.lo[0]) if seen.finite else None,
        float(seen.hi[0]) if seen.finite else None,
        seen.zeros / seen.size if seen.size else 0.0,
        seen.nan,
        seen.pos_inf,
        seen.neg_inf,
        choices,
        refused,
    )


def chosen(config: TensorQuantizationConfig, sketch: TensorSketch, move: float | None) -> Choice:
    """What a solved config stands for, and how much it errs on the sketch."""
    scale, offset = float(config.scale), int(config.offset)  # type: ignore[arg-type]
    low, high = (scale * (end - offset) for end in (config.quant_min, config.quant_max))
    error, sqnr = None, None
    if sketch.histogram is not None:
        error, power = squared_error(config, sketch)
        sqnr = decibels_of(error, power)
    return Choice(scale, offset, low, high, error, sqnr, move)


def decibels_of(error: float, power: float) -> float:
    """The ratio of power to error in dB; inf without error, -inf where nothing but error is."""
    if error == 0:
        return math.inf
    return 10 * math.log10(power / error) if power > 0 and error < math.inf else -math.inf


def whole(sketch: TensorSketch) -> TensorSketch:
    """The sketch of a tensor, with the histogram of all its channels where it has only those of each."""
    if sketch.histogram is not None or sketch.channel_histogram is None:
        return sketch
    return replace(sketch, histogram=sketch.channel_histogram.total)
