"""What every pass is: a name, and `optimize`, which changes the configs of a graph, or its constants, or raises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from calibrant.core import QuantizationStates, StateError, TensorQuantizationConfig

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.graph import Graph


SOLVED = (
    QuantizationStates.ACTIVATED,
    QuantizationStates.BAKED,
    QuantizationStates.PASSIVE,
    QuantizationStates.PASSIVE_BAKED,
)


class QuantizationPass(ABC):
    """One step on the way from a float graph to a quantized one.

    A pass that finds a state it cannot work with raises StateError, which names the pass that comes first, and changes
    nothing. Those that optimize (`OptimizationPass`) change constants too, and keep what is done when they are stopped.
    """

    name: ClassVar[str]

    @abstractmethod
    def optimize(self, graph: Graph, dataloader: Any = None, executor: Any = None, **options: Any) -> None:
        """Do this pass's work on `graph`. dataloader, executor: for the passes that run the model."""


def require_state(
    config: TensorQuantizationConfig | None, wanted: Collection[QuantizationStates], where: str, asking: str, first: str
) -> TensorQuantizationConfig:
    """`config`, if it is in one of the `wanted` states; else StateError: `asking` needs `where`, run `first` first."""
    if config is not None and config.state in wanted:
        return config
    found = "no config" if config is None else f"state {config.state.name}"
    names = " or ".join(state.name for state in wanted)
    raise StateError(f"{asking}: {where} has {found}, expected {names}: run {first} first")


def nodes_by_name(graph: Graph) -> dict[str, ir.Node]:
    """The nodes of the top-level graph (subgraphs stay in float and carry no configs)."""
    return {str(node.name): node for node in graph.model.graph}


def parameter_of(node: ir.Node, index: int) -> NDArray[Any] | None:
    """The constant that `node` reads as input `index`; None where that input is no initializer or is left out."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def reader_config(graph: Graph, node: ir.Node, index: int) -> TensorQuantizationConfig | None:
    """What `node` reads at input `index` with: its own config on that edge, else the value's; None for float.

    An edge in state OVERLAPPED leaves the decision to the value's config.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None
    config = graph.edges.get((str(node.name), index))
    if config is None or config.state is QuantizationStates.OVERLAPPED:
        config = graph.config_of(str(value.name))
    return None if config is None or config.state is QuantizationStates.FP32 else config


def written_config(graph: Graph, node: ir.Node) -> TensorQuantizationConfig | None:
    """What the first output of `node` is quantized with, behind a Relu or Clip fused into it; None for float."""
    value = node.outputs[0]
    config = graph.config_of(str(value.name))
    readers = list(value.uses())
    if config is None and len(readers) == 1 and readers[0].node.op_type in ("Relu", "Clip") and readers[0].idx == 0:
        return graph.config_of(str(readers[0].node.outputs[0].name))
    return config
