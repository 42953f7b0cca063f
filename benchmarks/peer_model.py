"""Quantize one model by one peer, in a process of its own: its environment need not have calibrant.

    python -I benchmarks/peer_model.py onnxruntime-minmax model.onnx samples int8.onnx [--transformer]

samples: a folder of .npz files, one a sample, an array for each input. Asked for is what Calibrant gives by default:
static, Q/DQ, 8-bit activations, asymmetric where that is offered, int8 weights with a scale per channel. `-default` is
a peer with nothing else set; the other settings are its own means to do better, each as its documentation has them.
Imports nothing but the peer, numpy and onnx. What it fails with stands on the last line of stderr.
"""

import argparse
import logging
import sys
import tempfile
import time
import traceback
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
    try:
        PEERS[options.peer](options.model, options.samples, options.output, options.transformer)
    except Exception as error:
        traceback.print_exc()
        words = str(error).strip().split("\n")[0]
        sys.exit(f"{type(error).__name__}: {words}")
    print(f"seconds {time.perf_counter() - start}")


def feeds(folder: Path) -> Iterator[Feed]:
    """The samples, in the order of their names."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            yield dict(file)


class Reader:
    """The samples as onnxruntime's CalibrationDataReader gives them, and as those do that are made after it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rewind()

    def __iter__(self) -> Iterator[Feed]:
        return self._feeds

    def __next__(self) -> Feed:
        return next(self._feeds)

    def __len__(self) -> int:
        return len(list(self._folder.glob("*.npz")))

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)

    def get_first(self) -> Feed:
        return next(feeds(self._folder))

    def rewind(self) -> None:
        self._feeds = feeds(self._folder)


def by_onnxruntime(method: str, model: Path, samples: Path, output: Path, transformer: bool) -> None:
    """quantize_static after its own preparation; a transformer: its products alone, as its documentation advises."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(model, prepared)
        except Exception:  # symbolic shape inference does not take every model; its documentation says to leave it out
            quant_pre_process(model, prepared, skip_symbolic_shape=True)
        quantize(
            prepared,
            output,
            Reader(samples),
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
        subset_size=len(Reader(samples)),
        advanced_parameters=AdvancedQuantizationParameters(),
        **more,
    )
    onnx.save(quantized, output)


def by_modelopt(method: str, model: Path, samples: Path, output: Path, transformer: bool) -> None:
    """Its ranges are symmetric, its default method is entropy. What is not in 8 bits stays in float32, not float16."""
    from modelopt.onnx.quantization import quantize

    quantize(
        str(model),
        quantize_mode="int8",
        calibration_method=method,
        calibration_data_reader=Reader(samples),
        calibration_eps=["cpu"],
        output_path=str(output),
        high_precision_dtype="fp32",
    )


def by_quark(best: bool, model: Path, samples: Path, output: Path, transformer: bool) -> None:
    """Its default method is percentile. Best: each layer's percentile by its own output, and its bias correction."""
    import quark.onnx as quark

    activation = quark.UInt8Spec()
    if best:
        activation.set_calibration_method(quark.CalibMethod.LayerwisePercentile)
    weight = quark.Int8Spec(quant_granularity=quark.QuantGranularity.Channel)
    config = quark.QConfig(
        quark.QLayerConfig(activation=activation, weight=weight),
        algo_config=[quark.BiasCorrectionConfig()] if best else None,
    )
    quark.ModelQuantizer(config).quantize_model(str(model), str(output), Reader(samples))


def by_aimet(best: bool, model: Path, samples: Path, output: Path, transformer: bool) -> None:
    """Its default ranges are min and max; best: cross-layer equalization, and its "tf enhanced" ranges, which clip."""
    import aimet_onnx
    import onnx
    from aimet_onnx.cross_layer_equalization import equalize_model

    given = onnx.load(model)
    if best:
        equalize_model(given)
    simulation = aimet_onnx.QuantizationSimModel(
        given,
        param_type="int8",
        activation_type="int8",
        config_file=str(Path(aimet_onnx.__file__).parent / "common/quantsim_config/default_config_per_channel.json"),
        quant_scheme="tf_enhanced" if best else "min_max",
    )
    simulation.compute_encodings(list(feeds(samples)))
    onnx.save(simulation.to_onnx_qdq(), output)


