"""Quantize one model by one peer, in a process of its own: its environment need not have calibrant.

    python benchmarks/peer_model.py onnxruntime-minmax model.onnx samples int8.onnx [--transformer]

samples: a folder of .npz files, one a sample, an array for each input. Asked for is what Calibrant gives by default:
static, Q/DQ, uint8 activations, int8 weights with a scale per channel. Imports nothing but the peer, numpy and onnx.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Feed = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--transformer", action="store_true", help="say so to peers that have an option for it")
    options = parser.parse_args()
    start = time.perf_counter()
    PEERS[options.peer](options.model, options.samples, options.output, options.transformer)
    print(f"seconds {time.perf_counter() - start}")


def feeds(folder: Path) -> Iterator[Feed]:
    """The samples, in the order of their names."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            yield dict(file)


def by_onnxruntime(method: str, model: Path, samples: Path, output: Path, transformer: bool) -> None:
    """quantize_static after its own preparation; a transformer: its products alone, as its documentation advises."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = feeds(samples)

        def get_next(self) -> Feed | None:
            return next(self._feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(model, prepared)
        except Exception:  # symbolic shape inference does not take every model; its documentation says to leave it out
            quant_pre_process(model, prepared, skip_symbolic_shape=True)
        quantize(
            prepared,
            output,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"] if transformer else None,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
        )


def by_nncf(best: bool, model: Path, samples: Path, output: Path, transformer: bool) -> None:
    """nncf.quantize as it comes; best: asymmetric activations, and the slow bias correction, which runs the model."""
    import nncf
    import onnx
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters

    nncf.set_log_level(logging.ERROR)
    more: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}
    if best:
        more |= {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": False}
    quantized = nncf.quantize(
        onnx.load(model),
        nncf.Dataset(list(feeds(samples))),
        subset_size=len(list(samples.glob("*.npz"))),
        advanced_parameters=AdvancedQuantizationParameters(),
        **more,
    )
    onnx.save(quantized, output)


PEERS: dict[str, Callable[[Path, Path, Path, bool], None]] = {
    "onnxruntime-minmax": partial(by_onnxruntime, "MinMax"),
    "onnxruntime-entropy": partial(by_onnxruntime, "Entropy"),
    "onnxruntime-percentile": partial(by_onnxruntime, "Percentile"),
    "nncf-default": partial(by_nncf, False),
    "nncf-best": partial(by_nncf, True),
}

if __name__ == "__main__":
    main()
