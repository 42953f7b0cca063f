"""How long models take in onnxruntime, one beside the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import onnxruntime as ort

from calibrant.engines.samples import Feed

TURN = 6  # runs of a model before it is another's turn; the first does not count
FEWEST = 5  # turns of each
SECONDS = 2.0  # for each model, about, if there are FEWEST turns by then


def latencies(models: Sequence[bytes | Path], feed: Feed, threads: int) -> list[float]:
    """Seconds that each model takes for this sample on the CPU, with so many threads: the median of its runs.

    The models take turns, so that what else the machine does meets all of them; on a busy one medians then agree within
    some percent where the quickest runs do not. The first run of a turn does not count: it finds the caches full of
    another model. All models are open at once.
    """
    sessions = [_session(model, threads) for model in models]
    spent: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + SECONDS * len(sessions)
    while len(spent[0]) < FEWEST * (TURN - 1) or time.perf_counter() < end:
        for session, times in zip(sessions, spent, strict=True):
            times += [_seconds(session, feed) for _ in range(TURN)][1:]
    return [median(times) for times in spent]


def _session(model: bytes | Path, threads: int) -> ort.InferenceSession:
    """As onnxruntime opens it by default, but for the threads."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _seconds(session: ort.InferenceSession, feed: Feed) -> float:
    start = time.perf_counter()
    session.run(None, feed)
    return time.perf_counter() - start
