"""Operators that compute each element for itself, of one or more tensors that broadcast."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch.nn import functional as F

from calibrant.engines.torch.ops.registry import Call, Tensor, Unsupported, op

_UNARY = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": lambda x: torch.logaddexp(x, torch.zeros((), dtype=x.dtype, device=x.device)),
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
_BINARY = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}


def _enter_unary(name: str, function: Callable[[Tensor], Tensor]) -> None:
    op(name)(lambda x: function(x))


def _enter_binary(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    op(name)(lambda a, b: function(a, b))


for _name, _function in _UNARY.items():
    _enter_unary(_name, _function)
for _name, _function in _BINARY.items():
    _enter_binary(_name, _function)


# --- arithmetic


@op("Div")
def div(a: Tensor, b: Tensor) -> Tensor:
    """Integers are divided towards zero."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@op("Mod")
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """The remainder has the sign of the divisor; with fmod that of the dividend."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@op("Pow")
def power(base: Tensor, exponent: Tensor) -> Tensor:
    """The result is of the base's type. Integers to the power of floats are computed in float64."""
    whole = exponent.is_floating_point() and not base.is_floating_point()
    return torch.pow(base.to(torch.float64) if whole else base, exponent).to(base.dtype)


@op("BitShift")
def bit_shift(x: Tensor, by: Tensor, *, direction: str) -> Tensor:
    return torch.bitwise_left_shift(x, by) if direction == "LEFT" else torch.bitwise_right_shift(x, by)


@op("Max")
def maximum(*values: Tensor) -> Tensor:
    return reduce(torch.maximum, values)


@op("Min")
def minimum(*values: Tensor) -> Tensor:
    return reduce(torch.minimum, values)


@op("Sum")
def add_all(*values: Tensor) -> Tensor:
    return reduce(torch.add, values)


@op("Mean")
def mean_of_all(*values: Tensor) -> Tensor:
    return reduce(torch.add, values) / len(values)


@op("Where")
def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


@op("Clip")
def clip(x: Tensor, low: Tensor | float | None = None, high: Tensor | float | None = None) -> Tensor:
    """Where the bounds cross, everything is the upper one."""
    return x if low is None and high is None else torch.clamp(x, low, high)


@op("IsInf")
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    if detect_negative and detect_positive:
        return torch.isinf(x)
    if detect_positive:
        return torch.isposinf(x)
    return torch.isneginf(x) if detect_negative else torch.zeros_like(x, dtype=torch.bool)


# --- activations


@op("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


@op("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


@op("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


@op("Selu")
def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return gamma * F.elu(x, alpha)


@op("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


@op("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


@op("Gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


@op("Gelu", domain="com.microsoft")
def contrib_gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


@op("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


@op("SwiGLU")
def swiglu(gate: Tensor, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return swish(gate, alpha=alpha) * x


@op("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


@op("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x))).to(x.dtype)


# --- types


@op("Cast")
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up", call: Call) -> Tensor:
    """Floats become integers towards zero; what does not fit an integer is undefined."""
    return converted(x, call.dtype(to), bool(saturate))


@op("CastLike")
def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return converted(x, like.dtype, bool(saturate))


def converted(x: Tensor, dtype: torch.dtype, saturate: bool) -> Tensor:
    """`x` in that type. saturate: what is too large for a float of eight bits, Inf too, becomes its largest number."""
    if not (dtype.is_floating_point and dtype.itemsize == 1):
        return x.to(dtype)
    if not saturate:
        raise Unsupported("floats of eight bits that do not saturate")
    largest = torch.finfo(dtype).max
    return x.to(torch.float32).clamp(-largest, largest).to(dtype)


@op("BitCast")
def bit_cast(x: Tensor, *, to: int, call: Call) -> Tensor:
    if call.floating is not torch.float32:
        raise Unsupported("the bits of a number in another precision")
    return x.view(call.dtype(to))


@op("Identity")
def identity(x: Tensor) -> Tensor:
    return x


@op("Dropout", parameters=[1, 2])
def dropout(
    x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None, *, seed: int = 0, call: Call
) -> Tensor | tuple[Tensor, Tensor]:
    """As in inference: everything stays."""
    if training is not None and bool(training) and (ratio is None or float(ratio)):
        raise Unsupported("dropping at random")
    return x if call.outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))
