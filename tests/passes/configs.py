"""Configs that are solved, for small graphs."""

import numpy as np

from calibrant.core import QuantizationProperty as P
from calibrant.core import QuantizationStates, TensorQuantizationConfig


def activation(scale=0.5, **more):
    """Asymmetric, 0..255, ACTIVATED; more: what is otherwise."""
    more = {"quant_min": 0, "quant_max": 255, "offset": 3, "state": QuantizationStates.ACTIVATED} | more
    return TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | P.ASYMMETRICAL, scale=scale, **more)


def weight(scale=(0.013, 0.0171), state=QuantizationStates.BAKED, power=False):
    """Symmetric, BAKED, per channel where there are several scales; power: of two."""
    per = P.PER_CHANNEL if np.ndim(scale) else P.PER_TENSOR
    return TensorQuantizationConfig(
        per | P.LINEAR | P.SYMMETRICAL | (P.POWER_OF_2 if power else 0),
        scale=scale,
        offset=None if scale is None else np.zeros_like(scale),
        channel_axis=0 if np.ndim(scale) else None,
        state=state,
    )