def by_onnx_neural_compressor(method: str, model: Path, samples: Path, output: Path, transformer: bool) -> None:
    """Version 1.0, the only one; its default method is min and max."""
    from onnx_neural_compressor import data_reader, quantization
    from onnx_neural_compressor.quantization import config

    class ItsReader(Reader, data_reader.CalibrationDataReader):  # type: ignore[misc]
        """It wants its own class."""

    reader = ItsReader(samples)
    quantization.quantize(
        str(model),
        str(output),
        config.StaticQuantConfig(
            calibration_data_reader=reader,
            calibrate_method=quantization.CalibrationMethod[method],
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            calibration_sampling_size=len(reader),
        ),
    )


def by_neural_compressor(method: str, model: Path, samples: Path, output: Path, transformer: bool) -> None:
    """Version 2.6, the last that takes ONNX; its default method is min and max."""
    from neural_compressor import PostTrainingQuantConfig, quantization

    class Loader:
        batch_size = 1

        def __iter__(self) -> Iterator[tuple[Any, int]]:
            for feed in feeds(samples):
                yield (feed if len(feed) > 1 else next(iter(feed.values()))), 0

    operators = {"activation": {"algorithm": [method]}, "weight": {"granularity": ["per_channel"]}}
    config = PostTrainingQuantConfig(
        quant_format="QDQ",
        quant_level=1,
        calibration_sampling_size=[len(Reader(samples))],
        op_type_dict={".*": operators},
    )
    quantized = quantization.fit(str(model), config, calib_dataloader=Loader())
    if quantized is None:
        raise RuntimeError("neural_compressor.quantization.fit gave no model, and raised nothing")
    quantized.save(str(output))


def by_ppq(best: bool, model: Path, samples: Path, output: Path, transformer: bool) -> None:
    """Version 0.6.6, the last; best: kl, equalization, and its bias correction, block by block."""
    import onnx
    import torch
    from ppq import QuantizationSettingFactory, TargetPlatform
    from ppq.api import export_ppq_graph, quantize_onnx_model

    names = list(Reader(samples).get_first())

    class Loader:
        def __len__(self) -> int:
            return len(Reader(samples))

        def __iter__(self) -> Iterator[Any]:
            for feed in feeds(samples):
                arrays = [torch.from_numpy(feed[name]) for name in names]
                yield arrays if len(arrays) > 1 else arrays[0]

    setting = QuantizationSettingFactory.default_setting()
    if best:
        setting.quantize_activation_setting.calib_algorithm = "kl"
        setting.equalization = setting.bias_correct = True
    first = next(iter(Loader()))
    with tempfile.TemporaryDirectory() as folder:
        readable = Path(folder) / "readable.onnx"
        onnx.save(without_allowzero(onnx.load(model)), readable)
        graph = quantize_onnx_model(
            onnx_import_file=str(readable),
            calib_dataloader=Loader(),
            calib_steps=len(Loader()),
            input_shape=None if len(names) > 1 else list(first.shape),
            inputs=first if len(names) > 1 else None,
            platform=TargetPlatform.ONNXRUNTIME,
            setting=setting,
            device="cpu",
        )
    export_ppq_graph(graph, platform=TargetPlatform.ONNXRUNTIME, graph_save_to=str(output))


def without_allowzero(model: Any) -> Any:
    """PPQ writes opset 13, and keeps of Reshape an attribute that came with opset 14: no runtime takes that."""
    for node in model.graph.node:
        if node.op_type == "Reshape":
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    return model


PEERS: dict[str, Callable[[Path, Path, Path, bool], None]] = {
    "onnxruntime-minmax": partial(by_onnxruntime, "MinMax"),
    "onnxruntime-entropy": partial(by_onnxruntime, "Entropy"),
    "onnxruntime-percentile": partial(by_onnxruntime, "Percentile"),
    "nncf-default": partial(by_nncf, False),
    "nncf-best": partial(by_nncf, True),
    "modelopt-default": partial(by_modelopt, "entropy"),
    "modelopt-max": partial(by_modelopt, "max"),
    "quark-default": partial(by_quark, False),
    "quark-best": partial(by_quark, True),
    "aimet-default": partial(by_aimet, False),
    "aimet-best": partial(by_aimet, True),
    "onnx-neural-compressor-default": partial(by_onnx_neural_compressor, "MinMax"),
    "onnx-neural-compressor-percentile": partial(by_onnx_neural_compressor, "Percentile"),
    "neural-compressor-default": partial(by_neural_compressor, "minmax"),
    "neural-compressor-percentile": partial(by_neural_compressor, "percentile"),
    "ppq-default": partial(by_ppq, False),
    "ppq-best": partial(by_ppq, True),
}

if __name__ == "__main__":
    main()
