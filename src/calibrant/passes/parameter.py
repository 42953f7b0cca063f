"""ParameterQuantizePass: the scale of every weight, from its float values."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import (
    ObservationError,
    QuantizationStates,
    RoundingPolicy,
    TensorQuantizationConfig,
    affine,
)
from calibrant.observers import build_observer
from calibrant.passes.base import QuantizationPass, nodes_by_name, parameter_of

if TYPE_CHECKING:
    from calibrant.graph import Graph

log = logging.getLogger(__name__)

F32 = NDArray[np.float32]
COARSE = np.geomspace(1.02, 1 / 16, 96)  # of the full range; above 1: the full range may clip its end by half a step
FINE = np.linspace(COARSE[2] / COARSE[1], COARSE[1] / COARSE[2], 17)  # around the best: to the neighbours and between
FOR_SAMPLES = ("kl", "percentile", "isotone")
MORE = 1 << 16  # evaluations of a value that a row of few values is searched with beside
BLOCK = 1 << 15  # elements worked on at a time, so that the temporaries stay in the cache


class ParameterQuantizePass(QuantizationPass):
    """Find scale and offset of every weight whose config is INITIAL, and set its state to BAKED.

    method: `minmax`, `mse`, or any registered observer, for all of them; None: each config's own.
    baking_parameter: False keeps the weights in float beside their scales: state ACTIVATED, exported as float behind
        a Q/DQ pair.

    Per channel or per tensor, as the config says; the same initializer may be read with different configs (axes).
    - minmax and mse look at the raw values (see `least_error`), other observers at the weight as at an activation.
    - kl, percentile and isotone as a config's own method are meant for what is only sampled (a constant that an Add
      reads has the method of its activations): a constant is known as a whole, and gets mse instead.
    - A channel of zeros has no scale of its own. It takes the largest of the others, 1 where there are none: any
      scale holds zeros, but a bias is stored in steps of input scale x weight scale, and coarse steps would spoil it.

    Either every weight is solved or none is changed. Raises ObservationError for one with NaN or Inf, SettingError
    for an unknown method.
    """

    name = "ParameterQuantizePass"

    def __init__(self, method: str | None = None, baking_parameter: bool = True) -> None:
        self.method = method
        self.baking_parameter = baking_parameter

    def optimize(self, graph: Graph, dataloader: Any = None, executor: Any = None, **_: Any) -> None:
        solved: dict[int, Weight] = {}
        for weight in waiting(graph):
            if id(weight.config) not in solved:
                solved[id(weight.config)] = weight.solved(self.method)
        for weight in solved.values():
            weight.config.scale, weight.config.offset = weight.scale, weight.offset
            weight.config.observer_algorithm = weight.method
            baked = QuantizationStates.BAKED if self.baking_parameter else QuantizationStates.ACTIVATED
            weight.config.state = baked
        log.info("%s: %d weights", self.name, len(solved))


@dataclass
class Weight:
    """A weight, the config to be solved for it, and then its scale and offset."""

    name: str
    values: NDArray[Any]
    config: TensorQuantizationConfig
    scale: F32 | None = None
    offset: F32 | None = None
    method: str = ""

    def solved(self, method: str | None) -> Weight:
        """This weight with its scale and offset; the config is not touched."""
        own = self.config.observer_algorithm
        known_whole = "mse" if own.casefold() in FOR_SAMPLES else own
        draft = self.config.clone(scale=None, offset=None, observer_algorithm=method or known_whole)
        self._check()
        found = _BY_NAME.get(draft.observer_algorithm.casefold())
        if found is not None:
            draft.scale, draft.offset = found(self.values, draft)
        else:
            observer = build_observer(draft, watch_on=self.name)
            observer.observe(self.values)
            observer.render_quantization_config()
        rows, scale = rows_of(self.values, draft), np.array(draft.scale, np.float32)
        dead = ~rows.any(axis=1).reshape(scale.shape)
        if dead.any() and not dead.all():
            scale[dead] = scale[~dead].max()
        return Weight(self.name, self.values, self.config, scale, draft.offset, draft.observer_algorithm)

    def _check(self) -> None:
        bad = self.values.size - int(np.isfinite(self.values).sum())
        if bad:
            raise ObservationError(
                f"weight '{self.name}': {bad} of {self.values.size} values are NaN or Inf, so it has no scale; "
                "mend the model, or leave the node in float"
            )


def waiting(graph: Graph) -> Iterator[Weight]:
    """The weights whose config is INITIAL."""
    nodes = nodes_by_name(graph)
    for (name, index), config in graph.edges.items():
        values = parameter_of(nodes[name], index)
        if values is not None and config.state is QuantizationStates.INITIAL:
            yield Weight(str(nodes[name].inputs[index].name), values, config)  # type: ignore[union-attr]


def rows_of(values: NDArray[Any], config: TensorQuantizationConfig) -> F32:
    """float32 (channels, elements): one row for each channel, one row altogether per tensor."""
    single = values.astype(np.float32, copy=False)
    if config.channel_axis is None:
        return single.reshape(1, -1)
    return np.ascontiguousarray(np.moveaxis(single, config.channel_axis, 0)).reshape(
        values.shape[config.channel_axis], -1
    )


def full_range(values: NDArray[Any], config: TensorQuantizationConfig) -> tuple[F32, F32]:
    """minmax: scale and offset that cover every value; see `calibrant.core.affine`."""
    rows = rows_of(values, config)
    scale, offset = affine(rows.min(axis=1, initial=0.0), rows.max(axis=1, initial=0.0), config)
    return _shaped(scale, offset, config)


def least_error(values: NDArray[Any], config: TensorQuantizationConfig) -> tuple[F32, F32]:
    """Scale and offset with the least squared error of the raw values: 0-d per tensor, (channels,) per channel.

    Searched are ranges [r lo, r hi] for 96 ratios r from 1.02 down to 1/16, evenly apart in their logarithm (3 %),
    then 17 around the best one (0.4 %). Of few values the error jumps from scale to scale: a row of K values is
    searched at min(1000, 65536 / K) more ratios, evenly between 0.3 and 1.02. Asymmetric: after the ratio common to
    both ends, each end is searched by itself, the other held, twice.
    The full range (minmax) is a candidate, so the result is never worse than that. Against 1,000 to 3,000 evenly
    spaced ratios it was within 1 % at 4 bits, and within 6 % at 8 bits, where the error is small and jagged.
    """
    rows = rows_of(values, config)
    search = _Search(rows, config)
    search.along(COARSE, low=True, high=True)
    search.along(FINE, low=True, high=True)
    search.along(np.linspace(0.3, 1.02, min(1000, MORE // max(1, rows.shape[1]))), low=True, high=True, anew=True)
    if not config.is_symmetric:
        for _ in range(2):
            for low in (True, False):
                search.along(COARSE, low=low, high=not low, anew=True)
                search.along(FINE, low=low, high=not low)
    return _shaped(search.scale, search.offset, config)


_BY_NAME = {"minmax": full_range, "mse": least_error}


def _shaped(scale: F32, offset: F32, config: TensorQuantizationConfig) -> tuple[F32, F32]:
    shape = (-1,) if config.is_per_channel else ()
    return scale.reshape(shape), offset.reshape(shape)


class _Search:
    """The best ends so far of each row, as ratios of its own ends."""

    def __init__(self, rows: F32, config: TensorQuantizationConfig) -> None:
        self.rows, self.config = rows, config
        self.ends = rows.min(axis=1, initial=0.0), rows.max(axis=1, initial=0.0)
        self.low = self.high = np.ones(len(rows))
        self.scale, self.offset = affine(*self.ends, config)
        self.error = squared_error(rows, self.scale, self.offset, config)

    def along(self, ratios: NDArray[np.float64], low: bool, high: bool, anew: bool = False) -> None:
        """Try each ratio of `ratios` on the low end, the high end or both; times the best so far, unless `anew`."""
        low_now, high_now = (np.ones(len(self.rows)),) * 2 if anew else (self.low, self.high)
        for ratio in ratios:
            self._try(low_now * ratio if low else self.low, high_now * ratio if high else self.high)

    def _try(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        scale, offset = affine(self.ends[0] * low, self.ends[1] * high, self.config)
        error = squared_error(self.rows, scale, offset, self.config)
        better = error < self.error
        self.error = np.where(better, error, self.error)
        self.low, self.high = np.where(better, low, self.low), np.where(better, high, self.high)
        self.scale, self.offset = np.where(better, scale, self.scale), np.where(better, offset, self.offset)


def squared_error(rows: F32, scale: F32, offset: F32, config: TensorQuantizationConfig) -> NDArray[np.float64]:
    """Sum of (x - Dequant(Quant(x)))^2 of each row, float64. scale, offset: (rows,)."""
    to_integer = np.ceil if config.rounding is RoundingPolicy.ROUND_UP else np.rint  # the others differ at ties alone
    total = np.zeros(len(rows))
    width = min(rows.shape[1], BLOCK) or 1
    height = max(1, BLOCK // width)
    for top in range(0, len(rows), height):
        some = slice(top, top + height)
        s, zero = scale[some, None], offset[some, None]
        for left in range(0, rows.shape[1], width):
            x = rows[some, left : left + width]
            q = x / s
            to_integer(q, out=q)
            np.clip(q, config.quant_min - zero, config.quant_max - zero, out=q)
            q *= s
            q -= x
            total[some] += np.einsum("ij,ij->i", q, q)
    return total
