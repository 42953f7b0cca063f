"""The choice of methods whose quantized model errs least at its outputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from calibrant.analysis.probabilities import logs_of
from calibrant.auto.judging import Powers, best_of, signal_and_noise, sqnr_of_powers
from calibrant.auto.trials import Choice, Trials
from calibrant.core import TargetPlatform
from calibrant.engines import Executor
from calibrant.engines.kept import Kept
from calibrant.engines.samples import Feed
from calibrant.graph import Graph
from calibrant.passes.activations import activation_configs
from calibrant.passes.auto import AUTO, is_auto
from calibrant.settings import QuantizationSetting
from calibrant.table import CalibrationTable
from calibrant.table.affordable import affordable
from calibrant.table.collecting import OnStep, collect_table, empty_table

log = logging.getLogger(__name__)

OnRun = Callable[[int, int], None]

OF_LAYERS = 8  # samples on which the layers' outputs are compared
BY_LAYER = "by layer"


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

    The graph is equalized, and its weights are solved as well. A model whose outputs are integers alone is left as it
    is: each of its values will get the method that errs least on itself, as from a table without samples.
    """
    if table is None:
        methods = sorted({config.observer_algorithm.casefold() for config, _ in activation_configs(graph)})
        empty = empty_table(graph, platform, [AUTO, *methods], executor.description)
        table = collect_table(empty, kept, executor, on_step=on_step)
    else:
        kept.read(on_step)
    if not graph.floating_outputs:
        graph.note("auto: no output is floating, so each value gets the method that errs least on itself")
        return table
    trials = Trials(graph, platform, setting, table, executor)
    measured = affordable(kept.samples, table)
    name, choice, found = choose(trials, measured, on_run)
    trials.prepare(choice)
    others = ", ".join(f"{other} {db:.1f}" for other, db in found.items() if other != name)
    graph.note(f"auto chose '{name}': {found[name]:.1f} dB at the outputs on {len(measured)} samples ({others})")
    return trials.table


def choose(
    trials: Trials, samples: Sequence[Feed], on_run: OnRun | None = None
) -> tuple[str, Choice, dict[str, float]]:
    """The methods of the model that errs least at its outputs, as far as these samples tell: see `best_of`.

    Each model is the one that would be handed over, with the scales of all samples. One with scales of fewer samples,
    to be measured on the others, would be another model: much of what a scale does to an output is its own, not its
    method's. A scale has a number or two, so that it can hardly fit the samples that it is measured on too well.
    But kl, which keeps the shape of a histogram, may cut off what few samples have, and so many others: a model of kl
    alone is taken only where these samples leave no doubt that it is the best.

    Compared are the models of `Trials.choices`, and the one in which every value has the method that errs least at the
    outputs of the operators reading it. Returns the name of the best, its methods, and the SQNR of each in dB.
    """
    choices = trials.choices() | {BY_LAYER: trials.by_layer(samples[:OF_LAYERS])}
    different = list(dict.fromkeys(choices.values()))
    references = [trials.executor.forward(feed) for feed in samples]
    powers: dict[Choice, Powers] = {}
    runs = 0
    with ThreadPoolExecutor(trials.executor.threads, thread_name_prefix="calibrant-auto") as pool:
        for choice in different:
            each = []
            for reference, outputs in zip(references, pool.map(trials.model(choice).run, samples), strict=True):
                each.append((signal_and_noise(reference, outputs), signal_and_noise(*logs_of(reference, outputs))))
                runs += 1
                if on_run is not None:
                    on_run(runs, len(different) * len(samples))
            powers[choice] = tuple(np.array(kind).reshape(len(samples), -1, 2) for kind in zip(*each, strict=True))
    cutting = [name for name, choice in choices.items() if set(choice.methods) == {"kl"}]
    name = best_of({name: powers[choice] for name, choice in choices.items()}, wary_of=cutting)
    found = {name: float(sqnr_of_powers(powers[choice][0].sum(axis=0))) for name, choice in choices.items()}
    log.info("auto: %s", ", ".join(f"{name} {db:.2f} dB" for name, db in found.items()))
    return name, choices[name], found
