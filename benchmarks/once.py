"""One contestant, once, in a process of its own, so that neither its memory nor its threads meet those of another.

`measure` starts the process and reads what it found. In there, to take the time, the contestant is warmed up on two
samples (imports, compiled kernels), then bare inference, the contestant and bare inference again go over the samples.
To take the memory, the contestant runs by itself, over samples that are read as they come.

The process is confined to as many processors as there are to be threads, since not every peer takes a number of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.machine import peak_mb
from benchmarks.peers import CONTESTANTS, INPUT, Contestant, Samples
from benchmarks.varied import Varied
from demo.measure import session

PURPOSES = ("time", "memory", "start")
PATIENCE = 1800  # seconds


@dataclass(frozen=True)
class Found:
    """What one run found. seconds, cpu: of the whole call. bare, bare_cpu: of bare inference, before and after it.

    start: seconds of the first call in the process, on two samples; start_again: of the same call after that.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    bare: float = 0.0
    bare_cpu: float = 0.0
    peak_mb: float = 0.0
    start: float = 0.0
    start_again: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)


class Failed(Exception):
    """A contestant that is not installed, or did not come to an end; says why."""


@dataclass(frozen=True)
class Job:
    """What a process is to do: model and samples are files."""

    contestant: str
    model: Path
    inputs: Path
    samples: int
    threads: int
    purpose: str = "time"


def measure(job: Job, environment: Mapping[str, str] | None = None) -> Found:
    """Do the job in a new process. Raises Failed with the reason. environment: variables beside those of this one."""
    missing = CONTESTANTS[job.contestant].missing
    if missing:
        raise Failed(f"not installed: {', '.join(missing)}")
    words = [word for name, value in asdict(job).items() for word in (f"--{name}", str(value))]
    try:
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.once", *words],
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"not done after {PATIENCE} s") from None
    if child.returncode < 0:
        raise Failed(f"ended by signal {-child.returncode}, which is what becomes of too much memory")
    if child.returncode:
        raise Failed(next(reversed(child.stderr.strip().splitlines()), f"exit code {child.returncode}"))
    return Found(**json.loads(child.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.once", description=__doc__.split("\n")[0])
    parser.add_argument("--contestant", choices=CONTESTANTS, required=True)
    parser.add_argument("--model", type=Path, required=True, help="with one input, [N, 3, H, W] float32")
    parser.add_argument("--inputs", type=Path, required=True, help="the .npy file of what it is given")
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--purpose", choices=PURPOSES, required=True)
    job = Job(**vars(parser.parse_args()))
    confine(job.threads)
    contestant = CONTESTANTS[job.contestant]
    found = {"time": timed, "memory": remembered, "start": started}[job.purpose](contestant, job)
    print(f"\n{json.dumps(asdict(found))}", flush=True)


def confine(processors: int) -> None:
    """Let this process use so many processors, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processors])


def timed(contestant: Contestant, job: Job) -> Found:
    samples = list(Varied(job.inputs, job.samples))
    contestant.run(job.model, samples[:2], job.threads)
    before = bare_inference(job, samples)
    clock = Clock()
    parts = contestant.run(job.model, samples, job.threads)
    seconds, cpu = clock.read()
    after = bare_inference(job, samples)
    return Found(seconds, cpu, (before[0] + after[0]) / 2, (before[1] + after[1]) / 2, parts=parts)


def bare_inference(job: Job, samples: Samples) -> tuple[float, float]:
    """Seconds and CPU seconds of the float model over the samples. Building the session is not counted."""
    running = session(job.model, job.threads)
    running.run(None, {INPUT: samples[0]})
    clock = Clock()
    for x in samples:
        running.run(None, {INPUT: x})
    return clock.read()


def remembered(contestant: Contestant, job: Job) -> Found:
    contestant.run(job.model, Varied(job.inputs, job.samples), job.threads)
    return Found(peak_mb=peak_mb())


def started(contestant: Contestant, job: Job) -> Found:
    samples = list(Varied(job.inputs, 2))
    seconds = []
    for _ in range(2):
        clock = Clock()
        contestant.run(job.model, samples, job.threads)
        seconds.append(clock.read()[0])
    return Found(start=seconds[0], start_again=seconds[1])


class Clock:
    """Seconds since it was made, of the wall and of all threads of this process."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


if __name__ == "__main__":
    main()
