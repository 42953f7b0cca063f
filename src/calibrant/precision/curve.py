"""The models that a search has run, as far as they are worth a choice: accuracy against size, and latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from calibrant.core import TargetPlatform
from calibrant.engines.samples import Feed
from calibrant.engines.working import WorkingModel
from calibrant.exporters import EXPORTERS
from calibrant.precision.latency import latencies
from calibrant.precision.rebuilding import Models
from calibrant.precision.search import OnSearch, Trial

ALIKE = 1.01  # times the bytes: too little to choose by


def worth_a_choice(trials: Sequence[Trial], taken: Trial) -> list[Trial]:
    """The one that was taken, and those that no other beats; by operations in float, of as many by bytes.

    One beats another that is no more accurate, with as few operations in float or fewer, and hardly more bytes. Both
    count: what is in float costs time even where it has no weights.
    """
    kept = [taken]
    best_first = sorted(sorted(trials, key=lambda one: one.size), key=_accuracy, reverse=True)
    for trial in sorted(best_first, key=lambda one: one.in_float):  # none is beaten by one that comes after it
        if not any(_beats(other, trial) for other in kept):
            kept.append(trial)
    return sorted(kept, key=lambda one: (one.in_float, one.size))


def _beats(one: Trial, other: Trial) -> bool:
    cheap = one.in_float <= other.in_float and one.size <= ALIKE * other.size
    return cheap and _accuracy(one) >= _accuracy(other)


def _accuracy(trial: Trial) -> tuple[float, float]:
    """By the user's own metric where there is one, and of equals by SQNR."""
    score = trial.score
    return (0.0 if score.metric is None else score.metric), score.sqnr_db


def timed(
    curve: Sequence[Trial], models: Models, feed: Feed, threads: int, on_search: OnSearch | None
) -> tuple[list[Trial], float]:
    """The curve with the latency of each model as it is exported for onnxruntime, and that of the float model.

    The graph of `models` is left as the last of them. See `latencies` for how it is measured.
    """
    with TemporaryDirectory(prefix="calibrant-", ignore_cleanup_errors=True) as folder:
        places = [Path(folder) / f"{number}.onnx" for number in range(len(curve))]
        for number, (trial, place) in enumerate(zip(curve, places, strict=True)):
            models.build(trial.left)
            EXPORTERS[TargetPlatform.ONNXRUNTIME](models.graph, place)
            if on_search is not None:
                on_search("timing models", number + 1, None)
        whole = WorkingModel(models.graph, Path(folder)).whole(models.graph.output_names)
        in_float, *each = latencies([whole, *places], feed, threads)
    return [replace(trial, latency=seconds) for trial, seconds in zip(curve, each, strict=True)], in_float
