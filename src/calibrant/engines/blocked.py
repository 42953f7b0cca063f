"""Values in onnxruntime's blocked layout (NCHWc), taken before it converts them back.

At its highest level onnxruntime runs convolutions on [N, C/B, H, W, B] and puts a ReorderOutput node before whoever
wants [N, C, H, W]. A statistic does not mind the layout, and the conversions of sixty outputs cost more than the
model. So: let onnxruntime optimize and save the model with the wanted values as outputs, take out each ReorderOutput
that serves such an output alone, expose what it read, and run that model with the optimizer off.
What is read here (node name, domain, attributes) is no promise of onnxruntime's, hence `find_block` on real values.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Executor
from itertools import repeat
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibrant.engines.working import set_outputs

Array = NDArray[Any]
BLOCKS = (4, 8, 16, 32)  # 4: SSE and NEON, 8: AVX, 16: AVX-512; a wider one may come
_DOMAIN, _REORDER = "com.microsoft.nchwc", "ReorderOutput"


def expose_blocked(model: onnx.ModelProto, allowed: Collection[str]) -> dict[str, tuple[str, int]]:
    """Change the optimized `model` so that outputs are taken blocked where that saves a conversion.

    allowed: the outputs that may be. Returns, for each output that now is, the output that holds its blocked value
    and its number of channels; two outputs may share one. The other outputs stay.
    """
    graph = model.graph
    read = set(_names_read(graph))
    outputs = [o.name for o in graph.output]
    found: dict[str, tuple[str, int]] = {}
    kept = []
    for node in graph.node:
        channels = _channels(node)
        name = node.output[0] if node.output else ""
        if channels and name in outputs and name in allowed and name not in read:
            found[name] = (node.input[0], channels)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    set_outputs(model, dict.fromkeys(found[name][0] if name in found else name for name in outputs))
    return found


def find_block(
    plain: Mapping[str, Array], blocked: Mapping[str, Array], channels: Mapping[str, int], pool: Executor
) -> int | None:
    """The block size under which every blocked value is the plain one, bit for bit; None unless exactly one is.

    (Several are where no value tells them apart: those of one pixel, or all alike.)
    """

    def fits(name: str, block: int) -> bool:
        return _same(plain[name], blocked[name], channels[name], block)

    names = sorted(blocked, key=lambda name: blocked[name].size)
    sizes = list(BLOCKS)
    while names and len(sizes) > 1:  # small values first: they rule the wrong sizes out
        name = names.pop(0)
        sizes = [block for block in sizes if fits(name, block)]
    if len(sizes) != 1:
        return None
    return sizes[0] if all(pool.map(fits, names, repeat(sizes[0]))) else None


def as_blocks(value: Array, block: int) -> Array:
    """A view of onnxruntime's [N, padded channels, H, W] as what lies in its memory: [N, blocks, H, W, block]."""
    n, padded, *spatial = value.shape
    return value.reshape(n, padded // block, *spatial, block)


def _same(plain: Array, blocked: Array, channels: int, block: int) -> bool:
    n, padded, *spatial = blocked.shape
    if padded % block or not 0 <= padded - channels < block or plain.shape != (n, channels, *spatial):
        return False
    pixels, bits = math.prod(spatial), f"u{plain.itemsize}"  # as integers: a NaN equals itself
    blocks = blocked.view(bits).reshape(n, padded // block, pixels, block).swapaxes(2, 3)
    planes, whole = plain.view(bits).reshape(n, channels, pixels), channels // block
    first = planes[:, : whole * block].reshape(n, whole, block, pixels)
    last = blocks[:, whole:, : channels % block].reshape(n, channels % block, pixels)
    return np.array_equal(blocks[:, :whole], first) and np.array_equal(last, planes[:, whole * block :])


def _channels(node: onnx.NodeProto) -> int:
    """The channels of a conversion from blocked to channels-first; 0 for any other node."""
    if node.op_type != _REORDER or node.domain != _DOMAIN:
        return 0
    attributes = {a.name: a.i for a in node.attribute}
    return 0 if attributes.get("channels_last") else attributes.get("channels", 0)


def _names_read(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that a node reads, in this graph or in a graph inside of it."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _names_read(inner)
                yield from (o.name for o in inner.output)
