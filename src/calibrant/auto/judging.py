"""How far models are from the float one at their outputs, and which of them is the best."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from calibrant.analysis.probabilities import Outputs

F64 = NDArray[np.float64]
Powers = tuple[F64, ...]  # of the outputs, and of their logarithms: see `best_of`

SURE = 2.0  # standard errors
BEYOND_DOUBT = 4.0  # as few samples make too small an error of what is rare


def best_of(models: Mapping[str, Powers], wary_of: Collection[str] = ()) -> str:
    """The name of the model that errs least at the outputs; where that is open, in the logarithms of probabilities.

    models: by name, of the outputs and of their `logs_of`: (samples, outputs, 2), as `signal_and_noise` has it of one
    sample. Open it is between the best and those behind it by at most SURE standard errors of the difference. Of equal
    models the first.
    wary_of: models that are passed over unless they lead the best of the others by BEYOND_DOUBT standard errors.

    Of probabilities a few samples on which the answer tips over make up nearly all of the error, so that a model may be
    ahead by luck with these samples. The logarithms are what the last Softmax is given: there nothing tips, and every
    sample tells something.
    """
    best = _best({name: powers for name, powers in models.items() if name not in wary_of} or models)
    ahead = {name: models[name] for name in wary_of if not _is_open(models[name], models[best], BEYOND_DOUBT)}
    return _best(ahead) if ahead else best


def _best(models: Mapping[str, Powers]) -> str:
    best = models[max(models, key=lambda name: _sqnr(models[name][0]))]
    level = [name for name, powers in models.items() if _is_open(best, powers)]
    return max(level, key=lambda name: _sqnr(models[name][1]))


def _is_open(best: Powers, other: Powers, sure: float = SURE) -> bool:
    """Whether these samples leave open that the one is better than the other."""
    return _sqnr(best[0]) - _sqnr(other[0]) <= sure * standard_error(best[0], other[0])


def _sqnr(powers: F64) -> float:
    """Over all samples."""
    return float(sqnr_of_powers(powers.sum(axis=0)))


def standard_error(one: F64, other: F64) -> float:
    """Of the difference between the SQNRs of two models, (samples, outputs, 2) each, in dB.

    By the jackknife (Tukey, 1958): the SQNR, a ratio of sums, is computed anew without each sample.
    """
    without = sqnr_of_powers(one.sum(axis=0) - one) - sqnr_of_powers(other.sum(axis=0) - other)
    return float(np.sqrt((len(one) - 1) * np.var(without)))


def signal_and_noise(reference: Outputs, found: Outputs) -> list[tuple[float, float]]:
    """Of each floating output of one sample: its power, and the power of the difference to it."""
    floats = [(r.astype(np.float64), f) for r, f in zip(reference, found, strict=True) if r.dtype.kind == "f"]
    return [(float((r**2).sum()), float(((r - f) ** 2).sum())) for r, f in floats]


def sqnr_of_powers(powers: F64) -> F64:
    """SQNR in dB, the mean over outputs. powers: (..., outputs, 2), signal and noise; the result: (...).

    Each output counts for -200 to 200 dB, which is exact for float32; NaN and Inf are -200. Without outputs: 0.
    """
    signal, noise = powers[..., 0], powers[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(noise <= 0, np.inf, 10 * np.log10(signal / noise))
    clipped = np.clip(np.nan_to_num(each, nan=-200.0), -200, 200)
    return np.asarray(clipped.mean(axis=-1) if clipped.shape[-1] else np.zeros(clipped.shape[:-1]))
