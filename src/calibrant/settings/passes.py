"""The optional passes: PPQ's names and parameters where PPQ has the pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from calibrant.settings.base import Setting


@dataclass
class OptimizationSetting(Setting):
    """What the passes that look at layers one after the other have in common.

    interested_layers: node names, op types or regular expressions; empty: all. One that matches nothing is an error.
    """

    interested_layers: list[str] = field(default_factory=list)


@dataclass
class EqualizationSetting(OptimizationSetting):
    """Cross-layer equalization (Nagel et al., 2019).

    opt_level: 2, through sums as well, so that residual streams are equalized; 1, not through them.
    """

    _choices: ClassVar[dict[str, tuple[Any, ...]]] = {"opt_level": (1, 2)}

    opt_level: int = 2


@dataclass
class SmoothQuantSetting(OptimizationSetting):
    """Ranges of activations migrate into weights (Xiao et al., 2023)."""


@dataclass
class BlockwiseReconstructionSetting(OptimizationSetting):
    """Weights, their scales and biases, chosen by what they do to the output of their layer, on samples."""


@dataclass
class LSQSetting(OptimizationSetting):
    """Learned step sizes (Esser et al., 2020), block by block, with torch.

    steps: how often each block is trained on a sample. block_size: how many layers with weights make a block.
    lr: the learning rate, in steps of the grid: of weights and biases, and by how much a scale moves the grid's end.
    gamma: how much weights are pulled towards their grid, against the error of the block's output.
    is_scale_trainable: whether scales are learned too, or weights and biases alone.
    collecting_device: where the samples of a block lie while it is trained: "cpu", or "cuda" where there is room.
    """

    steps: int = 500
    block_size: int = 4
    lr: float = 1e-2
    gamma: float = 0.0
    is_scale_trainable: bool = True
    collecting_device: str = "cpu"


@dataclass
class OutputRefinementSetting(OptimizationSetting):
    """Scales of activations, chosen by what they do to the model's outputs.

    interested_layers: names of values as well. steps: how many samples are looked at; half of them only check.
    """

    steps: int = 32


@dataclass
class BiasCorrectSetting(OptimizationSetting):
    """Biases take up the mean of the error (Nagel et al., 2019).

    steps: how many samples are looked at; half of them only check. block_size: how many layers with biases make a
    block, at whose end a correction is judged; None: it is judged at the model's outputs.
    """

    steps: int = 32
    block_size: int | None = None
