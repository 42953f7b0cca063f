"""RuntimeCalibrationPass: run the model over the samples once, then find the scale of every activation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import (
    CalibrantError,
    DataError,
    QuantizationProperty,
    QuantizationStates,
)
from calibrant.engines import Executor
from calibrant.engines.samples import iterate_samples
from calibrant.engines.variety import watched
from calibrant.graph import Graph, ScaleGroup
from calibrant.observers import BaseTensorObserver
from calibrant.passes.activations import activation_configs, order_carrying, unsettle_dependents
from calibrant.passes.auto import AUTO, AutoCalibration
from calibrant.passes.base import QuantizationPass
from calibrant.passes.calibration import Calibration
from calibrant.passes.equalization import equalize
from calibrant.sketches import Halves, SketchSpec

log = logging.getLogger(__name__)

FEW_SAMPLES = 16
STREAM_BITS = 1  # mantissa bits of what is remembered of each channel of a stream


def plan(graph: Graph, method: str | None = None, override: bool = False) -> list[Calibration]:
    """What is to be calibrated: configs in state INITIAL, with `override` those ACTIVATED as well.

    method: the one for all; None: each config's own. `isotone` keeps an order of scores, so as the method for all it
    goes to the values that carry one (`order_carrying`); the others keep their own method, which the log says.
    """
    wanted = {QuantizationStates.INITIAL} | ({QuantizationStates.ACTIVATED} if override else set())
    isotone = (method or "").casefold() == "isotone"
    carrying = set(order_carrying(graph)) if isotone else set()
    found: list[Calibration] = []
    for config, roots in activation_configs(graph):
        if config.state not in wanted or config.policy.has_property(QuantizationProperty.DYNAMIC):
            continue
        chosen = method if method and (not isotone or carrying & set(roots)) else config.observer_algorithm
        kind = AutoCalibration if chosen.casefold() == AUTO else Calibration
        found.append(kind.of(config, roots, chosen))
    found += [awake(group) for group in graph.float_outputs if carrying & set(group.roots)]
    if isotone:
        others = sum(not carrying & set(c.roots) for c in found)
        log.info("isotone: %d values carry an order; %d others keep their own method", len(found) - others, others)
    return found


def awake(group: ScaleGroup, **detail: Any) -> Calibration:
    """The calibration, by isotone, of a float output, which quantizes it."""
    return replace(Calibration.of(group.config, group.roots, "isotone", **detail), output=group)


class RuntimeCalibrationPass(QuantizationPass):
    """Find scale and offset of every activation whose config is INITIAL, and set its state to ACTIVATED.

    method: the calibration method for all of them; None: each config's own.
    override: calibrate those ACTIVATED as well; what depends on them (a bias) goes back to PASSIVE_INIT.
    calib_steps: at most so many items of the data loader, which is never cycled; None: all of them.

    One pass over the samples whatever the methods. Either every config is solved or none is changed.
    Raises ObservationError for a value with NaN or Inf, DataError for samples that do not fit or are none.
    """

    name = "RuntimeCalibrationPass"

    def __init__(self, method: str | None = None, override: bool = False, calib_steps: int | None = 32) -> None:
        self.method = method
        self.override = override
        self.calib_steps = calib_steps

    def optimize(
        self,
        graph: Graph,
        dataloader: Iterable[Any] | None = None,
        executor: Executor | None = None,
        calib_steps: int | None = None,
        collate_fn: Callable[[Any], Any] | None = None,
        on_step: Callable[[int], None] | None = None,
        **_: Any,
    ) -> None:
        tasks = plan(graph, self.method, self.override)
        if not tasks:
            log.info("%s: no config is INITIAL, nothing to calibrate", self.name)
            return
        if dataloader is None or executor is None:
            raise DataError(f"{self.name} needs samples and an executor: optimize(graph, dataloader, executor)")
        steps = self.calib_steps if calib_steps is None else calib_steps
        samples = iterate_samples(dataloader, executor.input_specs, steps, collate_fn)
        counted = SampleCount(watched(samples))
        sketches = run(tasks, counted, executor, on_step)
        warn_of_few(counted.samples)
        graph.calibrated_samples = counted.samples
        settle(graph, tasks, sketches, executor.threads)
        executor.load_graph(graph)  # as it is equalized


def warn_of_few(samples: int) -> None:
    """Log a warning where these are few samples."""
    if samples < FEW_SAMPLES:
        log.warning("few samples to calibrate on: %d; 32 to 512 representative ones are usual", samples)


class SampleCount:
    """Passes the batches on and counts their samples (axis 0 of the first input)."""

    def __init__(self, batches: Iterable[dict[str, NDArray[Any]]]) -> None:
        self.batches = batches
        self.samples = 0

    def __iter__(self) -> Any:
        for batch in self.batches:
            first = next(iter(batch.values()), np.empty(0))
            self.samples += first.shape[0] if first.ndim else 1
            yield batch


def run(
    tasks: Sequence[Calibration],
    samples: Iterable[dict[str, NDArray[Any]]],
    executor: Executor,
    on_step: Callable[[int], None] | None = None,
) -> Halves:
    """The sketches that the tasks need, in one pass; observers that want raw values are given them on the way."""
    raw: dict[str, list[BaseTensorObserver]] = {}
    for task in tasks:
        if task.needs_raw_values:
            for root in task.roots:
                raw.setdefault(root, []).append(task.observer)
    callbacks = {name: _all_observe(observers) for name, observers in raw.items()}
    return executor.collect(samples, wanted_by(tasks, executor.graph), callbacks, on_step)


def wanted_by(tasks: Sequence[Calibration], graph: Graph) -> dict[str, SketchSpec]:
    """What the tasks want remembered of each value; nothing of those that are given raw values."""
    wanted: dict[str, SketchSpec] = {}
    for task in tasks:
        if not task.needs_raw_values:
            for root in task.roots:
                spec = task.spec(graph.channel_axis_of(root))
                wanted[root] = wanted[root].union(spec) if root in wanted else spec
    for name in (name for stream in graph.streams if stream.sketched for name in stream.values):
        known = wanted.get(name)
        # Under a mask, an axis as long as its sequences is no axis of channels.
        if known and known.histogram and known.channel_axis is not None and _rows_stay_whole(graph, name, known):
            wanted[name] = replace(known, per_channel=True, channel_mantissa_bits=STREAM_BITS)
    return wanted


def _rows_stay_whole(graph: Graph, name: str, spec: SketchSpec) -> bool:
    """Whether margins, if the value has any, are the same where histograms are kept per channel."""
    shape = graph.shape_of(name)
    return spec.isotone_axis is None or (shape is not None and spec.isotone_axis % len(shape) == spec.channel_axis)


def settle(graph: Graph, tasks: Sequence[Calibration], sketches: Halves, threads: int) -> Halves:
    """Solve every task, several at a time, then write them all: an error leaves every config as it was.

    Returns the sketches that they are solved from: of equalized values, as these are now.
    """
    before = len(graph.undoing)
    equalized = equalize(graph, tasks, sketches)
    tasks, sketches = equalized.tasks, equalized.sketches

    def error_of(task: Calibration) -> CalibrantError | None:
        try:
            task.solve(sketches)
        except CalibrantError as error:
            return error
        return None

    with ThreadPoolExecutor(threads, thread_name_prefix="calibrant-solve") as pool:
        errors = [error for error in pool.map(error_of, tasks) if error is not None]
    if errors:
        graph.undo_rescaling(before)
        more = f" (and {len(errors) - 1} more values)" if len(errors) > 1 else ""
        raise type(errors[0])(f"{errors[0]}{more}")
    equalized.commit(graph)
    for task in tasks:
        task.commit()
        if task.output is not None:
            graph.quantize_output(task.output)
    unsettle_dependents(graph, {id(task.config) for task in tasks})
    return sketches


def _all_observe(observers: Sequence[BaseTensorObserver]) -> Callable[[NDArray[Any]], None]:
    def observe(value: NDArray[Any]) -> None:
        for observer in observers:
            observer.observe(value)

    return observe
