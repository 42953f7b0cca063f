"""The search along foretold orders for a small set of operations in float, with as few models run as it takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from calibrant.core import TargetError
from calibrant.precision.judging import Judge
from calibrant.precision.order import Names, Planner, per_operation
from calibrant.precision.rebuilding import Models, quantized_bytes
from calibrant.precision.scoring import Score

log = logging.getLogger(__name__)

TAKEN_BACK = 40  # operations that are tried as integers again, at most
ASTRAY = 2.0  # dB: forecasts that are off by amounts that differ more tell little
ADDED = 48  # models that are run one operation after the other then, about
TRIED = 8  # of them for each operation: those that are foretold to gain most
NEAR = 0.3  # dB: a forecast that misses the target by no more is worth a run, however well forecasts did so far

NOTHING: Names = frozenset()

OnSearch = Callable[[str, int, int | None], None]
"""Called with what is being done, how much of it is done, and of how much; None where that is not known."""


@dataclass(frozen=True)
class Trial:
    """A model that was run.

    left: the operations named to stay in float. in_float: how many operations are lost to float, with those that go
    along. score: see `Judge.score`. size: bytes of its constants. latency: seconds for a sample, where it was measured.
    """

    left: Names
    in_float: int
    score: Score
    size: int
    latency: float | None = None


def _gain(one: Trial, other: Trial) -> float:
    """Of the noise of one model, how much is gone in the other for each operation lost."""
    left = 10 ** ((one.score.sqnr_db - other.score.sqnr_db) / 10)
    return per_operation(1 - left, other.in_float - one.in_float)


class _Sets:
    """Growing sets, made when they are first asked for, as long as they serve."""

    def __init__(self, order: Iterator[Names], serves: Callable[[Names], bool]) -> None:
        self._order, self._serves = order, serves
        self._made: list[Names] = []

    def __getitem__(self, index: int) -> Names:
        return self._made[index]

    def reach(self, index: int) -> bool:
        """Make the sets up to that index; whether there are so many."""
        while len(self._made) <= index:
            following = next(self._order, None)
            if following is None or not self._serves(following):
                return False
            self._made.append(following)
        return True


class Search:
    """Runs as few models as it can: where to look is foretold, and each run corrects the forecast."""

    def __init__(
        self,
        models: Models,
        judge: Judge,
        planner: Planner,
        orders: Sequence[Iterator[Names]],
        plain: Trial,
        on_search: OnSearch | None,
    ) -> None:
        self._models, self._judge, self._planner, self._orders = models, judge, planner, orders
        self._on_search = on_search
        self._all = planner.forecast(NOTHING).quantized
        self._known: dict[Names, Trial] = {self._all: plain}
        self._goal = judge.targets.sqnr_db

    @property
    def trials(self) -> list[Trial]:
        """The models that were run."""
        return list(self._known.values())

    def smallest(self) -> Trial:
        """The model found that meets the targets with the fewest operations lost.

        Raises TargetError where none does, or none with as few lost as may be.
        In each order is looked for one with fewer than the orders before have led to.
        """
        best: Trial | None = None
        for order in self._orders:
            most = len(self._all) - 1 if best is None else best.in_float - 1
            found = self._first_that_meets(_Sets(order, partial(self._loses_no_more, most)))
            best = best if found is None else self._with_some_taken_back(found)
        if best is None:
            raise TargetError(self._out_of_reach())
        if best.in_float > 1 and self._spread() > ASTRAY:
            best = self._built_up(best)
        limit = self._judge.targets.most_in_float
        if limit is not None and best.in_float > limit:
            raise TargetError(
                f"{self._wanted()} takes {best.in_float} of {len(self._all)} operations in float, and at most {limit} "
                "may be; lower the target, or allow more in float"
            )
        return best

    def most_accurate(self, most: int) -> Trial:
        """The model found with the highest SQNR, of those that lose no more operations than that, and keep one."""
        most = min(most, len(self._all) - 1)
        for order in self._orders:
            sets, last = _Sets(order, partial(self._loses_no_more, most)), 0
            while sets.reach(last + 1):
                last += 1
            self._trial(sets[last])
        within = [*self.trials, *self._growing(most)]
        return max(within, key=lambda trial: (trial.score.sqnr_db, -trial.in_float))

    def _spread(self) -> float:
        """By how many dB what forecasts are off by differs.

        Much where a few samples whose answer tips over make up most of the noise: forecasts then tell little.
        """
        offsets = [self._offset(trial) for trial in self.trials]
        return max(offsets) - min(offsets)

    def _built_up(self, best: Trial) -> Trial:
        """A smaller model, from nothing in float on, one operation after the other; else `best`."""
        found = next(filter(self._meets, self._growing(best.in_float - 1)), None)
        return best if found is None else self._with_some_taken_back(found)

    def _growing(self, most: int) -> Iterator[Trial]:
        """Models with one operation more in float each time, none with more than `most` lost.

        Run are those that are foretold to gain most for each operation lost; the one goes on that turns out to. Where
        no other can follow, those that are foretold to gain less are run as well.
        """
        now, end = self._known[self._all], len(self._known) + ADDED
        while len(self._known) < end:
            more = [now.left | {name} for name in sorted(self._all - now.left)]
            serving = [left for left in more if now.in_float < self._lost(left) <= most]
            serving = [left for left in serving if self._planner.forecast(left).observed]
            if not serving:
                return
            last = min(map(self._lost, serving)) == most
            serving.sort(key=partial(self._foretold_gain, now), reverse=True)
            tried = []
            for left in serving[: end - len(self._known) if last else TRIED]:
                tried.append(self._trial(left))
                yield tried[-1]
            now = max(tried, key=partial(_gain, now))

    def _foretold_gain(self, now: Trial, left: Names) -> float:
        """Of the noise that there is now, how much goes for each operation lost."""
        there, then = (10 ** (-self._planner.forecast(names).sqnr_db / 10) for names in (now.left, left))
        return per_operation(1 - then / there, self._lost(left) - now.in_float)

    def _first_that_meets(self, sets: _Sets) -> Trial | None:
        """A model that meets the targets, while that of the set before, if it was run, does not; None: no one does."""
        failing, step = 0, 1
        meeting = None
        while meeting is None:
            if not sets.reach(failing + 1):
                return None
            at = max(failing + 1, self._foretold(sets, failing))
            while at < failing + step and sets.reach(at + 1):
                at += 1
            if self._meets(self._trial(sets[at])):
                meeting = at
            else:
                failing, step = at, 2 * step
        while meeting - failing > 1:
            at = min(max(self._foretold(sets, meeting), failing + 1), meeting - 1)
            if self._meets(self._trial(sets[at])):
                meeting = at
            else:
                failing = at
        return self._trial(sets[meeting])

    def _foretold(self, sets: _Sets, at: int) -> int:
        """The first index whose forecast, corrected by what was measured at another, meets the goal; else the last.

        Without a goal in dB it is 0.
        """
        index = 0
        if self._goal is not None:
            offset = self._offset(self._trial(sets[at]))
            while self._planner.forecast(sets[index]).sqnr_db + offset < self._goal and sets.reach(index + 1):
                index += 1
        return index

    def _loses_no_more(self, most: int, left: Names) -> bool:
        return self._lost(left) <= most

    def _lost(self, left: Names) -> int:
        return len(self._all - self._planner.forecast(left).quantized)

    def _with_some_taken_back(self, trial: Trial) -> Trial:
        """Without those operations in float that turn out not to be needed."""
        tried = 0
        waiting = self._least_needed_first(trial)
        while waiting and tried < TAKEN_BACK:
            left = trial.left & (trial.left - {waiting.pop(0)})
            if self._planner.forecast(left).quantized == self._planner.forecast(trial.left).quantized:
                trial = replace(trial, left=left)  # it goes to float anyway
                continue
            forecast = self._planner.forecast(left)
            doubt = max(NEAR, self._spread())
            near = self._goal is None or forecast.sqnr_db + self._offset(trial) >= self._goal - doubt
            if not (near and forecast.observed):
                continue
            tried += 1
            other = self._trial(left)
            if self._meets(other):
                trial = other
        return trial

    def _least_needed_first(self, trial: Trial) -> list[str]:
        forecasts = {name: self._planner.forecast(trial.left - {name}) for name in trial.left}
        return sorted(forecasts, key=lambda name: (-forecasts[name].sqnr_db, name))

    def _trial(self, left: Names) -> Trial:
        """The model with these in float, run unless it, or one that is the same, was before."""
        quantized = self._planner.forecast(left).quantized
        if quantized not in self._known:
            self._models.build(left)
            score = self._judge.score(self._models.graph)
            lost = self._lost(left)
            self._known[quantized] = Trial(left, lost, score, quantized_bytes(self._models.graph))
            log.info("%d operations in float: %.2f dB (%s)", lost, score.sqnr_db, ", ".join(sorted(left)))
            if self._on_search is not None:
                self._on_search("running models", len(self._known), None)
        return replace(self._known[quantized], left=left)

    def _meets(self, trial: Trial) -> bool:
        return not self._judge.misses(trial.score)

    def _offset(self, trial: Trial) -> float:
        """By how many dB a model turned out better than foretold."""
        return trial.score.sqnr_db - self._planner.forecast(trial.left).sqnr_db

    def _wanted(self) -> str:
        targets = self._judge.targets
        wanted = [] if targets.sqnr_db is None else [f"{targets.sqnr_db:g} dB at the outputs"]
        if self._judge.float_metric is not None:
            wanted.append(f"a metric of at least {self._judge.float_metric - (targets.max_drop or 0.0):g}")
        return f"the target, {' and '.join(wanted)},"

    def _out_of_reach(self) -> str:
        best = max(self.trials, key=lambda trial: (trial.score.metric or 0.0, trial.score.sqnr_db))
        score = best.score
        metric = "" if score.metric is None else f" and a metric of {score.metric:g}"
        return (
            f"{self._wanted()} is out of reach while anything is quantized: the best of {len(self.trials)} models has "
            f"{score.sqnr_db:.1f} dB{metric}, with {best.in_float} of {len(self._all)} operations in float; "
            "lower the target, or leave the model in float"
        )
