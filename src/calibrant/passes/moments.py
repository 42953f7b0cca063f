"""Moments: all that a squared error of a linear layer depends on, whatever its weight becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Array = NDArray[Any]


@dataclass
class Moments:
    """Sums over places of the products of columns x (as the quantized model has them) and outputs y (of the float one).

    For rows W and bias b the sum of |y - W x - b|^2 follows from them. Of each group:
    gram: x x^T, with a 1 below each x: (groups, K + 1, K + 1). cross: y x^T: (groups, outputs, K + 1).
    power: y^2: (groups, outputs). count: places, each as often as its weight says. independent: how many independent
    ones they are taken for; those that are added together, of one sample, resemble each other: for the root of their
    number.
    """

    gram: F64
    cross: F64
    power: F64
    count: float = 0.0
    independent: float = 0.0

    @classmethod
    def zero(cls, groups: int, outputs: int, size: int) -> Self:
        """Those of nothing. outputs: of a group. size: K."""
        return cls(
            np.zeros((groups, size + 1, size + 1)), np.zeros((groups, outputs, size + 1)), np.zeros((groups, outputs))
        )

    def add(self, columns: Array, outputs: Array, weight: float = 1.0) -> None:
        """Take in (groups, K, places) and (groups, outputs, places), each place `weight` times."""
        ones = np.ones((columns.shape[0], 1, columns.shape[2]), columns.dtype)
        x = np.concatenate([columns, ones], axis=1)
        transposed = np.ascontiguousarray(x.transpose(0, 2, 1))
        self.gram += weight * (x @ transposed).astype(np.float64)
        self.cross += weight * (outputs @ transposed).astype(np.float64)
        self.power += weight * (outputs.astype(np.float64) ** 2).sum(axis=2)
        self.count += weight * columns.shape[2]
        self.independent += float(np.sqrt(columns.shape[2]))

    def error(self, rows: F64, bias: F64) -> F64:
        """The mean squared error of each output, (groups, outputs), with these rows and this bias."""
        v = np.concatenate([rows, bias[..., None]], axis=2)
        squares = np.einsum("gok,gok->go", v @ self.gram, v) - 2 * (v * self.cross).sum(axis=2) + self.power
        return np.asarray(np.maximum(squares, 0) / self.count)

    def best_bias(self, rows: F64) -> F64:
        """The bias of least error beside these rows: it makes the mean of the output right."""
        return np.asarray((self.cross[..., -1] - np.einsum("gok,gk->go", rows, self.gram[:, :-1, -1])) / self.count)

    def quadratic(self, bias: F64 | None) -> tuple[F64, F64]:
        """H (groups, K, K) and C (groups, outputs, K) of the mean error W H W^T - 2 W C^T + const.

        bias: it stays; None: it is the best one beside each W.
        """
        mean = self.gram[:, :-1, -1]
        if bias is None:
            y = self.cross[..., -1]
            h = self.gram[:, :-1, :-1] - mean[:, :, None] * mean[:, None, :] / self.count
            c = self.cross[..., :-1] - y[..., None] * mean[:, None, :] / self.count
        else:
            h, c = self.gram[:, :-1, :-1], self.cross[..., :-1] - bias[..., None] * mean[:, None, :]
        return np.asarray(h / self.count), np.asarray(c / self.count)
