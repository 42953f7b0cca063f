"""Training of one block of a quantized model with torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibrant.core import TensorQuantizationConfig
from calibrant.engines.torch import TorchExecutor
from calibrant.passes.base import written_config
from calibrant.passes.linear import Linear
from calibrant.passes.lsq import Block
from calibrant.passes.optimization import is_held

log = logging.getLogger(__name__)

Array = NDArray[Any]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Trained:
    """What a block has learned. weights: not yet on their grids; biases: by name; scales: by config."""

    weights: list[tuple[Linear, Array]]
    biases: dict[str, Array]
    scales: dict[TensorQuantizationConfig, Array]


class Trainer:
    """Trains blocks; see `LearnedStepSizePass` for how, and `LSQSetting` for the numbers."""

    def __init__(
        self, executor: TorchExecutor, steps: int, lr: float, gamma: float, scales: bool, collecting_device: str
    ) -> None:
        self._executor = executor
        self._steps, self._lr, self._gamma, self._scales = steps, lr, gamma, scales
        self._collecting = torch.device(collecting_device)

    def train(
        self, block: Block, inputs: Sequence[Mapping[str, Array]], targets: Sequence[Mapping[str, Array]]
    ) -> Trained | None:
        """What it learns of these samples; None where that does not lessen the error on those held out."""
        pairs = [(self._placed(x), self._placed(y)) for x, y in zip(inputs, targets, strict=True)]
        power = {
            name: max(float(np.mean([float((y[name] ** 2).mean()) for _, y in pairs])), 1e-30) for name in targets[0]
        }
        held = [pair for i, pair in enumerate(pairs) if is_held(i, len(pairs))] or pairs
        train = [pair for i, pair in enumerate(pairs) if not is_held(i, len(pairs))]
        learned = Learned(self._executor, block, self._scales)
        before = self._error(learned, held, power)
        optimizer = torch.optim.Adam(learned.leaves(), lr=self._lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._steps)
        rng = np.random.default_rng(0)
        for _ in range(self._steps):
            x, y = train[int(rng.integers(len(train)))]
            loss = self._loss(learned, x, y, power)
            if self._gamma:
                loss = loss + self._gamma * learned.off_grid()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        after = self._error(learned, held, power)
        log.info("block from %s: error %.3g -> %.3g", block.nodes[0].name, before, after)
        return learned.arrays() if after < before else None

    def _loss(self, learned: Learned, x: Tensors, y: Tensors, power: Mapping[str, float]) -> torch.Tensor:
        """The mean squared error of each output over its power, added up."""
        names = list(y)
        made = self._executor.forward_block(self._there(x), names, learned.parameters(), learned.scales())
        wanted = self._there(y)
        return sum(((a - wanted[n]) ** 2).mean() / power[n] for n, a in zip(names, made, strict=True))

    def _error(self, learned: Learned, pairs: Sequence[tuple[Tensors, Tensors]], power: Mapping[str, float]) -> float:
        with torch.no_grad():
            return float(np.mean([float(self._loss(learned, x, y, power)) for x, y in pairs]))

    def _placed(self, arrays: Mapping[str, Array]) -> Tensors:
        return {name: torch.from_numpy(np.array(array)).to(self._collecting) for name, array in arrays.items()}

    def _there(self, tensors: Tensors) -> Tensors:
        return {name: tensor.to(self._executor.device) for name, tensor in tensors.items()}


class Learned:
    """The trained quantities of a block: each what it was, and how far it moved in units of its own."""

    def __init__(self, executor: TorchExecutor, block: Block, scales: bool) -> None:
        graph, device = executor.graph, executor.device

        def tensor(array: Any) -> torch.Tensor:
            return torch.tensor(np.asarray(array, np.float32), device=device)

        self._block = block
        configs = [*(layer.config for layer in block.layers if not layer.config.is_power_of_2), *block.configs]
        self._first = {config: tensor(config.scale) for config in configs}
        self._growth = {c: torch.zeros_like(s, requires_grad=True) for c, s in self._first.items()} if scales else {}
        self._weights: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}  # start, unit, moved
        for layer in block.layers:
            weight = graph.value(layer.weight_name).const_value
            steps = np.asarray(layer.config.scale).reshape(layer.config.parameter_shape(len(layer.shape)))
            self._add(layer.weight_name, tensor(weight.numpy()), tensor(steps))  # type: ignore[union-attr]
            if layer.bias_name is not None:
                bias = tensor(graph.value(layer.bias_name).const_value.numpy())  # type: ignore[union-attr]
                made = written_config(graph, layer.node)
                unit = tensor(made.scale) if made is not None and made.scale is not None else bias.abs().max() / 128
                self._add(layer.bias_name, bias, unit)

    def _add(self, name: str, start: torch.Tensor, unit: torch.Tensor) -> None:
        self._weights[name] = start, unit, torch.zeros_like(start, requires_grad=True)

    def leaves(self) -> list[torch.Tensor]:
        """What the optimizer moves."""
        return [*self._growth.values(), *(moved for _, _, moved in self._weights.values())]

    def parameters(self) -> Tensors:
        """Weights and biases, in float."""
        return {name: start + unit * moved for name, (start, unit, moved) in self._weights.items()}

    def scales(self) -> dict[TensorQuantizationConfig, torch.Tensor]:
        """Scales, which stay above zero whatever is learned; moved by one, the grid's end moves by about a step."""
        return {config: self._first[config] * (growth / config.levels).exp() for config, growth in self._growth.items()}

    def off_grid(self) -> torch.Tensor:
        """The mean square of how far weights are from the nearest point of their grid, in steps."""
        total, count = torch.zeros(()), 0
        parameters, scales = self.parameters(), self.scales()
        for layer in self._block.layers:
            config = layer.config
            scale = scales.get(config, self._first.get(config, torch.tensor(config.scale)))
            ratio = parameters[layer.weight_name] / scale.reshape(config.parameter_shape(len(layer.shape)))
            nearest = ratio.detach().round().clamp(config.quant_min, config.quant_max)
            total = total.to(ratio.device) + ((ratio - nearest) ** 2).sum()
            count += ratio.numel()
        return total / max(1, count)

    def arrays(self) -> Trained:
        """As the graph takes them."""
        found = {name: x.detach().cpu().numpy() for name, x in self.parameters().items()}
        scales = {config: x.detach().cpu().numpy() for config, x in self.scales().items()}
        weights = [(layer, found[layer.weight_name]) for layer in self._block.layers]
        biases = {layer.bias_name: found[layer.bias_name] for layer in self._block.layers if layer.bias_name}
        return Trained(weights, biases, scales)
