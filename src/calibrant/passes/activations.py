"""Which activations of a graph have configs, and who reads them."""

from __future__ import annotations

from calibrant.core import QuantizationStates, TensorQuantizationConfig
from calibrant.graph import Graph


def activation_configs(graph: Graph) -> list[tuple[TensorQuantizationConfig, list[str]]]:
    """Every activation config of the graph, once, with the values whose merged sketch solves it."""
    found = {id(group.config): (group.config, list(group.roots)) for group in graph.groups}
    for (name, index), config in graph.edges.items():
        value = graph.node(name).inputs[index]
        if value is None or value.const_value is not None or config.state is QuantizationStates.FP32:
            continue
        _, roots = found.setdefault(id(config), (config, []))
        if not roots:
            roots.append(value.name or "")
    return list(found.values())


def order_carrying(graph: Graph) -> list[str]:
    """The values whose order is the answer: outputs of Softmax that are quantized, else graph outputs of rank 2.

    An output that the runtime can give in float counts as well: to keep its order is to quantize it.
    """
    made = [v.name or "" for node in graph.model.graph if node.op_type == "Softmax" for v in node.outputs]
    softmax = [name for name in made if graph.config_of(name) is not None]
    if softmax:
        return softmax
    floats = [name for group in graph.float_outputs for name in group.values]
    outputs = [name for name in graph.source_outputs if graph.config_of(name) is not None or name in floats]
    return [name for name in outputs if len(graph.shape_of(name) or ()) == 2]


def unsettle_dependents(graph: Graph, changed: set[int]) -> None:
    """A bias whose scale follows from one of these configs (ids) waits for PassiveParameterQuantizePass again."""
    passive = (QuantizationStates.PASSIVE, QuantizationStates.PASSIVE_BAKED)
    for (name, _), config in graph.edges.items():
        if config.state not in passive:
            continue
        node = graph.node(name)
        if any(id(graph.config_read(node, index)) in changed for index in range(len(node.inputs))):
            config.scale = config.offset = None
            config.state = QuantizationStates.PASSIVE_INIT
