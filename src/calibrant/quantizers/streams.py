"""Which streams of a graph are to be equalized: what the user decided, or else what helps and costs next to nothing."""

from __future__ import annotations

from collections.abc import Sequence

from calibrant.graph import Graph
from calibrant.graph.streams import Stream, find_inserted, find_streams
from calibrant.quantizers.choice import nodes_of
from calibrant.settings import QuantizationSetting
from calibrant.settings.passes import OptimizationSetting


def streams_to_equalize(graph: Graph, setting: QuantizationSetting) -> list[Stream]:
    """The streams, in the order of the model.

    equalization: True, every stream that `opt_level` allows; None, those without activation functions (the residual
    streams of MobileNets and their like: few values, whose channels differ most).
    smooth_quant: True, every value that MatMul, Gemm and larger Convs read by weights (see `find_inserted`); None,
    those too, but only where no method is asked for: then the ranges of the channels suffice, which are always known.

    Raises SettingError for `interested_layers` that fit no node.
    """
    if not setting.quantize_activation or setting.quantize_activation_setting.per_channel:
        return []
    whole = find_streams(graph.model.graph)
    return _cross_layer(graph, whole, setting) + _smoothed(graph, whole, setting)


def _cross_layer(graph: Graph, whole: Sequence[Stream], setting: QuantizationSetting) -> list[Stream]:
    asked = setting.equalization_setting
    if setting.equalization is False:
        return []
    if not setting.wants("equalization"):
        return [stream for stream in whole if not stream.activations]
    found = [stream for stream in whole if asked.opt_level == 2 or not stream.sums]
    return _of_interest(graph, found, asked, "equalization_setting")


def _smoothed(graph: Graph, whole: Sequence[Stream], setting: QuantizationSetting) -> list[Stream]:
    named = setting.quantize_activation_setting.calib_algorithm not in (None, "auto")
    if setting.smooth_quant is False or (named and not setting.wants("smooth_quant")):
        return []
    quantized = {name for (name, index) in graph.edges if index == 1}
    taken = {name for stream in whole for name in stream.values}
    sketched = setting.smooth_quant is True or named
    found = find_inserted(graph.model.graph, quantized, sketched)
    found = [stream for stream in found if stream.values[0] not in taken]
    return _of_interest(graph, found, setting.smooth_quant_setting, "smooth_quant_setting")


def _of_interest(graph: Graph, streams: list[Stream], asked: OptimizationSetting, what: str) -> list[Stream]:
    """The streams with a writer or reader among the layers that the setting names."""
    if not asked.interested_layers:
        return streams
    layers = {name for p in asked.interested_layers for name in nodes_of(graph, f"{what}.interested_layers", p)}
    return [stream for stream in streams if layers & {*stream.writers, *stream.readers}]
