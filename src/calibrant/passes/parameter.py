"""ParameterQuantizePass: the scale of every weight, from its float values."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import (
    ObservationError,
    QuantizationStates,
    TensorQuantizationConfig,
    affine,
)
from calibrant.engines.session import usable_processors
from calibrant.observers import build_observer
from calibrant.passes.base import QuantizationPass, nodes_by_name, parameter_of
from calibrant.passes.least_error import least_error, rows_of
from calibrant.quantizers.configs import FOR_SAMPLES

if TYPE_CHECKING:
    from calibrant.graph import Graph

log = logging.getLogger(__name__)

F32 = NDArray[np.float32]


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

    def optimize(
        self, graph: Graph, dataloader: Any = None, executor: Any = None, threads: int | None = None, **_: Any
    ) -> None:
        weights = {id(weight.config): weight for weight in waiting(graph)}.values()
        with ThreadPoolExecutor(threads or usable_processors(), thread_name_prefix="calibrant-weights") as pool:
            solved = list(pool.map(lambda weight: weight.solved(self.method), weights))
        for weight in solved:
            weight.config.scale, weight.config.offset = weight.scale, weight.offset
            weight.config.observer_algorithm = weight.method
            baked = QuantizationStates.BAKED if self.baking_parameter else QuantizationStates.ACTIVATED
            weight.config.state = baked
        log.info("%s: %d weights", self.name, len(solved))


def solved_weights(graph: Graph) -> dict[tuple[str, int], TensorQuantizationConfig]:
    """Copies of the configs of the weights, by edge, as ParameterQuantizePass left them: see `keep_weights`."""
    nodes = nodes_by_name(graph)
    solved = (QuantizationStates.BAKED, QuantizationStates.ACTIVATED)
    return {
        (name, index): config.clone()
        for (name, index), config in graph.edges.items()
        if config.state in solved and parameter_of(nodes[name], index) is not None
    }


def keep_weights(graph: Graph, solved: Mapping[tuple[str, int], TensorQuantizationConfig]) -> None:
    """Give the weights of a graph that was quantized anew, for the same platform and setting, what was found before."""
    for edge, config in graph.edges.items():
        if edge in solved and config.state is QuantizationStates.INITIAL:
            known = solved[edge]
            config.scale, config.offset = known.scale, known.offset
            config.observer_algorithm, config.state = known.observer_algorithm, known.state


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
        self.check()
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

    def check(self) -> None:
        """Raise ObservationError for NaN and Inf."""
        bad = self.values.size - int(np.isfinite(self.values).sum())
        if bad:
            raise ObservationError(
                f"weight '{self.name}': {bad} of {self.values.size} values are NaN or Inf, so it has no scale; "
                "mend the model, or leave the node in float"
            )


def check_weights(graph: Graph) -> None:
    """Raise ObservationError for NaN and Inf in what will get a scale: known before any sample is run."""
    for weight in waiting(graph):
        weight.check()


def waiting(graph: Graph) -> Iterator[Weight]:
    """The weights whose config is INITIAL."""
    nodes = nodes_by_name(graph)
    for (name, index), config in graph.edges.items():
        values = parameter_of(nodes[name], index)
        if values is not None and config.state is QuantizationStates.INITIAL:
            yield Weight(str(nodes[name].inputs[index].name), values, config)  # type: ignore[union-attr]


def full_range(values: NDArray[Any], config: TensorQuantizationConfig) -> tuple[F32, F32]:
    """minmax: scale and offset that cover every value; see `calibrant.core.affine`."""
    rows = rows_of(values, config)
    scale, offset = affine(rows.min(axis=1, initial=0.0), rows.max(axis=1, initial=0.0), config)
    shape = (-1,) if config.is_per_channel else ()
    return scale.reshape(shape), offset.reshape(shape)


_BY_NAME = {"minmax": full_range, "mse": least_error}
