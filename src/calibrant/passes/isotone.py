"""IsotoneCalibrationPass: calibrate the values whose order is the answer so that the order survives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from calibrant.core import DataError, SettingError, unknown
from calibrant.engines import Executor
from calibrant.engines.samples import iterate_samples
from calibrant.graph import Graph
from calibrant.passes.activations import activation_configs, order_carrying
from calibrant.passes.base import QuantizationPass
from calibrant.passes.calibration import Calibration
from calibrant.passes.runtime import awake, run, settle

log = logging.getLogger(__name__)


class IsotoneCalibrationPass(QuantizationPass):
    """Give classification outputs the scale under which most rows keep their largest value strictly in front.

    variables: names of the values; None: the quantized outputs of Softmax, else the graph outputs of rank 2.
    axis: the axis along which the largest is sought. verbose: say in the log how many rows are kept.
    calib_steps: at most so many items of the data loader.

    An output that the runtime gives in float (`Graph.float_outputs`) is quantized by it. Works on configs INITIAL or
    ACTIVATED; run it after RuntimeCalibrationPass, as PPQ does. Raises SettingError for a variable that is not
    quantized, and where `variables` is None and the graph has none.
    """

    name = "IsotoneCalibrationPass"

    def __init__(
        self, variables: list[str] | None = None, axis: int = -1, verbose: bool = True, calib_steps: int = 32
    ) -> None:
        self.variables = variables
        self.axis = axis
        self.verbose = verbose
        self.calib_steps = calib_steps

    def optimize(
        self,
        graph: Graph,
        dataloader: Iterable[Any] | None = None,
        executor: Executor | None = None,
        calib_steps: int | None = None,
        collate_fn: Callable[[Any], Any] | None = None,
        on_step: Callable[[int], None] | None = None,
        **_: Any,
    ) -> None:
        if dataloader is None or executor is None:
            raise DataError(f"{self.name} needs samples and an executor: optimize(graph, dataloader, executor)")
        tasks = self._plan(graph)
        steps = self.calib_steps if calib_steps is None else calib_steps
        samples = iterate_samples(dataloader, executor.input_specs, steps, collate_fn)
        settle(graph, tasks, run(tasks, samples, executor, on_step), executor.threads)
        for task in tasks if self.verbose else ():
            log.info("isotone on %s: %s", ", ".join(task.roots), task.config.detail.get("isotone"))

    def _plan(self, graph: Graph) -> list[Calibration]:
        names = self.variables if self.variables is not None else order_carrying(graph)
        if not names:
            raise SettingError(
                f"{self.name}: the graph has neither a quantized Softmax output nor a quantized output of rank 2; "
                "name the values with variables=[...]"
            )
        by_id = {id(config): (config, roots) for config, roots in activation_configs(graph)}
        tasks = []
        floats = {name: group for group in graph.float_outputs for name in group.values}
        for name in names:
            if name in floats:
                tasks.append(awake(floats[name], isotone_axis=self.axis))
                continue
            config = graph.config_of(name)
            if config is None:
                known = [v for group in [*graph.groups, *graph.float_outputs] for v in group.values]
                raise SettingError(f"{self.name}: {unknown('quantized value', name, known)}")
            _, roots = by_id[id(config)]
            task = Calibration.of(config, roots, "isotone", isotone_axis=self.axis)
            tasks.append(task)
        return tasks
