"""Draws the pictures of the pages about methods: the observers at work on a tensor with a heavy tail.

    python docs/make_pictures.py

The ranges are what the observers find, the curves are brute force on the values; nothing is drawn by hand.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray

from calibrant import QuantizationProperty as P
from calibrant import TensorQuantizationConfig, build_observer
from calibrant.core import dequantize, quantize

FOLDER = Path(__file__).parent / "pictures"
SYMMETRIC = TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL)
TOP = SYMMETRIC.quant_max
BLUE, ORANGE, GRAY = "#0072b2", "#d55e00", "#666666"  # of Okabe and Ito's colours, told apart by everybody

F32 = NDArray[np.float32]


def main() -> None:
    mpl.rcParams.update({"svg.hashsalt": "calibrant", "svg.fonttype": "none", "font.size": 9})
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    heavy = np.random.default_rng(0).standard_t(4, 200_000).astype(np.float32)
    for method, curve in (("minmax", error), ("percentile", outside), ("mse", error), ("kl", error)):
        draw(method, heavy, curve)
    draw_isotone()


def draw(method: str, values: F32, curve: Callable[[Axes, F32, float], None]) -> None:
    """The histogram with the range that the method chooses; beside it the curve that tells why."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    high = solved(method, values) * (TOP + 0.5)
    left.hist(values, 120, color=GRAY, log=True, histtype="stepfilled")
    left.axvspan(-high, high, color=BLUE, alpha=0.15)
    for end in (-high, high):
        left.axvline(end, color=BLUE)
    left.set(title=f"{method}: ±{high:.3g}", xlabel="value", ylabel="how many")
    curve(right, values, high)
    save(figure, method)


def error(axes: Axes, values: F32, high: float) -> None:
    """The mean squared error of every range."""
    tops = np.geomspace(np.abs(values).max() / 40, np.abs(values).max() * 1.05, 120)
    axes.loglog(tops, [squared_error(values, top) for top in tops], color=GRAY)
    axes.plot(high, squared_error(values, high), "o", color=BLUE)
    axes.set(title="its error", xlabel="end of the range", ylabel="mean squared error")


def outside(axes: Axes, values: F32, high: float) -> None:
    """The share of the values outside of every range."""
    ordered = np.sort(np.abs(values))
    share = 1 - np.arange(ordered.size) / ordered.size
    some = np.unique(ordered.size - np.geomspace(1, ordered.size, 200).astype(int))
    axes.loglog(ordered[some], share[some], color=GRAY)
    axes.axhline(1e-4, color=ORANGE, linestyle="--")
    axes.axvline(high, color=BLUE)
    axes.set(title="0.01 % are outside", xlabel="end of the range", ylabel="share outside", xlim=(1, None))


def draw_isotone() -> None:
    """Scores of a classifier: how many rows keep their largest value in front, under every scale."""
    scores = np.random.default_rng(1).normal(0, 1, (4000, 20)).astype(np.float32)
    scores[np.arange(4000), np.random.default_rng(2).integers(0, 20, 4000)] += 2.5
    figure, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
    scales = np.geomspace(0.015, 0.06, 200)
    axes.plot(scales, [kept(scores, scale) for scale in scales], color=GRAY)
    for method, color in (("minmax", ORANGE), ("mse", "black"), ("isotone", BLUE)):
        scale = solved(method, scores)
        axes.plot(scale, kept(scores, scale), "o", color=color, label=f"{method}: {kept(scores, scale):.4f} kept")
    axes.set(xscale="log", ylim=(0.9, 1), xlabel="scale", ylabel="rows kept", title="the order of scores")
    axes.legend()
    save(figure, "isotone")


def kept(scores: F32, scale: float) -> float:
    """The share of rows in which the largest value stays strictly above the second."""
    second, largest = np.moveaxis(np.sort(on_grid(scores, scale), axis=1)[:, -2:], 1, 0)
    return float((largest > second).mean())


def squared_error(values: F32, high: float) -> float:
    scale = high / (TOP + 0.5)
    return float(((values - dequantize(on_grid(values, scale), config_of(scale))) ** 2).mean())


def on_grid(values: F32, scale: float) -> NDArray[np.int32]:
    return quantize(values, config_of(scale))


def config_of(scale: float) -> TensorQuantizationConfig:
    return SYMMETRIC.clone(scale=np.float32(scale), offset=np.float32(0))


def solved(method: str, values: F32) -> float:
    """The scale that the method finds."""
    config = SYMMETRIC.clone(observer_algorithm=method)
    observer = build_observer(config)
    observer.observe(values)
    observer.render_quantization_config()
    return float(config.scale)


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
