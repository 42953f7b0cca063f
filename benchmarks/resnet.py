"""ResNet-50 (He et al., 2015; with the stride in the 3 x 3 convolution) and others of its kind, with random weights.

For time and memory, which do not depend on what a network has learnt. Layers are named as torchvision names them.
"""

from pathlib import Path

import numpy as np

from demo.convnet import ConvNet

RESNET_50 = (3, 4, 6, 3)  # blocks in each stage
WIDTH = 64  # channels inside the blocks of the first stage; every stage doubles them
EXPANSION = 4  # a block puts out so many times more
CLASSES = 1000
ADDED = 0.25  # gain of what a block adds to its input: with 1 the variance would double in every block


def build(path: Path, blocks: tuple[int, ...] = RESNET_50, seed: int = 0) -> None:
    """Write the network: `input` [N, 3, 224, 224] -> `logits` [N, 1000]. The same seed gives the same weights."""
    random = _RandomLayers(seed)
    net = random.net
    x = net.relu(random.conv("input", "conv1", "bn1", 3, WIDTH, kernel=7, stride=2))
    x = net.max_pool(x, kernel=3, stride=2, pads=(1, 1, 1, 1))
    channels = WIDTH
    for stage, repeats in enumerate(blocks):
        width = WIDTH << stage
        for number in range(repeats):
            stride = 2 if stage and number == 0 else 1
            x = _bottleneck(random, x, f"layer{stage + 1}.{number}.", channels, width, stride)
            channels = EXPANSION * width
    net.save(path, random.classifier(x, "fc", channels), 224, CLASSES)


def _bottleneck(random: "_RandomLayers", x: str, prefix: str, channels: int, width: int, stride: int) -> str:
    """1 x 1, 3 x 3, 1 x 1, and what came in added; through a 1 x 1 of its own where the shape changes."""
    net, out = random.net, EXPANSION * width
    y = net.relu(random.conv(x, f"{prefix}conv1", f"{prefix}bn1", channels, width))
    y = net.relu(random.conv(y, f"{prefix}conv2", f"{prefix}bn2", width, width, kernel=3, stride=stride))
    y = random.conv(y, f"{prefix}conv3", f"{prefix}bn3", width, out, gain=ADDED)
    if stride != 1 or channels != out:
        x = random.conv(x, f"{prefix}downsample.0", f"{prefix}downsample.1", channels, out, stride=stride)
    return net.relu(net.add(x, y))


class _RandomLayers:
    """Layers of `net` with random weights: normal, of variance 2 / inputs, as a ReLU halves it (He et al., 2015)."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.net = ConvNet({}, epsilon=0.0)

    def conv(
        self, x: str, layer: str, norm: str, channels: int, out: int, kernel: int = 1, stride: int = 1, gain: float = 1
    ) -> str:
        """Convolution and BatchNormalization, which multiplies by `gain`; padded so that stride 1 keeps the size."""
        self._draw(f"{layer}.weight", (out, channels, kernel, kernel), 2 / (channels * kernel**2))
        for part, value in (("weight", gain), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.net.weights[f"{norm}.{part}"] = np.full(out, value, np.float32)
        return self.net.conv(x, layer, norm, stride=stride, pads=(kernel // 2,) * 4)

    def classifier(self, x: str, layer: str, channels: int) -> str:
        self._draw(f"{layer}.weight", (CLASSES, channels), 1 / channels)
        self._draw(f"{layer}.bias", (CLASSES,), 0.01)
        return self.net.classifier(x, layer)

    def _draw(self, name: str, shape: tuple[int, ...], variance: float) -> None:
        drawn = self._random.standard_normal(shape, np.float32) * np.float32(variance**0.5)
        self.net.weights[name] = drawn
