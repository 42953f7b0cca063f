"""Two models on the same samples: how far their outputs are apart, which layer does it, and what each model costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrant.analysis.layers import LayerComparison, LayerErrors, OnRun
from calibrant.analysis.models import OpenPair
from calibrant.analysis.outputs import Metric, OutputDifference, Outputs, together
from calibrant.core import CalibrantError
from calibrant.engines import InputSpec, iterate_samples
from calibrant.engines.kept import Kept
from calibrant.engines.samples import Feed, items_of
from calibrant.engines.session import usable_processors

MEASURED = 8  # samples on which every layer is tried by itself
SATURATED_DB = 3.0  # by so much the integer kernels may be worse than the arithmetic they stand for


@dataclass
class Comparison:
    """What two models make of the same samples.

    samples: how many. outputs: by the name in the first model. unmatched: outputs of either model without counterpart.
    milliseconds: for each sample, the median. size: bytes of the files. metric: the user's, the mean over samples.
    layers: which layer does what; None where that was not asked for, or could not be found out. notes: sentences on
        what else should be known.
    kept: the few samples on which layers were tried one by one.
    """

    samples: int = 0
    outputs: dict[str, OutputDifference] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    milliseconds: tuple[float, float] = (0.0, 0.0)
    size: tuple[int, int] = (0, 0)
    metric: tuple[float, float] | None = None
    layers: LayerErrors | None = None
    notes: list[str] = field(default_factory=list)
    kept: list[Feed] = field(default_factory=list, repr=False, compare=False)


def compare(
    float_model: str | Path,
    other_model: str | Path,
    samples: Iterable[Any],
    collate_fn: Callable[[Any], Any] | None = None,
    on_step: Callable[[int], None] | None = None,
    *,
    metric: Metric | None = None,
    layers: bool = True,
    on_run: OnRun | None = None,
    on_feed: Callable[[Feed], None] | None = None,
) -> Comparison:
    """Run both models over the samples in onnxruntime, on the CPU, in turn; then find the layers that differ.

    The models may come from any tool: see `calibrant.analysis.pairs`. Their inputs and outputs are matched by name,
    and where no name is in both, by their order. The loader is read once; memory does not grow with its length.
    metric: called for either model with its outputs, a list of arrays in the order of the first model's, and with what
        the sample is: the label where the loader gives one more array than the model has inputs, else the sample's
        number from 0. Returns a number; larger is taken to be better.
    layers: compare layer by layer as well, which takes several times as long.
    on_step: called with the samples done. on_run: with the runs done, and of all, while layers are tried one by one.
    on_feed: called with each sample, as checked arrays by input name.

    Raises ModelError for a model that onnxruntime cannot run, or whose inputs or outputs do not correspond; DataError
    for samples that do not fit.
    """
    pair = OpenPair.open(float_model, other_model)
    labels: list[Any] = []
    outputs = Outputs(pair, metric)
    found = Comparison(outputs=outputs.found, unmatched=pair.unmatched, size=pair.sizes)
    loader = _unlabelled(samples, pair.specs, collate_fn, labels) if metric is not None else samples
    feeds = Kept(iterate_samples(loader, pair.specs, None, None if metric is not None else collate_fn), MEASURED)
    with ThreadPoolExecutor(usable_processors(), thread_name_prefix="calibrant-layers") as pool:
        by_layer = _by_layer(pair, pool, found) if layers else None
        for number, feed in enumerate(feeds):
            outputs.take(feed, labels[-1] if labels and labels[-1] is not None else number)
            if by_layer is not None:
                by_layer = _taken(by_layer, feed, found)
            if on_feed is not None:
                on_feed(feed)
            if on_step is not None:
                on_step(number + 1)
        outputs.check()
        found.kept = feeds.samples
        if by_layer is not None:
            by_layer.measure(found.kept, on_run)
            found.layers = by_layer.found
    found.samples, found.milliseconds = outputs.samples, outputs.milliseconds
    if metric is not None:
        found.metric = outputs.metrics[0] / outputs.samples, outputs.metrics[1] / outputs.samples
    found.notes += _saturation(found)
    return found


def _by_layer(pair: OpenPair, pool: ThreadPoolExecutor, found: Comparison) -> LayerComparison | None:
    try:
        return LayerComparison(pair, pool)
    except CalibrantError as error:
        found.notes.append(f"the layers were not compared: {error}")
        return None


def _taken(by_layer: LayerComparison, feed: Feed, found: Comparison) -> LayerComparison | None:
    """The layer comparison, with one more sample; None, noted, where it cannot go on."""
    try:
        by_layer.take(feed)
        return by_layer
    except CalibrantError as error:
        found.notes.append(f"the layers were not compared: {error}")
        return None


def _unlabelled(
    loader: Any, specs: Sequence[InputSpec], collate_fn: Callable[[Any], Any] | None, labels: list[Any]
) -> Iterator[Any]:
    """The samples without the label that stands behind the inputs; `labels` holds that of the last one, or None."""
    for item in items_of(loader):
        sample = item if collate_fn is None else collate_fn(item)
        labelled = isinstance(sample, tuple | list) and len(sample) == len(specs) + 1
        labels[:] = [sample[-1] if labelled else None]
        yield sample[:-1] if labelled else sample


def _saturation(found: Comparison) -> list[str]:
    """A sentence where the model as it ran is much worse than the arithmetic that it describes."""
    if found.layers is None:
        return []
    simulated, ran = found.layers.simulated, together(found.outputs.values())
    if not simulated.signal or not ran.signal or ran.noise <= simulated.noise * 10 ** (SATURATED_DB / 10):
        return []
    note = (
        f"on this processor the integer kernels give {ran.sqnr_db:.1f} dB where the model describes "
        f"{simulated.sqnr_db:.1f} dB: their sums saturate, as on x86 without VNNI; to run it here, quantize with "
        "--reduce-range, or set onnxruntime's session option session.x64quantprecision to 1"
    )
    return [note]
