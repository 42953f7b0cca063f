"""The tables of what one calibration takes: time, and memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median

from benchmarks.markdown import table
from benchmarks.once import Failed, Found, Job
from benchmarks.peers import CONTESTANTS, most_samples

Measure = Callable[..., Found]  # of `once.measure`: raises Failed

SLOW = 20  # times bare inference: a contestant beyond that runs in the first round only
BARE, CALIBRANT = "bare", "calibrant"


def time_table(job: Job, peers: Sequence[str], rounds: int, gigabytes: float, measure: Measure) -> str:
    """Calibrant and its peers in turn, `rounds` times. gigabytes: that a peer may take."""
    jobs = {name: _limited(replace(job, contestant=name), gigabytes) for name in (CALIBRANT, *peers)}
    found: dict[str, list[Found]] = {name: [] for name in jobs}
    failed: dict[str, Failed] = {}
    for _ in range(rounds):
        for name, one in jobs.items():
            if name not in failed and not any(run.seconds > SLOW * run.bare for run in found[name]):
                try:
                    found[name].append(measure(one))
                except Failed as error:
                    failed[name] = error
    rows = [_bare_row(job, [run for name, runs in found.items() if jobs[name].samples == job.samples for run in runs])]
    for name, one in jobs.items():
        if name in failed:
            rows.append([_failure(name, failed[name]), *["–"] * 7])
        else:
            rows += _time_rows(one, found[name])
    headings = ["", "samples", "rounds", "seconds", "x bare", "lowest .. highest", "CPU seconds", "x bare's CPU"]
    return table(headings, rows)


def _bare_row(job: Job, runs: Sequence[Found]) -> list[str]:
    seconds, cpu = (_median(values) for values in ([run.bare for run in runs], [run.bare_cpu for run in runs]))
    return [CONTESTANTS[BARE].name, str(job.samples), str(len(runs)), seconds, "1.00", "", cpu, "1.00"]


def _time_rows(job: Job, runs: Sequence[Found]) -> Iterator[list[str]]:
    """The contestant's row, and one for each part that it tells apart."""
    ratios = [run.seconds / run.bare for run in runs]
    yield [
        CONTESTANTS[job.contestant].name,
        str(job.samples),
        str(len(runs)),
        _median([run.seconds for run in runs]),
        _median(ratios),
        f"{min(ratios):.2f} .. {max(ratios):.2f}",
        _median([run.cpu for run in runs]),
        _median([run.cpu / run.bare_cpu for run in runs]),
    ]
    for part in runs[0].parts:
        shares = [run.parts[part] / run.bare for run in runs]
        spread = f"{min(shares):.2f} .. {max(shares):.2f}"
        yield [f"- {part}", "", "", _median([run.parts[part] for run in runs]), _median(shares), spread, "", ""]


def start_note(job: Job, measure: Measure) -> str:
    """What stands apart from the times: compiling Calibrant's kernels, and reading them from their cache."""
    once = replace(job, contestant=CALIBRANT, samples=2, purpose="start")
    with tempfile.TemporaryDirectory(prefix="calibrant-benchmark-") as cache:
        compiling = measure(once, {"NUMBA_CACHE_DIR": cache})
        reading = measure(once, {"NUMBA_CACHE_DIR": cache})
    extra = [run.start - run.start_again for run in (compiling, reading)]
    return (
        f"Apart: Calibrant's first call in a process takes {extra[1]:.1f} s longer, to read compiled kernels from a "
        f"cache; compiling them, once in an installation, takes {extra[0]:.1f} s."
    )


def memory_table(job: Job, peers: Sequence[str], counts: Sequence[int], gigabytes: float, measure: Measure) -> str:
    """Peak resident sizes for each count of samples; of the peers, up to job.samples."""
    rows = []
    for name in (BARE, CALIBRANT, *peers):
        most = _limited(replace(job, contestant=name), gigabytes).samples if name in peers else max(counts)
        peaks: list[float | None] = []
        try:
            for count in counts:
                one = replace(job, contestant=name, samples=count, purpose="memory")
                peaks.append(measure(one).peak_mb if count <= most else None)
        except Failed as error:
            rows.append([_failure(name, error), *["–"] * (len(counts) + 1)])
            continue
        rows.append([CONTESTANTS[name].name, *("–" if p is None else f"{p:.0f}" for p in peaks), _grown(peaks)])
    return table(["peak MB with so many samples", *map(str, counts), "grown by"], rows)


def _grown(peaks: Sequence[float | None]) -> str:
    """From the first to the last that was measured."""
    known = [peak for peak in peaks if peak is not None]
    return f"{100 * (known[-1] / known[0] - 1):+.1f} %" if len(known) > 1 else ""


def _limited(job: Job, gigabytes: float) -> Job:
    """Of so few samples that what the contestant keeps of them fits."""
    return replace(job, samples=most_samples(CONTESTANTS[job.contestant], job.model, job.samples, gigabytes))


def _failure(name: str, reason: Failed, width: int = 150) -> str:
    return f"{CONTESTANTS[name].name}: {reason}"[:width]


def _median(values: Sequence[float]) -> str:
    return f"{median(values):.2f}"
