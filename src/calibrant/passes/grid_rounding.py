"""Rows onto a grid so that a quadratic error is least: one value after the other, the rest making up for each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from calibrant.core import TensorQuantizationConfig
from calibrant.sketches.kernels.jit import compiled

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
SWEEPS = 30  # of coordinate descent, at most; it ends where nothing changes
PAIRED = 512  # values of a row: of longer ones no pairs are tried, which takes the square of their length
RATIOS = np.geomspace(1.2, 0.4, 34)  # of the scale, evenly apart in their logarithm (3.4 %)
TRIALS = np.geomspace(1.25, 0.8, 7)  # likewise, of the best of these
ROUNDS = 3  # of fitting the scale to the integers, then the integers to the scale


def fitted(target: F64, hessian: F64, config: TensorQuantizationConfig, threads: int = 1) -> tuple[F64, F32]:
    """Rows on a grid, and its scale, with a small error d H d^T, d = target - rows.

    target: (groups, outputs, K). hessian: (groups, K, K), positive definite. config: its scale is what the search
    starts from, and keeps where scales are powers of two. Returns rows, float64, and a scale of the config's shape.

    1. The scale: of RATIOS to the config's, the one with the least error of plain rounding, weighted by the diagonal of
       H; then, of TRIALS to that one, the one with the least error of integers as step 2 finds them from one start.
    2. The integers: as GPTQ rounds (Frantar et al., 2022), then by coordinate descent.
    3. The scale that is best for these integers, in closed form, then coordinate descent again; ROUNDS times. Neither
       can make the error larger.
    """
    low, high, shape = float(config.quant_min), float(config.quant_max), target.shape[:2]

    def together(errors: F64) -> F64:
        return errors if config.is_per_channel else np.full(shape, errors.sum())

    def plain_error(scale: F64) -> F64:
        return together((_plain_error(target, scale, low, high) * diagonal).sum(axis=2))

    def rounded_error(scale: F64) -> F64:
        start = compensated(target, hessian, scale, low, high, threads)
        q = descended(target, hessian, scale, start, low, high, threads)
        return together(quadratic_error(target - scale[..., None] * q, hessian))

    given = np.asarray(config.scale, np.float64)
    scale = _single(np.broadcast_to(given.reshape(shape if config.is_per_channel else (1, 1)), shape))
    if not config.is_power_of_2:
        diagonal = np.einsum("gkk->gk", hessian)[:, None, :]
        scale = _best(scale, RATIOS, plain_error)
        scale = _best(scale, TRIALS, rounded_error)
    q = rounded(target, hessian, scale, low, high, threads)
    for _ in range(0 if config.is_power_of_2 else ROUNDS):
        product = q @ hessian
        above, below = together((product * target).sum(axis=2)), together((product * q).sum(axis=2))
        usable = (above > 0) & (below > 0)
        fit = np.where(usable, above, 1.0) / np.where(usable, below, 1.0)
        scale = np.where(usable & (fit > scale / 2) & (fit < scale * 2), _single(fit), scale)
        q = descended(target, hessian, scale, q, low, high, threads)
    kept = scale.reshape(-1) if config.is_per_channel else scale.reshape(-1)[0]
    return q * scale[..., None], np.asarray(kept, np.float32)


def _best(scale: F64, ratios: F64, error: Callable[[F64], F64]) -> F64:
    """Of these ratios to the scale, for each row, the scale of least error."""
    scales = [_single(scale * ratio) for ratio in ratios]
    least = np.argmin([error(each) for each in scales], axis=0)
    return np.asarray(np.take_along_axis(np.array(scales), least[None], axis=0)[0])


def rounded(rows: F64, hessian: F64, scale: F64, low: float, high: float, threads: int = 1) -> F64:
    """Whole numbers q in [low, high], of the shape of `rows`, with a small (rows - scale q) H (rows - scale q)^T.

    scale: (groups, outputs). Coordinate descent starts from `compensated`, and from plain rounding; of each row the
    better end is kept, so that none is worse than plainly rounded.
    """
    plain = np.clip(np.rint(rows / scale[..., None]), low, high)
    starts = compensated(rows, hessian, scale, low, high, threads), plain
    ends = [descended(rows, hessian, scale, start, low, high, threads) for start in starts]
    errors = [quadratic_error(rows - scale[..., None] * end, hessian) for end in ends]
    return np.where((errors[0] <= errors[1])[..., None], *ends)


def compensated(rows: F64, hessian: F64, scale: F64, low: float, high: float, threads: int = 1) -> F64:
    """Whole numbers as `rounded` finds them, by GPTQ alone (Frantar et al., 2022).

    Values are rounded one after the other, those of the largest diagonal element first, and those still to come are
    moved to where they make up best for the error so far: with H = U D U^T, U upper triangular and 1 on its diagonal,
    value k by the sum of U[j, k] times the error of each value j before it (Chee et al., 2023, arXiv 2307.13304: the
    same numbers as with the inverse of H, which is not needed).
    """
    order = np.argsort(-np.einsum("gkk->gk", hessian), axis=1, kind="stable")
    h = np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], axis=1), order[:, None, :], axis=2)
    root = np.linalg.cholesky(h[:, ::-1, ::-1])[:, ::-1, ::-1]
    shares = np.ascontiguousarray(root / np.einsum("gkk->gk", root)[:, None, :])
    ordered = np.take_along_axis(rows, order[:, None, :], axis=2)
    found = np.empty_like(ordered)
    _side_by_side(lambda first, last: _compensate(ordered, shares, scale, low, high, found, first, last), rows, threads)
    q = np.empty_like(found)
    np.put_along_axis(q, np.broadcast_to(order[:, None, :], found.shape), found, axis=2)
    return q


def quadratic_error(difference: F64, hessian: F64) -> F64:
    """d H d^T of each row: (groups, outputs)."""
    return np.asarray(((difference @ hessian) * difference).sum(axis=2))


def descended(rows: F64, hessian: F64, scale: F64, start: F64, low: float, high: float, threads: int = 1) -> F64:
    """Coordinate descent from the whole numbers `start`: each goes to where it is best with the others held.

    Where none moves any more, pairs are tried that move a step each: values that resemble each other can only move
    against each other.
    """
    found = start.copy()
    slopes = np.ascontiguousarray((rows - scale[..., None] * start) @ hessian)
    diagonal = np.ascontiguousarray(np.einsum("gkk->gk", hessian))
    beside = np.abs(hessian * (1 - np.eye(hessian.shape[1]))).max(axis=2)
    _side_by_side(
        lambda first, last: _descend(slopes, hessian, diagonal, beside, scale, low, high, found, first, last),
        rows,
        threads,
    )
    return found


def _plain_error(target: F64, scale: F64, low: float, high: float) -> F64:
    step = scale[..., None]
    return np.asarray((target - step * np.clip(np.rint(target / step), low, high)) ** 2)


def _single(scale: F64) -> F64:
    """As float32 has it, which is what is kept."""
    return np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32).astype(np.float64)


def _side_by_side(work: object, rows: F64, threads: int) -> None:
    """Call work(first, last) for parts of all rows, counted through the groups."""
    count = rows.shape[0] * rows.shape[1]
    cuts = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads, thread_name_prefix="calibrant-rounding") as pool:
        list(pool.map(work, cuts[:-1], cuts[1:]))  # type: ignore[arg-type]


@compiled
def _compensate(rows: F64, shares: F64, scale: F64, low: float, high: float, found: F64, first: int, last: int) -> None:
    """shares: (groups, K, K), U of H = U D U^T."""
    outputs, size = rows.shape[1:]
    for row in range(first, last):
        g, o = row // outputs, row % outputs
        step = scale[g, o]
        w = rows[g, o].copy()
        for j in range(size):
            found[g, o, j] = min(max(np.rint(w[j] / step), low), high)
            error = rows[g, o, j] - found[g, o, j] * step
            u = shares[g, j]
            for k in range(j + 1, size):
                w[k] += error * u[k]


@compiled
def _descend(
    slopes: F64,
    hessian: F64,
    diagonal: F64,
    beside: F64,
    scale: F64,
    low: float,
    high: float,
    found: F64,
    first: int,
    last: int,
) -> None:
    """slopes: of half the error, as each value of the grid grows, with its sign turned; changed.

    diagonal, beside: (groups, K), of H, and the largest element of each row beside it.
    """
    outputs, size = slopes.shape[1:]
    for row in range(first, last):
        g, o = row // outputs, row % outputs
        step, q, h, slope = scale[g, o], found[g, o], hessian[g], slopes[g, o]
        for _ in range(SWEEPS):
            moved = False
            for j in range(size):
                curve = diagonal[g, j]
                wanted = min(max(np.rint(q[j] + slope[j] / (curve * step)), low), high)
                change = (wanted - q[j]) * step
                # A move that gains no more than a rounding error would be made back and forth.
                if change * (2 * slope[j] - change * curve) > 1e-9 * step * step * curve:
                    q[j] = wanted
                    moved = True
                    for k in range(size):
                        slope[k] -= change * h[j, k]
            if not moved and not (size <= PAIRED and _move_pair(q, slope, h, diagonal[g], beside[g], step, low, high)):
                break


@compiled
def _move_pair(q: F64, slope: F64, h: F64, diagonal: F64, beside: F64, step: float, low: float, high: float) -> bool:
    """For each value, move it a step together with the other that gains most with it, if that gains. Did any?

    A pair gains what each of the two gains by itself, and 2 step^2 |h| of what they have in common. So most values are
    passed over at once: with the best of the others, and the largest h, they would not gain.
    """
    size, any_moved = q.size, False
    down, up = np.empty(size), np.empty(size)
    top = _alone(q, slope, diagonal, step, low, high, down, up)
    for j in range(size):
        best, partner, first, second = 1e-9 * step * step * diagonal[j], -1, 0.0, 0.0
        for way in (-step, step):
            alone = down[j] if way < 0 else up[j]
            if alone + top + 2 * step * step * beside[j] <= best:
                continue
            bend, row = 2 * way * step, h[j]
            for k in range(size):
                shared = bend * row[k]
                fall, rise = down[k] + shared, up[k] - shared
                gain = alone + (rise if rise > fall else fall)
                if gain > best and k != j:
                    best, partner, first, second = gain, k, way, step if rise > fall else -step
        if partner >= 0:
            any_moved = True
            q[j] = np.rint(q[j] + first / step)
            q[partner] = np.rint(q[partner] + second / step)
            for k in range(size):
                slope[k] -= first * h[j, k] + second * h[partner, k]
            top = _alone(q, slope, diagonal, step, low, high, down, up)
    return any_moved


@compiled
def _alone(q: F64, slope: F64, diagonal: F64, step: float, low: float, high: float, down: F64, up: F64) -> float:
    """Fill in what each value gains by a step of its own, down and up; the most of them. No step leads off the grid."""
    top = -np.inf
    for k in range(q.size):
        loss = step * step * diagonal[k]
        down[k] = -2 * step * slope[k] - loss if q[k] - 1 >= low else -np.inf
        up[k] = 2 * step * slope[k] - loss if q[k] + 1 <= high else -np.inf
        top = max(top, down[k], up[k])
    return top
