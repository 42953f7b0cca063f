"""What a report shows, as plain data: `collect` gathers it, `page` draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from calibrant.analysis.findings import Choice, Finding
from calibrant.analysis.report.outline import Outline
from calibrant.core import TensorQuantizationConfig
from calibrant.sketches import Extremes


@dataclass(frozen=True)
class ReportedValue:
    """A value that was observed.

    finding: what was seen, and what each method makes of it on a grid like the config's, per tensor. config: its own.
    chosen: the range in use; None where there is none, or one for each channel. method: that found it; "" where the
    value stays in float. sqnr: in dB, estimated, of the range in use. maker: the operation that makes it, or "".
    moved: its scale, between halves of the samples. outline: None without a histogram. extremes: per channel where
    channels are known. shared: the other values on its scale.
    """

    finding: Finding
    config: TensorQuantizationConfig
    chosen: Choice | None
    method: str
    sqnr: float | None
    maker: str = ""
    moved: float | None = None
    outline: Outline | None = None
    extremes: Extremes = field(default_factory=Extremes.empty)
    shared: Sequence[str] = ()

    @property
    def name(self) -> str:
        return self.finding.name


@dataclass(frozen=True)
class ReportedOperation:
    """An operation of the graph.

    value: the observed value that it makes (behind an activation fused into it), or that shares a scale with what it
    makes; "" where there is none. reads: the observed values that it reads; entering: those of them that no quantized
    operation makes, such as the model's input. reason: why it stays in float, or "". fused: the activation within it.
    rounding, reading, weights: SQNR in dB of the value it makes, estimated; the lowest of those entering; of its
    weights, exact. rounding_in_use, weights_in_use: of the value it makes, and of its weights, as the products that use
    them see it, estimated (`in_use.py`). alone, accumulated: of the model's outputs with it alone quantized, and of its
    own output with all before it quantized as well; measured; -inf where NaN or Inf arose. None: not known.
    """

    name: str
    op_type: str
    value: str = ""
    reads: Sequence[str] = ()
    entering: Sequence[str] = ()
    reason: str = ""
    fused: str = ""
    rounding: float | None = None
    reading: float | None = None
    weights: float | None = None
    weight_method: str = ""
    rounding_in_use: float | None = None
    weights_in_use: float | None = None
    alone: float | None = None
    accumulated: float | None = None

    @property
    def worst(self) -> float | None:
        """By what operations are ranked: what was measured, else the lower of what is known; None in float."""
        by_itself = (self.rounding, self.reading, self.weights)
        known = [db for db in (*by_itself, self.rounding_in_use, self.weights_in_use) if db is not None]
        return self.alone if self.alone is not None else min(known, default=None)


@dataclass(frozen=True)
class Step:
    """Something to do, in words, and the option of `calibrant quantize` that does it, or ""."""

    text: str
    option: str = ""


@dataclass(frozen=True)
class Suspect:
    """One of the worst: an operation, or where there is no graph a value; why it is suspected, what to do."""

    operation: str
    value: str
    decibels: float
    facts: Sequence[str]
    steps: Sequence[Step]


@dataclass(frozen=True)
class Report:
    """All of it.

    facts: label and text of the summary; notes: what was reported on the way. operations: in the order in which they
    run; empty without a graph.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    values: Sequence[ReportedValue]
    operations: Sequence[ReportedOperation] = ()
    suspects: Sequence[Suspect] = ()
    notes: Sequence[str] = ()
