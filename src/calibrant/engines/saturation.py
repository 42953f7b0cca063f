"""Whether onnxruntime's integer sums are exact on this processor."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime as ort
from onnx import parser

from calibrant.engines.session import CPU

_PAIR = """<ir_version: 8, opset_import: ["" : 17]> g (uint8[1,2] x) => (int32[1,1] y) {
    w = Constant <value = int8[2,1] {127, 127}> ()
    y = MatMulInteger(x, w)
}"""


@cache
def sums_saturate() -> bool:
    """Whether a sum of two products of uint8 and int8 is cut off at 16 bits.

    So it is on x86 processors without VNNI, where one instruction, VPMADDUBSW, multiplies and adds pairs ("When and why
    do I need to try U8U8?", https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). Found by
    running the largest such sum.
    """
    session = ort.InferenceSession(parser.parse_model(_PAIR).SerializeToString(), providers=[CPU])
    return bool(session.run(None, {"x": np.full((1, 2), 255, np.uint8)})[0].item() != 2 * 255 * 127)
