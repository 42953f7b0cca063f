"""The tables of what one calibration takes: time, and memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median

from benchmarks.markdown import table
from benchmarks.once import Failed, Found, Job
from benchmarks.peers import CONTESTANTS, most_samples

Measure = Callable[..., Found]  # of `once.measure`: raises Failed

SLOW = 20  # times bare inference: a contestant beyond that runs in the first round only
BARE, CALIBRANT, UNEQUALIZED = "bare", "calibrant", "unequalized"


def time_table(job: Job, peers: Sequence[str], rounds: int, gigabytes: float, measure: Measure) -> str:
    """Calibrant and its peers in turn, `rounds` times. gigabytes: that a peer may take."""
    jobs = {name: _limited(replace(job, contestant=name), gigabytes) for name in (CALIBRANT, UNEQUALIZED, *peers)}
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
    """Peak resident sizes for each count of samples; of the peers, up to job.samples and what they can keep."""
    rows = []
    for name in (BARE, CALIBRANT, *peers):
        one = replace(job, contestant=name, purpose="memory")
        most = _limited(one, gigabytes).samples if name in peers else max(counts)
        try:
            peaks = {n: measure(replace(one, samples=n)).peak_mb for n in sorted({min(n, most) for n in counts})}
        except Failed as error:
            rows.append([_failure(name, error), *["–"] * (len(counts) + 1)])
            continue
        rows.append([CONTESTANTS[name].name, *_peak_cells(peaks, counts)])
    return table(["peak MB with so many samples", *map(str, counts), "grown by"], rows)


def _peak_cells(peaks: Mapping[int, float], counts: Sequence[int]) -> Iterator[str]:
    """One for each count, the most that was measured in the first one beyond it; and the growth to the most."""
    least, most = min(peaks), max(peaks)
    beyond = next((count for count in counts if count > most), None) if most not in counts else None
    for count in counts:
        here = f"{peaks[most]:.0f} at {most}" if count == beyond else "–"
        yield f"{peaks[count]:.0f}" if count in peaks else here
    yield f"{100 * (peaks[most] / peaks[least] - 1):+.1f} %" if most > least else ""


def _limited(job: Job, gigabytes: float) -> Job:
    """Of so few samples that what the contestant keeps of them fits."""
    return replace(job, samples=most_samples(CONTESTANTS[job.contestant], job.model, job.samples, gigabytes))


def _failure(name: str, reason: Failed, width: int = 150) -> str:
    return f"{CONTESTANTS[name].name}: {reason}"[:width]


def _median(values: Sequence[float]) -> str:
    return f"{median(values):.2f}"
