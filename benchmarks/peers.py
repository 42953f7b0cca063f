"""What is compared: Calibrant and its peers, each as one whole call on the same model and the same samples.

A whole call goes from the model's file to the last scale of an activation. Every contestant is asked for 8 bits, with
what else it does by default. Calibrant collects for all five methods and solves every value by each.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibrant import QuantizationSetting, TensorQuantizationConfig, calibrate, load_onnx_graph
from calibrant.graph import Graph
from calibrant.table.collecting import METHODS
from demo.measure import session

F32 = NDArray[np.float32]
Samples = Sequence[F32]
Parts = Mapping[str, float]  # seconds of parts of the call that are told apart

INPUT = "input"  # of all the models here


@dataclass(frozen=True)
class Contestant:
    """One way to calibrate. `run(model, samples, threads)` is the whole call.

    packages: the modules that it needs. keeps_activations: whether its memory grows by all activations of each sample.
    """

    name: str
    run: Callable[[Path, Samples, int], Parts]
    packages: tuple[str, ...] = ()
    keeps_activations: bool = False

    @property
    def missing(self) -> list[str]:
        """Of the packages that it needs, those that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]


def bare(model: Path, samples: Samples, threads: int) -> Parts:
    """The float model over the samples, one at a time, in onnxruntime with its default options; nothing else."""
    running = session(model, threads)
    for x in samples:
        running.run(None, {INPUT: x})
    return {}


def calibrant(equalizes: bool, model: Path, samples: Samples, threads: int) -> Parts:
    """isotone solves the values that carry an order, which are those whose margins are collected.

    equalizes: collect what equalization needs as well, which is the default.
    """
    setting = QuantizationSetting() if equalizes else QuantizationSetting(equalization=False, smooth_quant=False)
    start = time.perf_counter()
    graph = load_onnx_graph(model)
    loaded = time.perf_counter()
    table = calibrate(graph, samples, methods=METHODS, threads=threads, setting=setting)
    collected = time.perf_counter()
    todo = [
        (name, method, config)
        for name, config in observed(graph)
        for method in METHODS
        if method != "isotone" or table.sketches[name].margins is not None
    ]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda job: table.solve(*job), todo))
    solved = time.perf_counter()
    return {"load": loaded - start, "plan and collect": collected - loaded, "solve": solved - collected}


def observed(graph: Graph) -> list[tuple[str, TensorQuantizationConfig]]:
    """Every observed value with the config it is solved for."""
    groups = [*graph.groups, *graph.float_outputs]
    return [(root, group.config) for group in groups for root in group.roots]


def onnxruntime_calibrator(method: str, model: Path, samples: Samples, threads: int) -> Parts:
    """A calibrator of onnxruntime.quantization, from creating it to its ranges. It takes no number of threads."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._samples = iter(samples)

        def get_next(self) -> dict[str, F32] | None:
            x = next(self._samples, None)
            return None if x is None else {INPUT: x}

    with tempfile.TemporaryDirectory() as folder:
        augmented = f"{folder}/augmented.onnx"
        calibrator = create_calibrator(
            model, augmented_model_path=augmented, calibrate_method=CalibrationMethod[method]
        )
        calibrator.collect_data(Reader())
        calibrator.compute_data()
    return {}


def nncf(read: Callable[[Path], Any], corrects: bool, model: Path, samples: Samples, threads: int) -> Parts:
    """nncf.quantize as it comes, or, where it `corrects` no biases, its ranges alone. It takes no number of threads."""
    import logging

    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters

    nncf.set_log_level(logging.ERROR)
    nncf.quantize(
        read(model),
        nncf.Dataset(samples, lambda x: {INPUT: x}),
        subset_size=len(samples),
        advanced_parameters=AdvancedQuantizationParameters(disable_bias_correction=not corrects),
    )
    return {}


def _read_openvino(model: Path) -> Any:
    import openvino

    return openvino.Core().read_model(model)


BARE = Contestant("bare onnxruntime inference", bare)
CALIBRANT = Contestant("Calibrant, five methods at once", partial(calibrant, True))
UNEQUALIZED = Contestant("- without the statistics of equalization", partial(calibrant, False))
PEERS = {
    f"onnxruntime-{method.lower()}": Contestant(
        f"onnxruntime.quantization, {method}",
        partial(onnxruntime_calibrator, method),
        ("onnxruntime.quantization",),
        keeps_activations=method != "MinMax",
    )
    for method in ("MinMax", "Entropy", "Percentile")
} | {
    "nncf-onnx": Contestant("NNCF on ONNX, ranges alone", partial(nncf, onnx.load, False), ("nncf",)),
    "nncf-onnx-default": Contestant("NNCF on ONNX, default", partial(nncf, onnx.load, True), ("nncf",)),
    "nncf-openvino": Contestant(
        "NNCF on OpenVINO, ranges alone", partial(nncf, _read_openvino, False), ("nncf", "openvino")
    ),
    "nncf-openvino-default": Contestant(
        "NNCF on OpenVINO, default", partial(nncf, _read_openvino, True), ("nncf", "openvino")
    ),
}
CONTESTANTS = {"bare": BARE, "calibrant": CALIBRANT, "unequalized": UNEQUALIZED} | PEERS


def activations(model: Path) -> int:
    """How many numbers the model's nodes make of one sample."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load(model)).graph
    made = [*inferred.value_info, *inferred.output]
    return sum(prod(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim) for value in made)


KEPT = 1.25 * np.dtype(np.float32).itemsize  # bytes of each number that a peer keeps, with what it copies at the end


def most_samples(contestant: Contestant, model: Path, wanted: int, gigabytes: float) -> int:
    """As many of the wanted samples as the contestant can keep the activations of in so much memory."""
    if not contestant.keeps_activations:
        return wanted
    return min(wanted, max(2, int(gigabytes * 1e9 / KEPT / activations(model))))
