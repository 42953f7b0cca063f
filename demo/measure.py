"""Run two models on the same inputs in onnxruntime, and say how far apart they are."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """What a model gave for every input, and how long one input took."""

    outputs: F64  # (inputs, classes)
    milliseconds: float


def session(
    path: str | Path,
    threads: int | None = None,
    *,
    optimized: bool = True,
    integer_kernels: bool = True,
    exact_sums: bool = False,
) -> ort.InferenceSession:
    """An onnxruntime session on the CPU.

    threads None: onnxruntime's choice. optimized False: every node runs as it is written. integer_kernels False:
    optimized, but between DequantizeLinear and QuantizeLinear all is float. exact_sums: of integers, on x86 processors
    without VNNI as well.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not integer_kernels:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if exact_sums:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_in_turn(models: Sequence[ort.InferenceSession], inputs: Sequence[F32], rounds: int = 3) -> list[Run]:
    """Every model over every input, a model at a time within a round, so that a busy moment hits them alike.

    The time is that of the quickest round, after one that warms up.
    """
    outputs: list[F64] = []
    seconds = [float("inf")] * len(models)
    for round_number in range(rounds + 1):
        for number, model in enumerate(models):
            name = model.get_inputs()[0].name
            start = time.perf_counter()
            results = [model.run(None, {name: x})[0] for x in inputs]
            elapsed = time.perf_counter() - start
            if round_number == 0:
                outputs.append(np.concatenate(results).astype(np.float64))
            else:
                seconds[number] = min(seconds[number], elapsed)
    return [Run(o, 1000 * s / len(inputs)) for o, s in zip(outputs, seconds, strict=True)]


def sqnr_db(signal: NDArray[Any], other: NDArray[Any]) -> float:
    """Power of `signal` over that of its difference to `other`, in dB, over all values. Infinite when equal."""
    noise = float(np.square(np.subtract(signal, other, dtype=np.float64)).sum())
    power = float(np.square(np.asarray(signal, np.float64)).sum())
    return float("inf") if noise == 0 else float(10 * np.log10(power / noise))


def agreement(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Share of rows in which the largest value is in the same place."""
    return float(np.mean(a.argmax(-1) == b.argmax(-1)))
