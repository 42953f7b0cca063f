"""From samples to a table on a Ray cluster: read, collect, merge in a tree; in the cluster all of it but the last step.

Ray Data runs the stages as a stream, with as much under way as there is memory for. What a lost worker or node held is
made again by Ray from what it was made of, and as every block gives one result, nothing is counted twice. The driver
holds one table.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from calibrant.core import CalibrantError, ClusterError, DataError, errors
from calibrant.data import Samples
from calibrant.distributed.cluster import RayCluster, silence
from calibrant.distributed.reading import as_dataset
from calibrant.distributed.results import COLUMN, Result, merge_rows
from calibrant.distributed.worker import Collector, Job, ship
from calibrant.engines import Executor
from calibrant.graph import Graph
from calibrant.table import CalibrationTable

FAN_IN = 16  # results that one task merges
LEVELS = 2  # of such tasks, so that one table in 256 reaches the driver
POLL = 0.5  # seconds between looks at the progress

OURS = re.compile(r"^calibrant\.core\.errors\.(\w+): (.*)$", re.MULTILINE)
THEIRS = re.compile(r"^\w+(\.\w+)*(Error|Exception)\b")

OnStep = Callable[[int], None]


def collect_on_ray(
    cluster: RayCluster,
    graph: Graph,
    empty: CalibrationTable,
    samples: Any,
    executor: Executor,
    steps: int | None = None,
    collate_fn: Callable[[Any], Any] | None = None,
    on_step: OnStep | None = None,
) -> CalibrationTable:
    """The table over `samples`, collected on a cluster: the same bytes as `collect_table` gives.

    empty: the table over no samples, which says what is to be collected. samples: see `as_dataset`.
    executor: says what the workers' executors are like. on_step: called, in a thread, with how many items are done.

    Raises as `collect_table` does, SettingError for samples that cannot be shared out, ClusterError where the cluster
    cannot be reached or Ray gives up.
    """
    import ray

    with cluster.connected(), silence(), _said_plainly():
        dataset, expected = as_dataset(samples, executor.input_specs, steps, collate_fn, cluster.block_size)
        with _progress(on_step, expected) as progress:
            like = executor.settings(threads=cluster.threads)
            job = Job(ray.put(ship(graph)), Result(empty).packed(), like, progress)
            result = Result(empty)
            for row in _stages(dataset, job, cluster).iter_rows():
                result = result.merge(Result.of(row[COLUMN]))
    if not result.table.samples:
        raise DataError(
            "no samples: " + (f"all {len(result.skipped)} were skipped" if result.skipped else "none given")
        )
    if isinstance(samples, Samples):
        samples.skipped = sorted(result.skipped)
    for note in sorted(result.notes):
        executor.note(note)
    return result.table


def _stages(dataset: Any, job: Job, cluster: RayCluster) -> Any:
    """The dataset of results: of blocks, merged, and merged again."""
    from ray.data import ActorPoolStrategy

    pool = ActorPoolStrategy(min_size=1, max_size=cluster.workers)  # a fixed number might leave no room for reading
    results = dataset.map_batches(
        Collector,
        fn_constructor_args=(job,),
        batch_size=cluster.block_size,
        batch_format="numpy",
        compute=pool,
        num_cpus=cluster.threads,
    )
    for _ in range(LEVELS):
        results = results.map_batches(merge_rows, batch_size=FAN_IN, batch_format="numpy")
    results.context.enable_progress_bars = False  # there is one already, or none is wanted
    return results


@contextmanager
def _said_plainly() -> Iterator[None]:
    """Raise the error that a worker raised, not Ray's report of it."""
    from ray.exceptions import RayError

    try:
        yield
    except CalibrantError:
        raise
    except Exception as error:
        if not isinstance(error, RayError) and type(error).__module__.partition(".")[0] != "ray":
            raise
        raise _original(str(error)) from error


def _original(report: str) -> CalibrantError:
    r"""The first error of ours in a report of Ray; else a ClusterError with the report's last line.

    >>> _original("f()\ncalibrant.core.errors.DataError: it is empty\nray.exceptions.UserCodeException: UDF failed")
    DataError('it is empty')
    """
    found = OURS.search(report)
    if found is not None:
        kind: type[CalibrantError] = getattr(errors, found[1])
        return kind(found[2])
    lines = [line for line in report.splitlines() if line.strip()]
    theirs = [line for line in lines if THEIRS.match(line)]
    return ClusterError(f"Ray gave up: {(theirs or lines or ['without a reason'])[0].strip()}")


@contextmanager
def _progress(on_step: OnStep | None, expected: int | None) -> Iterator[Any]:
    """An actor that counts the items done; `on_step` hears of it, now and then."""
    import ray

    if on_step is None:
        yield None
        return
    count = ray.remote(num_cpus=0)(Count).remote()
    stopped = threading.Event()

    def tell() -> None:
        while not stopped.wait(POLL):
            done = ray.get(count.done.remote())
            on_step(done if expected is None else min(done, expected))  # what is computed again is counted again

    teller = threading.Thread(target=tell, name="calibrant-progress", daemon=True)
    teller.start()
    try:
        yield count
        on_step(ray.get(count.done.remote()) if expected is None else expected)
    finally:
        stopped.set()
        teller.join()


class Count:
    """How many items are done."""

    def __init__(self) -> None:
        self._done = 0

    def add(self, items: int) -> None:
        self._done += items

    def done(self) -> int:
        return self._done
