"""Which of several quantized models errs least at its outputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.auto.kept import affordable
from calibrant.auto.trials import OWN, Choice, Trials
from calibrant.core import TargetPlatform
from calibrant.engines import Executor
from calibrant.engines.halves import half_of
from calibrant.engines.kept import Kept
from calibrant.engines.samples import Feed
from calibrant.graph import Graph
from calibrant.passes.activations import activation_configs
from calibrant.passes.auto import AUTO, CANDIDATES, is_auto
from calibrant.settings import QuantizationSetting
from calibrant.table import CalibrationTable
from calibrant.table.collecting import OnStep, collect_table, empty_table

log = logging.getLogger(__name__)

OnRun = Callable[[int, int], None]
F64 = NDArray[np.float64]

OF_LAYERS = 8  # samples on which the layers' outputs are compared
BY_LAYER = "by layer"
SURE = 2.0  # standard errors


def has_open_methods(graph: Graph) -> bool:
    """Whether a graph after `quantize_graph` has configs whose method is `auto`."""
    return any(is_auto(config) for config, _ in activation_configs(graph))


def choose_by_output(
    graph: Graph,
    platform: TargetPlatform,
    setting: QuantizationSetting,
    kept: Kept,
    executor: Executor,
    table: CalibrationTable | None = None,
    on_step: OnStep | None = None,
    on_run: OnRun | None = None,
) -> CalibrationTable:
    """Give the configs of `graph` whose method is `auto` the one that serves the model best; return the table to apply.

    table: of statistics collected before; None: they are collected from the samples.
    on_run: called while models are compared, with the number of runs done and of all.

    The weights of the graph are solved as well.
    """
    if table is None:
        methods = sorted({config.observer_algorithm.casefold() for config, _ in activation_configs(graph)})
        empty = empty_table(graph, platform, [AUTO, *methods], executor.description)
        table = collect_table(empty, kept, executor, on_step=on_step)
    else:
        kept.read(on_step)
    trials = Trials(graph, platform, setting, table, executor)
    measured = affordable(kept.samples, table)
    name, choice, found = choose(trials, measured, on_run)
    trials.prepare(choice)
    others = ", ".join(f"{other} {db:.1f}" for other, db in found.items() if other != name)
    graph.note(f"auto chose '{name}': {found[name]:.1f} dB at the outputs on {len(measured)} samples ({others})")
    return table


def choose(
    trials: Trials, samples: Sequence[Feed], on_run: OnRun | None = None
) -> tuple[str, Choice, dict[str, float]]:
    """The methods with which the quantized model errs least at its outputs, as far as these samples can tell.

    Measured is on each half of them, with the scales that the other half of all samples gives.

    Compared are the models of `Trials.choices`, and the one in which every value has the method that errs least at the
    outputs of the operators reading it. Returns the name of the `best_for_sure`, its methods, and the SQNR of each in
    dB. Simplest are the platform's own methods, then comes a method alone, then the choice by the table, then the last.
    """
    choices = trials.choices() | {BY_LAYER: trials.by_layer(samples[:OF_LAYERS])}
    different = list(dict.fromkeys(choices.values()))
    halves = [[feed for feed in samples if half_of(feed) == half] for half in (0, 1)]
    references = [[trials.executor.forward(feed) for feed in half] for half in halves]
    powers: dict[Choice, F64] = {}
    runs = 0
    with ThreadPoolExecutor(trials.executor.threads, thread_name_prefix="calibrant-auto") as pool:
        for choice in different:
            each = []
            for half, (feeds, exact) in enumerate(zip(halves, references, strict=True)):
                if not feeds:
                    continue
                model = trials.model(choice, 1 - half)
                for reference, outputs in zip(exact, pool.map(model.run, feeds), strict=True):
                    each.append(signal_and_noise(reference, outputs))
                    runs += 1
                    if on_run is not None:
                        on_run(runs, len(different) * len(samples))
            powers[choice] = np.array(each).reshape(len(samples), -1, 2)
    kinds = [[OWN], list(CANDIDATES), [AUTO], [BY_LAYER]]
    name = best_for_sure([{name: powers[choices[name]] for name in kind if name in choices} for kind in kinds])
    found = {name: float(mean_sqnr(powers[choice].sum(axis=0))) for name, choice in choices.items()}
    log.info("auto: %s", ", ".join(f"{name} {db:.2f} dB" for name, db in found.items()))
    return name, choices[name], found


def best_for_sure(kinds: Sequence[Mapping[str, F64]]) -> str:
    """The name of the best model, where a less simple kind has to be ahead by more than SURE standard errors.

    kinds: of models, the simplest first; of each model, by name, (samples, outputs, 2) as of `signal_and_noise`. The
    best of the first kind stands against the best of the next, and so on.

    A few samples on which the model's answer tips over make up most of the noise, so that to be ahead by less is luck
    with these samples. The standard error is that of the difference, by the jackknife (Tukey, 1958): the SQNR, a ratio
    of sums, is computed anew without each sample.
    """
    name, standing = "", None
    for kind in kinds:
        if not kind:
            continue
        best = max(kind, key=lambda name: float(mean_sqnr(kind[name].sum(axis=0))))
        if standing is None or _ahead(kind[best], standing) > 0:
            name, standing = best, kind[best]
    return name


def _ahead(one: F64, other: F64) -> float:
    """By how many dB one model is ahead of the other, less SURE standard errors of that; of a single sample: 0."""
    count = len(one)
    if count < 2:
        return 0.0
    totals = one.sum(axis=0), other.sum(axis=0)
    whole = mean_sqnr(totals[0]) - mean_sqnr(totals[1])
    without = mean_sqnr(totals[0] - one) - mean_sqnr(totals[1] - other)
    return float(whole - SURE * np.sqrt((count - 1) * np.var(without)))


def signal_and_noise(reference: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> list[tuple[float, float]]:
    """Of each floating output of one sample: its power, and the power of the difference to it."""
    floats = [(r.astype(np.float64), f) for r, f in zip(reference, found, strict=True) if r.dtype.kind == "f"]
    return [(float((r**2).sum()), float(((r - f) ** 2).sum())) for r, f in floats]


def mean_sqnr(powers: F64) -> F64:
    """SQNR in dB, the mean over outputs. powers: (..., outputs, 2), signal and noise; the result: (...).

    Each output counts for -200 to 200 dB, which is exact for float32; NaN and Inf are -200. Without outputs: 0.
    """
    signal, noise = powers[..., 0], powers[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(noise <= 0, np.inf, 10 * np.log10(signal / noise))
    clipped = np.clip(np.nan_to_num(each, nan=-200.0), -200, 200)
    return np.asarray(clipped.mean(axis=-1) if clipped.shape[-1] else np.zeros(clipped.shape[:-1]))
