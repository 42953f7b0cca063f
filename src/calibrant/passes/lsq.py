"""LearnedStepSizePass: scales, weights and biases are trained, block by block, towards the float model."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from calibrant.core import QuantizationStates, SettingError, TensorQuantizationConfig, fake_quantize
from calibrant.engines.stepping import Stepping
from calibrant.graph.bodies import read_from_outside
from calibrant.passes.activations import unsettle_dependents
from calibrant.passes.blocks import ends_of, in_blocks, made_by
from calibrant.passes.linear import Linear, linear_layers
from calibrant.passes.optimization import OptimizationPass
from calibrant.passes.reconstruction import affordable

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.engines import Executor
    from calibrant.engines.samples import Feed
    from calibrant.graph import Graph
    from calibrant.passes.training import Trained, Trainer

log = logging.getLogger(__name__)

Config = TensorQuantizationConfig


class LearnedStepSizePass(OptimizationPass):
    """Train scales, weights and biases of one block of layers after the other (Esser et al., 2020, arXiv 1902.08153).

    steps, block_size, lr, gamma, is_scale_trainable, collecting_device, interested_layers: see `LSQSetting`. A block
    is trained if one of the interested layers is in it.

    A block is some nodes in a row, `block_size` of them with weights that may change (`linear_layers`). It reads what
    the quantized model before it makes of the samples, and is to make what the float model makes: least is wanted of
    the mean squared difference at the values that others read, each over its own power. Gradients go straight through
    the rounding; a scale s has that of LSQ, (round(x / s) - x / s) on the grid and the grid's end beyond. Adam takes
    steps. Every fourth sample is held out: a block whose error on those did not fall stays as it was.

    Scales are learned of weights, and of the values made in the block that are no input of another one; not powers of
    two. Offsets stay. Trains where a TorchExecutor computes, on the CPU with any other. Raises SettingError where torch
    is not installed.
    """

    name = "LearnedStepSizePass"

    def __init__(
        self,
        interested_layers: Sequence[str] = (),
        steps: int = 500,
        block_size: int = 4,
        lr: float = 1e-2,
        gamma: float = 0.0,
        is_scale_trainable: bool = True,
        collecting_device: str = "cpu",
    ) -> None:
        if importlib.util.find_spec("torch") is None:
            raise SettingError("lsq_optimization needs PyTorch, which is not installed: pip install 'calibrant[torch]'")
        for name, number, least in (
            ("steps", steps, 1),
            ("block_size", block_size, 1),
            ("lr", lr, 0),
            ("gamma", gamma, 0),
        ):
            if not number >= least:
                raise SettingError(f"lsq_optimization_setting.{name} must be at least {least}, got {number}")
        self.interested_layers = list(interested_layers)
        self.steps, self.block_size, self.lr, self.gamma = steps, block_size, lr, gamma
        self.is_scale_trainable = is_scale_trainable
        self.collecting_device = collecting_device

    def layers(self, graph: Graph, samples: Sequence[Feed], executor: Executor) -> Iterator[tuple[int, int]]:
        from calibrant.engines.torch import TorchExecutor
        from calibrant.passes.training import Trainer

        wanted = {layer.node for layer in linear_layers(graph, self.interested_layers)}
        blocks = [block for block in blocks_of(graph, self.block_size) if wanted & {i.node for i in block.layers}]
        device = executor.device if isinstance(executor, TorchExecutor) else "cpu"
        running = TorchExecutor(graph, device, threads=executor.threads)
        trainer = Trainer(running, self.steps, self.lr, self.gamma, self.is_scale_trainable, self.collecting_device)
        feeds = samples[: affordable(graph, samples[0])]
        threads = executor.threads
        with Stepping(graph, feeds, False, threads) as exact, Stepping(graph, feeds, True, threads) as rough:
            yield from self._train(graph, blocks, trainer, exact, rough)

    def _train(
        self, graph: Graph, blocks: list[Block], trainer: Trainer, exact: Stepping, rough: Stepping
    ) -> Iterator[tuple[int, int]]:
        starting = {block.nodes[0]: block for block in blocks}
        done, inside = 0, 0
        for node in graph.model.graph:
            if inside == 0 and node in starting:
                block, inputs = starting[node], rough.known(starting[node].inputs)
                for one in block.nodes:
                    exact.step(one)
                found = trainer.train(block, inputs, exact.known(block.outputs))
                keep(graph, found)
                done, inside = done + 1, len(block.nodes)
                yield done, len(blocks)
            if inside:
                inside -= 1
            else:
                exact.step(node)
            if done == len(blocks) and not inside:
                break
            rough.step(node)


@dataclass(frozen=True)
class Block:
    """Nodes in a row. inputs: names of the values from before that they read; outputs: of what others read of theirs.

    layers: those whose weight may change. configs: of activations that are theirs alone, and solved.
    """

    nodes: list[ir.Node]
    inputs: list[str]
    outputs: list[str]
    layers: list[Linear]
    configs: list[Config]


def blocks_of(graph: Graph, size: int) -> list[Block]:
    """The graph in blocks of `size` layers; each ends before the first layer of the next."""
    by_node = {layer.node: layer for layer in linear_layers(graph)}
    parts = in_blocks(graph, size, by_node)
    return [_block(graph, nodes, by_node) for nodes in parts if any(node in by_node for node in nodes)]


def _block(graph: Graph, nodes: list[ir.Node], by_node: dict[ir.Node, Linear]) -> Block:
    inside = set(nodes)
    read = [v for n in nodes for v in (*n.inputs, *read_from_outside(n)) if v is not None and v.const_value is None]
    inputs = [v.name or "" for v in dict.fromkeys(read) if v.producer() not in inside]
    names = {v.name for v in made_by(nodes)}
    configs = [
        group.config
        for group in graph.groups
        if set(group.values) <= names
        and group.config.state is QuantizationStates.ACTIVATED
        and _may_learn(group.config)
    ]
    return Block(nodes, inputs, ends_of(nodes), [by_node[n] for n in nodes if n in by_node], configs)


def _may_learn(config: Config) -> bool:
    return not config.is_power_of_2 and config.scale is not None


def keep(graph: Graph, found: Trained | None) -> None:
    """Write what a block has learned into the graph; None: nothing."""
    if found is None:
        return
    for config, scale in found.scales.items():
        config.scale = scale
    for layer, weight in found.weights:
        graph.change_constant(layer.weight_name, fake_quantize(weight, layer.config))
    for name, bias in found.biases.items():
        graph.change_constant(name, bias)
    unsettle_dependents(graph, {id(config) for config in found.scales})
