"""How the time of a calibration grows: straight lines through what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.costs import Measure
from benchmarks.markdown import table
from benchmarks.models import CachedModel
from benchmarks.once import Failed, Job
from benchmarks.peers import CONTESTANTS, activations


@dataclass(frozen=True)
class Line:
    """seconds = at_zero + slope * x. off: the largest share by which it misses a measured point."""

    at_zero: float
    slope: float
    off: float


def fitted(x: Sequence[float], seconds: Sequence[float]) -> Line:
    """The line of least squared relative errors, so that short times count as much as long ones.

    x: two different ones at least. seconds: above 0.

    >>> line = fitted([1, 2, 4], [3.0, 5.0, 9.0])
    >>> round(line.at_zero, 6), round(line.slope, 6), round(line.off, 6)
    (1.0, 2.0, 0.0)
    """
    if len(set(x)) < 2:
        raise ValueError(f"a line needs two different places to go through, got {sorted(set(x))}")
    places, measured = np.asarray(x, np.float64), np.asarray(seconds, np.float64)
    design = np.stack([np.ones_like(places), places], axis=1)
    at_zero, slope = np.linalg.lstsq(design / measured[:, None], np.ones_like(measured), rcond=None)[0]
    off = np.abs((at_zero + slope * places) / measured - 1).max()
    return Line(float(at_zero), float(slope), float(off))


@dataclass(frozen=True)
class Axis:
    """What a time grows with: its places, and the job at each."""

    name: str
    x: Sequence[float]
    jobs: Sequence[Job]


def with_samples(job: Job, counts: Sequence[int]) -> Axis:
    return Axis("samples", counts, [replace(job, samples=count) for count in counts])


def with_threads(job: Job) -> Axis:
    """1, 2, 4, ... threads up to those of the job. A line over 1 / threads: what is at 0 no thread makes shorter."""
    counts = sorted({min(2**power, job.threads) for power in range(job.threads.bit_length() + 1)})
    return Axis("1 / threads", [1 / count for count in counts], [replace(job, threads=count) for count in counts])


def with_size(job: Job, models: Sequence[CachedModel], cache: Path) -> Axis:
    """Networks of one kind and several depths."""
    jobs = [replace(job, model=model.path(cache)) for model in models]
    return Axis("million activations a sample", [activations(one.model) / 1e6 for one in jobs], jobs)


def growth_table(axes: Sequence[Axis], contestants: Sequence[str], rounds: int, measure: Measure) -> str:
    """For each axis the line of each contestant, and that of bare inference beside the first of them."""
    rows = []
    for axis in axes:
        for contestant in contestants:
            try:
                runs = [[measure(replace(job, contestant=contestant)) for job in axis.jobs] for _ in range(rounds)]
            except Failed as error:
                rows.append([f"{CONTESTANTS[contestant].name}: {error}", axis.name, *["–"] * 6])
                continue
            bare = [median(run.bare for run in column) for column in zip(*runs, strict=True)]
            whole = [median(run.seconds for run in column) for column in zip(*runs, strict=True)]
            if contestant == contestants[0]:
                rows.append(_row(CONTESTANTS["bare"].name, axis, bare, bare))
            rows.append(_row(CONTESTANTS[contestant].name, axis, whole, bare))
    headings = ["", "grows with", "at", "seconds at those", "at 0", "slope", "x bare's slope", "off by at most"]
    return table(headings, rows)


def _row(name: str, axis: Axis, seconds: Sequence[float], bare: Sequence[float]) -> list[str]:
    line, floor = fitted(axis.x, seconds), fitted(axis.x, bare)
    measured = "  ".join(f"{s:.2f}" for s in seconds)
    places = "  ".join(f"{x:.3g}" for x in axis.x)
    ratio = f"{line.slope / floor.slope:.2f}"
    return [name, axis.name, places, measured, f"{line.at_zero:.2f}", f"{line.slope:.3g}", ratio, f"{line.off:.1%}"]
