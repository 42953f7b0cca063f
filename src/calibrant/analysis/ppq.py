"""PPQ's entries to the analysis: one number for each operation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from calibrant.analysis.by_operation import analyse
from calibrant.analysis.measures import Difference
from calibrant.core import SettingError, unknown
from calibrant.graph import Graph

log = logging.getLogger(__name__)

METHODS: dict[str, Callable[[Difference], float]] = {
    "snr": lambda difference: difference.relative,
    "mse": lambda difference: difference.mse,
    "cosine": lambda difference: difference.cosine,
}


def graphwise_error_analyse(
    graph: Graph,
    running_device: str = "cpu",
    dataloader: Iterable[Any] = (),
    collate_fn: Callable[[Any], Any] | None = None,
    method: str = "snr",
    steps: int = 8,
    verbose: bool = True,
    fetchs: int = 4096,
) -> dict[str, float]:
    """By operation, how far its output is from the float model's, with everything before it quantized as well.

    method: "snr": power of the noise over that of the signal, so that 0.01 is 20 dB; "mse"; "cosine".
    steps: at most so many items of the loader, which is read once. fetchs: PPQ's; here all elements count, not so many.
    running_device: PPQ's; the quantized model is simulated on the CPU, and the log says so for another.
    verbose: print them, the worst first.

    `calibrant.analysis.analyse` tells more. Raises as it does, and SettingError for an unknown method.
    """
    measure = _measure(method, running_device)
    found = analyse(graph, dataloader, steps=steps, collate_fn=collate_fn)
    errors = {one.name: measure(one.accumulated) for one in found.operations}
    return _told(errors, method, verbose)


def layerwise_error_analyse(
    graph: Graph,
    running_device: str = "cpu",
    dataloader: Iterable[Any] = (),
    interested_outputs: str | Sequence[str] | None = None,
    collate_fn: Callable[[Any], Any] | None = None,
    method: str = "snr",
    steps: int = 8,
    verbose: bool = True,
) -> dict[str, float]:
    """By operation, how far the model's outputs are from the float model's when that operation alone is quantized.

    interested_outputs: floating ones of the model, by name; None: all of these. Of several, the mean.
    All else as `graphwise_error_analyse` has it. SettingError also for an output that is not floating.
    """
    measure = _measure(method, running_device)
    known = graph.floating_outputs
    if not known:
        raise SettingError("the model has no floating output, so there is none on which an operation could be measured")
    names = [interested_outputs] if isinstance(interested_outputs, str) else interested_outputs or known
    for name in names:
        if name not in known:
            raise SettingError("interested_outputs: " + unknown("floating output", name, known))
    found = analyse(graph, dataloader, steps=steps, collate_fn=collate_fn, at_outputs=True)
    errors = {}
    for one in found.operations:
        errors[one.name] = float(np.mean([measure(one.at_outputs[name]) for name in names]))
    return _told(errors, method, verbose)


def _measure(method: str, device: str) -> Callable[[Difference], float]:
    if method not in METHODS:
        raise SettingError(unknown("method", method, METHODS))
    if str(device) != "cpu":
        log.warning("the analysis simulates the quantized model on the CPU, not on '%s'", device)
    return METHODS[method]


def _told(errors: dict[str, float], method: str, verbose: bool) -> dict[str, float]:
    if verbose:
        print(report(errors, method))
    return errors


def report(errors: Mapping[str, float], method: str) -> str:
    """The errors as text, a line for each operation, the worst first.

    >>> print(report({"conv1": 0.001, "fc": 0.02}, "snr"))
    operation  snr
    fc         0.02
    conv1      0.001
    """
    order = sorted(errors, key=lambda name: errors[name], reverse=method != "cosine")
    width = max(map(len, [*order, "operation"]))
    return "\n".join([f"{'operation':<{width}}  {method}", *(f"{name:<{width}}  {errors[name]:.4g}" for name in order)])
