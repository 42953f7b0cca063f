"""A few nodes of a model as a model of their own, on one thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from calibrant.core import ModelError
from calibrant.engines.session import reason
from calibrant.engines.working import in_memory
from calibrant.graph.bodies import reads
from calibrant.graph.graph import original


def open_submodel(
    nodes: Sequence[ir.Node],
    inputs: Mapping[ir.Value, np.dtype[Any] | None],
    outputs: Iterable[ir.Value],
    opsets: Mapping[str, int],
) -> Any:
    """A session of these nodes. Constants that they read, and that are not among the inputs, come along.

    The constants are those of the float model.
    nodes: in an order in which they can run. inputs: each with the dtype that it will be fed, or None: as the model
    has it. Raises ModelError where onnxruntime cannot run them.
    """
    constants = {v: constant for node in nodes for v in reads(node) if (constant := original(v)) is not None}
    graph = onnx.GraphProto(
        name="submodel",
        node=[ir.to_proto(node) for node in nodes],
        input=[_described(value, dtype) for value, dtype in inputs.items()],
        output=[onnx.ValueInfoProto(name=value.name) for value in outputs if value.name],
    )
    for value, constant in constants.items():
        if value not in inputs:
            graph.initializer.append(in_memory(constant, value.name or ""))
    ids = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=ids, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # hundreds of sessions, whose threads would spin while they wait
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # and whose arenas would keep what each once took
    # Every Q and DQ as it is written, the arithmetic between in float: integer kernels saturate on some processors.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types share no base but Exception
        raise ModelError(f"onnxruntime cannot run '{nodes[-1].name}' on its own: {reason(error)}") from error


def _described(value: ir.Value, dtype: np.dtype[Any] | None) -> onnx.ValueInfoProto:
    if dtype is None:
        return ir.to_proto(value)
    return onnx.helper.make_tensor_value_info(value.name or "", onnx.helper.np_dtype_to_tensor_dtype(dtype), None)
