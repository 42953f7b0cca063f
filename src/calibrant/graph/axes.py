"""Which axis of a value holds its channels."""

import onnx_ir as ir

# Ops that leave every number at its index, so that a Conv's channels stay on axis 1 behind them.
KEEPS_AXES = (
    {"Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Elu", "Selu", "Celu"}
    | {"Gelu", "Mish", "Swish", "Softplus", "Softsign", "ThresholdedRelu", "Add", "Mul", "Sub", "Div", "Cast"}
    | {"BatchNormalization", "InstanceNormalization", "Identity", "Dropout", "Pad", "Resize"}
    | {"MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"}
)
CONVOLUTIONS = ("Conv", "ConvTranspose")


def channel_axis(value: ir.Value) -> int | None:
    """The channel axis: 1 beside a Conv and from rank 4 on, the last of rank 2 and 3; None where it is not static."""
    shape = value.shape
    if shape is None or len(shape) < 2:
        return None
    axis = 1 if len(shape) >= 4 or _made_by_conv(value) or _read_by_conv(value) else len(shape) - 1
    return axis if isinstance(shape[axis], int) else None


def _read_by_conv(value: ir.Value) -> bool:
    return any(index == 0 and node.op_type in CONVOLUTIONS for node, index in value.uses())


def _made_by_conv(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in KEEPS_AXES and node.inputs and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in CONVOLUTIONS
