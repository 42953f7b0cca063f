"""Write a convolutional network as ONNX, one layer at a time, with BatchNormalization folded into the convolutions."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
OPSET = 17


class ConvNet:
    """Nodes and weights of a network under construction. Every method takes and returns names of values.

    weights: the checkpoint's tensors by name. epsilon: that of its BatchNormalization.
    """

    def __init__(self, weights: dict[str, Array], epsilon: float) -> None:
        self.weights = weights
        self._epsilon = epsilon
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def conv(
        self,
        x: str,
        layer: str,
        norm: str,
        *,
        stride: int = 1,
        pads: tuple[int, ...] = (0, 0, 0, 0),
        depthwise: bool = False,
    ) -> str:
        """Convolution with the weights of `layer`, and the BatchNormalization `norm` folded into them.

        norm(w * x) = gain * (w * x - mean) + beta with gain = gamma / sqrt(variance + epsilon), so the convolution
        takes the weights gain * w (per output channel) and the bias beta - gain * mean. pads: top, left, bottom, right.
        """
        weight = self.weights[f"{layer}.weight"]
        gamma, beta, mean, variance = (
            self.weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gamma / np.sqrt(variance + np.float32(self._epsilon))
        kernel = self._constant(f"{layer}.weight", weight * gain[:, None, None, None])
        bias = self._constant(f"{layer}.bias", beta - gain * mean)
        return self._add(
            "Conv",
            [x, kernel, bias],
            name=layer,
            kernel_shape=weight.shape[2:],
            strides=[stride, stride],
            pads=pads,
            group=weight.shape[0] if depthwise else 1,
        )

    def relu6(self, x: str) -> str:
        if not any(i.name == "zero" for i in self._initializers):
            self._constant("zero", np.float32(0))
            self._constant("six", np.float32(6))
        return self._add("Clip", [x, "zero", "six"])

    def relu(self, x: str) -> str:
        return self._add("Relu", [x])

    def max_pool(self, x: str, *, kernel: int, stride: int, pads: tuple[int, ...]) -> str:
        return self._add("MaxPool", [x], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def add(self, a: str, b: str) -> str:
        return self._add("Add", [a, b])

    def classifier(self, x: str, layer: str) -> str:
        """Mean over height and width, then the fully connected `layer`."""
        pooled = self._add("Flatten", [self._add("GlobalAveragePool", [x])])
        weight = self._constant(f"{layer}.weight", self.weights[f"{layer}.weight"])
        bias = self._constant(f"{layer}.bias", self.weights[f"{layer}.bias"])
        return self._add("Gemm", [pooled, weight, bias], name=layer, transB=1)

    def save(self, path: str | Path, logits: str, size: int, classes: int = 1000) -> None:
        """Write the network, from `input` [N, 3, size, size] to `logits` [N, classes]; whole, or not at all."""
        last = next(node for node in self._nodes if node.output[0] == logits)
        last.output[0] = "logits"
        graph = helper.make_graph(
            self._nodes,
            Path(path).stem,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, size, size])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
            self._initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model)
        unfinished = Path(f"{path}.unfinished")
        onnx.save(model, unfinished)
        unfinished.replace(path)

    def _add(self, op_type: str, inputs: list[str], *, name: str = "", **attributes: Any) -> str:
        name = name or f"{op_type}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, inputs, [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def _constant(self, name: str, value: Array | np.float32) -> str:
        self._initializers.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name
