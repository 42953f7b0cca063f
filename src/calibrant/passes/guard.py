"""What a pass did to the outputs of the quantized model: taken back where it made them worse on held-out samples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from calibrant.core.arithmetic import SMALLEST_SCALE
from calibrant.engines.stepping import Stepping
from calibrant.graph.graph import original
from calibrant.passes.ahead import affordable

if TYPE_CHECKING:
    from calibrant.core import TensorQuantizationConfig
    from calibrant.engines import Executor
    from calibrant.engines.samples import Feed
    from calibrant.graph import Graph

log = logging.getLogger(__name__)


class Guard:
    """A quantized graph as it is now: its scales and its constants, and what it makes of some samples.

    feeds: samples that the pass to come does not choose by; the first of them, see `affordable`. executor: runs the
    float model.
    """

    def __init__(self, graph: Graph, feeds: Sequence[Feed], executor: Executor) -> None:
        self._graph, self._threads = graph, executor.threads
        self._feeds = affordable(graph, feeds)
        self._exact = [dict(zip(graph.output_names, executor.forward(f), strict=True)) for f in self._feeds]
        self._configs = [(config, config.scale, config.offset, config.state) for config in _configs(graph)]
        self._constants = {name: graph.constant(name) for name in graph.changed_constants}
        self._error = self._error_now()

    def restore_if_worse(self) -> bool:
        """Put scales and constants back where the outputs are further from the float model's than they were."""
        error = self._error_now()
        log.info("error of the outputs on what was held out: %.3g, before %.3g", error, self._error)
        if error <= self._error:
            return False
        for config, scale, offset, state in self._configs:
            config.scale, config.offset, config.state = scale, offset, state
        for name in self._graph.changed_constants:
            was = self._constants.get(name)
            tensor = original(self._graph.value(name))
            self._graph.change_constant(name, was if was is not None else np.asarray(tensor.numpy()))  # type: ignore[union-attr]
        return True

    def _error_now(self) -> float:
        with Stepping(self._graph, self._feeds, quantized=True, threads=self._threads) as running:
            for node in self._graph.model.graph:
                running.step(node)
            found = running.known(self._graph.output_names)
        return relative_error(self._exact, found)


def relative_error(wanted: Sequence[Feed], found: Sequence[Feed]) -> float:
    """The power of what floating outputs are off, over their own, added up over outputs that nodes make."""
    total = 0.0
    for name in (name for name in wanted[0] if name in found[0]):
        exact = [feed[name].astype(np.float64) for feed in wanted if feed[name].dtype.kind == "f"]
        if exact:
            off = sum(float(((a - feed[name]) ** 2).sum()) for a, feed in zip(exact, found, strict=True))
            total += off / max(sum(float((a**2).sum()) for a in exact), SMALLEST_SCALE)
    return total


def _configs(graph: Graph) -> list[TensorQuantizationConfig]:
    groups = [group.config for group in graph.groups]
    return list({id(config): config for config in (*groups, *graph.edges.values())}.values())
