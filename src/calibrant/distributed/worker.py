"""Collector: the actor that runs the model, and how a model gets there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir

from calibrant.distributed.reading import feeds
from calibrant.distributed.results import Result, Rows
from calibrant.engines import Executor
from calibrant.graph import Graph
from calibrant.passes.runtime import SampleCount

Files = dict[str, bytes]


@dataclass(frozen=True)
class Job:
    """What all workers do.

    model: a reference to the files of `ship`. empty: the packed result over no samples: what is to be collected.
    executor: makes a worker's executor of its graph. progress: an actor that is told how many items are done, or None.
    """

    model: Any
    empty: bytes
    executor: Callable[[Graph], Executor]
    progress: Any


def ship(graph: Graph) -> Files:
    """The files of the working model, weights apart: together they may be larger than a message can be."""
    with TemporaryDirectory(prefix="calibrant-") as folder:
        ir.save(graph.model, Path(folder) / "model.onnx", external_data="model.weights")
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


class Collector:
    """Runs the model over blocks of items, in one session. An actor of Ray Data."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.worker: Worker | None = None  # opened at the first block, since errors are reported of blocks

    def __call__(self, rows: Rows) -> Rows:
        """The result of a block, as one row."""
        self.worker = self.worker or Worker(self.job)
        result = self.worker.run(rows["item"])
        if self.job.progress is not None:
            self.job.progress.add.remote(len(rows["item"]))
        return result.rows()


class Worker:
    """A model that is open for collecting, as long as the process lives.

    Its files go as soon as the sessions have mapped them (where the system allows that): actors are killed in the end,
    and do not clean up.
    """

    def __init__(self, job: Job) -> None:
        import ray

        self.folder = TemporaryDirectory(prefix="calibrant-worker-", ignore_cleanup_errors=True)
        tempfile.tempdir = self.folder.name
        for name, content in ray.get(job.model).items():
            Path(self.folder.name, name).write_bytes(content)
        self.empty = Result.of(job.empty).table
        graph = Graph(ir.load(Path(self.folder.name, "model.onnx")), None, self.empty.fingerprint)
        graph.mask = self.empty.settings.get("mask")
        self.executor = job.executor(graph)
        wanted = {name: sketch.spec for name, sketch in self.empty.sketches.even.items()}
        self.opened = self.executor.collecting(wanted)
        self.collect = self.opened.__enter__()  # never left: see above

    def run(self, packed: Iterable[bytes]) -> Result:
        """The result of these items."""
        skipped: list[str] = []
        counted = SampleCount(feeds(packed, self.executor.input_specs, skipped))
        sketches = self.collect(counted)
        if counted.samples and os.name == "posix":
            tempfile.tempdir = None
            self.folder.cleanup()
        table = replace(self.empty, sketches=sketches, samples=counted.samples)
        return Result(table, tuple(skipped), frozenset(self.executor.report))
