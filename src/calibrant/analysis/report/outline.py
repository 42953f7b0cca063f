"""Outline: a value's distribution in a few kilobytes, enough to draw it and to tell any scale's error.

What `Distribution` knows in a megabyte, on wider bins: the page's script estimates errors from it as the mse observer
does from the sketch.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core.arithmetic import SMALLEST_SCALE
from calibrant.observers import Distribution

if TYPE_CHECKING:
    from calibrant.observers.kernels.pieces import Side

F64 = NDArray[np.float64]

BYTES = 4_200  # of an outline, before base64 adds a third
CELL, ATOM = 5, 6  # bytes of one
FINEST, COARSEST = 8, 2  # mantissa bits of the cells
LEAST_ATOM = 1e-5  # of all the values: lighter ones go into the cells
LEVELS = 1024  # of the finest grid whose errors are told level by level
BULK = 0.99  # of the values that are not zero; with a range below half of theirs, clipping is all of the error
CODES = 65534  # of masses, in equal ratios from 1 to the number of values: 4e-4 apart for a trillion of them


@dataclass(frozen=True, slots=True)
class Wing:
    """The values of one sign, by magnitude.

    keys: ascending, of the cells, as in `LogBins` of the outline's bits. masses, means: how many values are in each,
    and where in it they lie on average, from 0 to 1. at, hits: values that occur often, ascending, and how often.
    top: the largest magnitude, 0 where there is none.
    """

    keys: NDArray[np.int64]
    masses: F64
    means: F64
    at: F64
    hits: F64
    top: float


@dataclass(frozen=True, slots=True)
class Outline:
    """A distribution, made small. bits: mantissa bits of the cells; size: of how many values; zeros: of these."""

    bits: int
    size: int
    zeros: float
    pos: Wing
    neg: Wing

    @classmethod
    def of(cls, distribution: Distribution, room: int = BYTES) -> Outline:
        """The finest outline that takes no more than `room` bytes; at the very coarsest it may take more."""
        nearest = _nearest(distribution)
        atoms = [_atoms(side, nearest, distribution.size) for side in (distribution.pos, distribution.neg)]
        most = max(room // 2 // ATOM, 1)
        heavy = np.sort(np.concatenate([side.pieces[kept, MASS] for side, kept in _both(distribution, atoms)]))[::-1]
        least = heavy[most] if len(heavy) > most else 0.0
        for bits in range(FINEST, COARSEST - 1, -1):
            pos, neg = (_wing(side, kept, bits, nearest, least) for side, kept in _both(distribution, atoms))
            outline = cls(bits, distribution.size, distribution.zeros, pos, neg)
            if outline.bytes <= room:
                break
        return outline

    @property
    def bytes(self) -> int:
        """How many bytes it takes."""
        return sum(CELL * len(wing.keys) + ATOM * len(wing.at) for wing in (self.pos, self.neg))

    def plain(self) -> dict[str, Any]:
        """Plain data for JSON; `decode` of the page's script reads it.

        data: base64, little endian. Of the positive wing, then of the negative one: uint16 keys less the first,
        uint16 masses, uint8 means (in 256ths), float32 `at`, uint16 hits.
        """
        parts, heads = [], []
        for wing in (self.pos, self.neg):
            base = int(wing.keys[0]) if len(wing.keys) else 0
            heads.append({"base": base, "cells": len(wing.keys), "atoms": len(wing.at), "top": wing.top})
            parts += [
                (wing.keys - base).astype("<u2"),
                coded(wing.masses, self.size),
                np.minimum(wing.means * 256, 255).astype("u1"),
                wing.at.astype("<f4"),
                coded(wing.hits, self.size),
            ]
        data = base64.b64encode(b"".join(part.tobytes() for part in parts)).decode()
        return {"bits": self.bits, "size": self.size, "zeros": self.zeros, "wings": heads, "data": data}


LEFT, RIGHT, MASS, TILT = range(4)  # columns of a Side's pieces


def coded(masses: F64, size: int) -> NDArray[np.uint16]:
    """Masses as 16 bits: code 1 + log(mass) in equal steps up to log(size). Less than half a value: 0.

    >>> coded(np.array([0.0, 1.0, 1000.0]), 1000).tolist()
    [0, 1, 65535]
    """
    step = np.log(max(size, 2)) / CODES
    codes = 1 + np.rint(np.log(np.maximum(masses, 1)) / step)
    return np.where(masses < 0.5, 0, np.minimum(codes, CODES + 1)).astype("<u2")


def _both(distribution: Distribution, atoms: list[NDArray[np.bool_]]) -> zip[tuple[Side, NDArray[np.bool_]]]:
    return zip((distribution.pos, distribution.neg), atoms, strict=True)


def _nearest(distribution: Distribution) -> float:
    """What lies nearer to zero becomes zero with every scale that is worth a look: one atom stands for it.

    The finest such scale has LEVELS levels for the range where half of what is not zero lies, or half of the range of
    its BULK, if that is more.
    """
    size, zeros = distribution.size, distribution.zeros
    if size <= zeros:
        return SMALLEST_SCALE
    bulk = distribution.quantile_of_magnitude((zeros + BULK * (size - zeros)) / size) / 2
    return float(np.float32(max(bulk, distribution.quantile_of_magnitude(0.5)) / LEVELS / 2)) + SMALLEST_SCALE


def _atoms(side: Side, nearest: float, size: int) -> NDArray[np.bool_]:
    """Which of the pieces are atoms that count."""
    pieces = side.pieces
    return np.asarray(
        (pieces[:, LEFT] == pieces[:, RIGHT]) & (pieces[:, MASS] >= LEAST_ATOM * size) & (pieces[:, LEFT] > nearest)
    )


def _wing(side: Side, atoms: NDArray[np.bool_], bits: int, nearest: float, least: float) -> Wing:
    """One side on cells of that many mantissa bits. least: atoms lighter than it go into the cells."""
    atoms = atoms & (side.pieces[:, MASS] > least)
    at, hits = side.pieces[atoms, LEFT], side.pieces[atoms, MASS]
    rest = side.pieces[~atoms]
    width = rest[:, RIGHT] - rest[:, LEFT]
    mean = rest[:, LEFT] + width * (0.5 + rest[:, TILT] / 6)
    near = mean <= nearest
    if near.any():
        square = mean[near] ** 2 + width[near] ** 2 * (1 / 12 - (rest[near, TILT] / 6) ** 2)
        mass = rest[near, MASS].sum()
        at = np.concatenate([[np.sqrt((rest[near, MASS] * square).sum() / mass)], at])
        hits = np.concatenate([[mass], hits])
    keys = mean[~near].astype(np.float32).view(np.int32).astype(np.int64) >> (23 - bits)
    cells, place = np.unique(keys, return_inverse=True)
    masses = np.bincount(place, rest[~near, MASS], len(cells)).astype(np.float64)
    sums = np.bincount(place, rest[~near, MASS] * mean[~near], len(cells)).astype(np.float64)
    lower, upper = edge(cells, bits), np.minimum(edge(cells + 1, bits), side.top)
    span = np.where(upper > lower, upper - lower, 1.0)
    means = np.clip((sums / np.where(masses > 0, masses, 1) - lower) / span, 0.0, 1.0)
    return Wing(cells, masses, means, at, hits, side.top)


def edge(keys: NDArray[np.int64], bits: int) -> F64:
    """The least magnitude with each of these keys; the one after the last finite key is 2**128."""
    edges = (keys << (23 - bits)).astype(np.int32).view(np.float32).astype(np.float64)
    return np.where(np.isfinite(edges), edges, 2.0**128)
