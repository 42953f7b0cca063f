"""The ONNX model and PPL's JSON of quantization parameters beside it, for PPL.NN's CUDA engine.

Source: the quantization file that PPL.NN's CUDA engine loads (--quant-file), as PPQ writes it: `quant_info` has the
parameters of each value by its name, `op_info` the operators that run in INT8. PPL quantizes by symmetric int8
grids; biases stay in float. The model itself stays a float model: its weights are the values that their integers
stand for, so that PPL finds the same integers whatever rounding it uses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from calibrant.core import ExportError, QuantizationStates, TargetPlatform, TensorQuantizationConfig, dequantize
from calibrant.core.files import whole_files
from calibrant.exporters.files import external_name, save_model
from calibrant.exporters.provenance import provenance, sign
from calibrant.exporters.readiness import (
    activation_configs,
    check_kind,
    check_ready,
    check_rounding,
    parameter_configs,
)
from calibrant.exporters.storage import integers
from calibrant.graph.roles import is_bound

if TYPE_CHECKING:
    from calibrant.graph import Graph

NAME = TargetPlatform.PPL_CUDA_INT8.name
Config = TensorQuantizationConfig


def export(
    graph: Graph, path: str | Path, config_path: str | Path | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the model to `path` and the parameters to `config_path` (None: `path` with .json), both or neither.

    Raises ExportError for what the file cannot say: more than 8 bits, asymmetric or unsigned grids, a value read with
    several configs, rounding other than half to even; StateError for a scale that is missing or stale.
    """
    check(graph)
    check_ready(graph)
    document = json.dumps(parameters(graph), indent=4)
    model = baked(graph)
    sign(model, provenance(graph, TargetPlatform.PPL_CUDA_INT8, metadata or {}))
    target = Path(path)
    parameter_file = Path(config_path) if config_path is not None else target.with_suffix(".json")
    with whole_files(target, external_name(target), parameter_file) as (place, _, parameter_place):
        save_model(model, place)
        parameter_place.write_text(document + "\n", encoding="utf-8")


def check(graph: Graph) -> None:
    """Raise ExportError for what the file cannot say, whatever the scales will be."""
    check_kind(graph, NAME)
    check_rounding(graph, NAME)
    for name, config in _configs(graph):
        _check(name, config)


def parameters(graph: Graph) -> dict[str, Any]:
    """The JSON document: quant_info by value name, op_info by node name."""
    found: dict[str, Config] = {}
    for name, config in _configs(graph):
        if name in found and not _same(found[name], config):
            raise ExportError(
                f"{NAME} has one set of parameters for a value, '{name}' is read with two: give its readers one config"
            )
        found.setdefault(name, config)
    keys = {id(config): number for number, config in enumerate({id(c): c for c in found.values()}.values())}
    return {
        "quant_info": {name: _entry(config, keys[id(config)]) for name, config in found.items()},
        "op_info": {name: {"data_type": "INT8"} for name in _integer_nodes(graph, set(found))},
    }


def baked(graph: Graph) -> ir.Model:
    """A copy of the float model in which each BAKED weight has the values that its integers stand for."""
    model = graph.model.clone()
    for node, index, config in parameter_configs(graph):
        value = node.inputs[index]
        if config.state is not QuantizationStates.BAKED or value is None or value.const_value is None:
            continue
        values = dequantize(integers(value.const_value.numpy(), config), config)
        model.graph.initializers[str(value.name)].const_value = ir.Tensor(np.asarray(values), name=value.name)
    return model


def _entry(config: Config, key: int) -> dict[str, Any]:
    """One value. hash: the same number for values that share a scale; dominator: the config that decides (itself)."""
    scale, offset = np.asarray(config.scale, np.float32), np.asarray(config.offset, np.float32)
    return {
        "bit_width": config.num_of_bits,
        "per_channel": config.is_per_channel,
        "quant_flag": True,
        "sym": config.is_symmetric,
        "scale": scale.tolist(),
        "zero_point": offset.astype(int).tolist(),
        "tensor_min": (scale * (config.quant_min - offset)).tolist(),
        "tensor_max": (scale * (config.quant_max - offset)).tolist(),
        "q_min": config.quant_min,
        "q_max": config.quant_max,
        "hash": key,
        "dominator": key,
    }


def _configs(graph: Graph) -> list[tuple[str, Config]]:
    """Of activations and weights, by name of the value."""
    weights = [(str(node.inputs[i].name), c) for node, i, c in parameter_configs(graph) if _is_weight(node, i, c)]  # type: ignore[union-attr]
    return [*activation_configs(graph), *weights]


def _integer_nodes(graph: Graph, quantized: set[str]) -> list[str]:
    """The nodes that read or make a quantized value and were not left in float."""
    names = []
    for node in graph.model.graph:
        touched = any(v is not None and v.name in quantized for v in (*node.inputs, *node.outputs))
        if touched and str(node.name) not in graph.left_in_float:
            names.append(str(node.name))
    return names


def _is_weight(node: ir.Node, index: int, config: Config) -> bool:
    return not config.is_bias and not is_bound(node, index)


def _same(one: Config, other: Config) -> bool:
    return one is other or _entry(one, 0) == _entry(other, 0)


def _check(name: str, config: Config) -> None:
    if config.num_of_bits > 8 or not config.is_symmetric or not config.is_signed:
        raise ExportError(
            f"{NAME} takes symmetric signed grids of up to 8 bits; '{name}' has {config.num_of_bits} bits, "
            f"[{config.quant_min}, {config.quant_max}], {'symmetric' if config.is_symmetric else 'asymmetric'}: "
            f"quantize for {NAME}"
        )
