"""Configs, sizes and reasons in words, for the summary and the dry run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from calibrant.cli.console import COMPILING
from calibrant.core import QuantizationStates, TensorQuantizationConfig
from calibrant.data.paths import count
from calibrant.graph import Graph
from calibrant.observers.kernels import squares
from calibrant.sketches.kernels import cpu
from calibrant.sketches.kernels.jit import is_kept


def calibrating() -> str:
    """The name of that stage; the first time on a machine, with why it takes so long."""
    return "calibrating" if is_kept(cpu.count) else f"calibrating {COMPILING}"


def finding_scales() -> str:
    """The same of the stage behind it."""
    return "finding the scales" if is_kept(squares.solve_channels) else f"finding the scales {COMPILING}"


def config_in_words(config: TensorQuantizationConfig) -> str:
    """
    >>> from calibrant.core import QuantizationProperty as P
    >>> config_in_words(TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | P.ASYMMETRICAL, quant_min=0, quant_max=255))
    'uint8 asymmetric'
    >>> config_in_words(TensorQuantizationConfig(P.PER_CHANNEL | P.LINEAR | P.SYMMETRICAL, quant_min=-64, quant_max=64,
    ...                                          channel_axis=0))
    'int8 symmetric per channel, -64..64'
    """
    words = f"{'int' if config.is_signed else 'uint'}{config.num_of_bits}"
    words += " symmetric" if config.is_symmetric else " asymmetric"
    words += " per channel" if config.is_per_channel else ""
    words += ", powers of 2" if config.is_power_of_2 else ""
    nearly_all = config.levels >= 2**config.num_of_bits - 1
    return words if nearly_all else f"{words}, {config.quant_min}..{config.quant_max}"


def counted(words: Iterable[str]) -> str:
    """
    >>> counted(["mse", "kl", "mse"]), counted(["mse", "mse"])
    ('2 mse, 1 kl', 'mse')
    """
    counts = Counter(words)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{n} {word}" for word, n in counts.most_common())


def megabytes(size: int) -> str:
    """
    >>> megabytes(18_600_000), megabytes(5_200), megabytes(12)
    ('18.6 MB', '5.2 kB', '12 bytes')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


@dataclass(frozen=True)
class Parameters:
    """The configs of constants: weights (with what is on the scale of activations), and biases."""

    weights: list[TensorQuantizationConfig]
    biases: list[TensorQuantizationConfig]

    @classmethod
    def of(cls, graph: Graph) -> Parameters:
        weights: list[TensorQuantizationConfig] = []
        biases: list[TensorQuantizationConfig] = []
        for (node, index), config in graph.edges.items():
            if config.state is QuantizationStates.FP32 or not graph.is_parameter(graph.input_of(node, index)):
                continue
            (biases if config.is_bias else weights).append(config)
        return cls(weights, biases)

    def __str__(self) -> str:
        weights = f"{len(self.weights)} in {counted(map(config_in_words, self.weights))}" if self.weights else "none"
        methods = f" ({counted(c.observer_algorithm for c in self.weights)})" if self.weights else ""
        return weights + methods + (f"; {count(len(self.biases), 'bias', 'biases')} in int32" if self.biases else "")


def left_in_float(graph: Graph, most: int | None = 3) -> list[tuple[str, str]]:
    """Why nodes stay in float, and which: operators with their counts, and with `most` None every name."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in graph.left_in_float.items():
        by_reason[reason].append(name)
    return [(reason, _nodes(graph, names, most)) for reason, names in by_reason.items()]


def _nodes(graph: Graph, names: list[str], most: int | None) -> str:
    by_type: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_type[graph.node(name).op_type].append(name)
    parts = []
    for kind, found in sorted(by_type.items(), key=lambda item: (-len(item[1]), item[0])):
        shown = found if most is None or len(names) <= most else []
        parts.append(f"{len(found)} {kind}" + (f" ({', '.join(shown)})" if shown else ""))
    return ", ".join(parts)


def masked_rows(mask: str | None) -> Iterator[tuple[str, str]]:
    """Label and text of the line that says which positions count; none where all do."""
    if mask is not None:
        yield "", f"padded positions do not count ('{mask}')"
