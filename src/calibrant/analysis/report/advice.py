"""Which layers hurt most, why that is so as far as the numbers tell, and what to do about each."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

import numpy as np

from calibrant.analysis.report.in_use import reach_of
from calibrant.analysis.report.model import ReportedOperation, ReportedValue, Step, Suspect
from calibrant.passes.calibration import MOVES

WORST = 10
GAINS = 1.0  # dB that another method must promise to be worth a try
UNEVEN = 8.0  # times the range of the middle channel: one scale serves such channels badly
MOST_TYPED = 200  # characters of a name
ALIKE = 0.5  # dB between two operations
LESS = 6.0  # dB below what weights or a value keep by themselves: one bit
FINE = 40.0  # dB: what keeps more is not what hurts


def suspects(operations: Sequence[ReportedOperation], values: Sequence[ReportedValue]) -> list[Suspect]:
    """The WORST operations, the worst first; without operations the worst values.

    Those whose error is not known, and those without any, are none.
    """
    by_name = {value.name: value for value in values}
    if operations:
        return [_of_operation(o, o.worst or 0.0, by_name) for o in _worst_first(operations)[:WORST]]
    rated = sorted(((v.sqnr, v) for v in values if v.sqnr is not None and v.sqnr < np.inf), key=lambda pair: pair[0])
    return [Suspect("", v.name, db, list(_facts(v)), list(_steps(v))) for db, v in rated[:WORST]]


def _worst_first(operations: Sequence[ReportedOperation]) -> list[ReportedOperation]:
    """Those whose error is known and not nothing.

    What reads a broken value is as bad as what makes it: of two that are ALIKE, the one that makes it comes first.
    """
    ranked: list[tuple[float, ReportedOperation]] = []
    made: dict[str, float] = {}
    for operation in operations:
        worst = operation.worst
        if worst is None or worst == np.inf:
            continue
        makers = [made[name] for name in operation.reads if name in made]
        rank = max([worst, *(maker for maker in makers if maker <= worst + ALIKE)])
        ranked.append((rank, operation))
        made[operation.value] = rank
    return [operation for _, operation in sorted(ranked, key=lambda pair: pair[0])]


def _of_operation(operation: ReportedOperation, worst: float, values: dict[str, ReportedValue]) -> Suspect:
    facts, steps = [], []
    if operation.alone is not None:
        outputs = f"are at {worst:.1f} dB" if np.isfinite(worst) else "turn into NaN or Inf"
        facts.append(f"with this layer alone quantized, the outputs of the model {outputs}")
    if operation.weights is not None:
        facts.append(f"its weights keep {operation.weights:.1f} dB")
        if operation.weights_in_use is not None and operation.weights_in_use < operation.weights - LESS:
            facts.append(
                f"of the channels that its input makes use of, its weights keep {operation.weights_in_use:.1f} dB"
            )
        if operation.weight_method == "minmax" and operation.weights < FINE:
            steps.append(Step("scale the weights by least error", "--weight-method mse"))
    used = operation.rounding_in_use
    if operation.rounding is not None and used is not None and used < operation.rounding - LESS:
        facts.append(f"what reads '{operation.value}' finds {used:.1f} dB of what it makes use of")
    reads = operation.entering if operation.alone is None else operation.reads
    involved = [values[name] for name in dict.fromkeys([operation.value, *reads]) if name in values]
    for value in sorted(involved, key=lambda each: each.sqnr if each.sqnr is not None else np.inf):
        facts += _facts(value)
        steps += (step for step in _steps(value) if step not in steps)
    steps.append(Step("leave it in float", _option("--leave-in-float", operation.name)))
    return Suspect(operation.name, operation.value, worst, facts, steps)


def _facts(value: ReportedValue) -> Iterator[str]:
    """What is conspicuous about a value."""
    if value.sqnr is not None and value.sqnr < FINE:
        yield f"'{value.name}' keeps {value.sqnr:.1f} dB with the range of {value.method}, as its sketch tells"
    times = unevenness(value)
    if times > UNEVEN:
        yield f"the widest channel of '{value.name}' ranges {times:.0f} times as far as the middle one"
    if value.moved is not None and value.moved > MOVES:
        yield f"the scale of '{value.name}' moves by {100 * value.moved:.0f} % between two halves of the samples"
    if value.finding.nonfinite:
        yield f"{value.finding.nonfinite:,} elements of '{value.name}' are NaN or Inf"


def _steps(value: ReportedValue) -> Iterator[Step]:
    """What would make the error of a value less that is not FINE, and by how much."""
    current = value.sqnr
    if current is not None and current < FINE:
        known = {method: c.sqnr for method, c in value.finding.choices.items() if c.sqnr is not None}
        best = max(known, key=lambda method: known[method], default="")
        if best and known[best] > current + GAINS:
            yield Step(
                f"find the range of '{value.name}' by {best}: {known[best]:.1f} dB instead of {current:.1f} dB",
                _option("--override", value.name, f":method={best}"),
            )
        if value.config.num_of_bits <= 8:
            wider = _option("--override", value.name, ":bits=16")
            yield Step(f"give '{value.name}' 16 bits, where the runtime takes them", wider)
    if value.moved is not None and value.moved > MOVES:
        yield Step("calibrate on more samples")


def _option(option: str, name: str, more: str = "") -> str:
    """The option about that name, as a shell takes it; "" where the name is nothing to type."""
    return f"{option} {shlex.quote(name + more)}" if name.isprintable() and len(name) <= MOST_TYPED else ""


def unevenness(value: ReportedValue) -> float:
    """How many times as far the widest channel ranges as the middle one; 1 where channels are not known."""
    extremes = value.extremes
    if extremes.channels < 2:
        return 1.0
    reach = reach_of(extremes)
    middle = float(np.median(reach))
    return float(reach.max()) / middle if middle > 0 else 1.0
