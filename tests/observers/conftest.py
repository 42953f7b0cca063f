"""Values to solve from, configs to solve, and brute force on the raw values."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calibrant.core import QuantizationProperty as P
from calibrant.core import TensorQuantizationConfig, dequantize, quantize
from calibrant.observers import build_observer
from calibrant.sketches import SketchSpec, TensorSketch

SIZE = 200_000
Values = NDArray[np.float32]


def _values(seed: int = 7, size: int = SIZE) -> dict[str, Values]:
    rng = np.random.default_rng(seed)
    half = size // 2

    def spiked(at: float) -> NDArray[np.float64]:
        x = rng.normal(0, 1.5, size)
        x[: size // 5] = at
        return x

    found = {
        "normal": rng.normal(size=size),
        "relu": np.maximum(rng.normal(size=size), 0),
        "student": rng.standard_t(3, size),
        "lognormal": rng.lognormal(size=size),
        "uniform": rng.uniform(-1, 1, size),
        "bimodal": np.concatenate([rng.normal(-3, 0.5, half), rng.normal(2, 1, half)]),
        "positive": rng.normal(10, 1, size),
        "negative": -rng.gamma(3, size=size) - 1,
        "spiked_0.7": spiked(0.7),
        "spiked_3": spiked(3.0),
        "spiked_1.2345": spiked(1.2345),
        "relu6": np.clip(rng.normal(2, 3, size), 0, 6),
    }
    return {name: rng.permutation(x).astype(np.float32) for name, x in found.items()}


NAMES = tuple(_values(size=8))
SPIKED = tuple(name for name in NAMES if name.startswith("spiked"))


@pytest.fixture(scope="session")
def data() -> dict[str, Values]:
    """200,000 values of each kind, float32, in random order."""
    return _values()


@pytest.fixture(scope="session")
def make_data() -> Callable[..., dict[str, Values]]:
    return _values


@pytest.fixture(scope="session")
def sketches(data: dict[str, Values]) -> dict[str, TensorSketch]:
    """The sketch of each of `data`."""
    return {name: TensorSketch.of(x, SketchSpec()) for name, x in data.items()}


@pytest.fixture(scope="session")
def config() -> Callable[..., TensorQuantizationConfig]:
    """config(method, symmetric=True, bits=8, axis=None, signed=True, **detail): a linear config, its grid full."""
    return make_config


def make_config(
    method: str,
    symmetric: bool = True,
    bits: int = 8,
    axis: int | None = None,
    signed: bool = True,
    power_of_2: bool = False,
    **detail: Any,
) -> TensorQuantizationConfig:
    policy = P.LINEAR | (P.SYMMETRICAL if symmetric else P.ASYMMETRICAL) | (P.POWER_OF_2 if power_of_2 else P(0))
    return TensorQuantizationConfig(
        policy | (P.PER_TENSOR if axis is None else P.PER_CHANNEL),
        num_of_bits=bits,
        quant_min=-(1 << (bits - 1)) if signed else 0,
        quant_max=(1 << (bits - 1)) - 1 if signed else (1 << bits) - 1,
        channel_axis=axis,
        observer_algorithm=method,
        detail=detail,
    )


@pytest.fixture(scope="session")
def solve() -> Callable[..., TensorQuantizationConfig]:
    """solve(config, values or sketch): the config, solved."""

    def solved(config: TensorQuantizationConfig, seen: Any) -> TensorQuantizationConfig:
        observer = build_observer(config, "value")
        if isinstance(seen, TensorSketch):
            observer.render_from(seen)
        else:
            observer.observe(seen)
            observer.render_quantization_config()
        return config

    return solved


@pytest.fixture(scope="session")
def error() -> Callable[..., float]:
    """error(values, config): the mean squared error of the values themselves, as a runtime rounds them."""

    def mean_squared_error(x: Values, config: TensorQuantizationConfig) -> float:
        quantized = dequantize(quantize(x, config), config)
        return float(np.mean((x.astype(np.float64) - quantized) ** 2))

    return mean_squared_error


class Brute:
    """Mean squared errors of raw values at any scale and offset, exact: from sorted values and their running sums."""

    def __init__(self, x: Values) -> None:
        self.x = np.sort(x.astype(np.float64))
        self.sums = [np.concatenate([[0.0], np.cumsum(self.x**power)]) for power in range(3)]
        self.lo, self.hi = min(self.x[0], 0.0), max(self.x[-1], 0.0)

    def by_offset(
        self, s: float, span: int, least_below: int = 0, most_below: int | None = None
    ) -> NDArray[np.float64]:
        """The errors with least_below, ..., most_below (None: span) of the grid's `span` steps below zero."""
        most_below = span if most_below is None else most_below
        levels = np.arange(-most_below, span - least_below + 1)
        cuts = np.searchsorted(self.x, (levels[:-1] + 0.5) * s)
        ends = np.concatenate([[0], cuts, [len(self.x)]])
        n, m, q = (np.diff(total[ends]) for total in self.sums)
        inside = np.concatenate([[0.0], np.cumsum(q - 2 * s * levels * m + (s * levels) ** 2 * n)])
        below = np.arange(least_below, most_below + 1)
        low, high = -below, span - below
        first, last = low + most_below, high + most_below  # places in `levels`
        error = inside[last] - inside[first + 1] if span > 1 else np.zeros(len(below))
        for level, begin, end in (
            (low, np.zeros_like(first), ends[first + 1]),
            (high, ends[last], np.full_like(last, len(self.x))),
        ):
            n, m, q = (total[end] - total[begin] for total in self.sums)
            error = error + q - 2 * s * level * m + (s * level) ** 2 * n
        return np.asarray(error / len(self.x))

    def least(self, bits: int, symmetric: bool) -> float:
        """The least error of signed full grids. Scales: log-spaced from all rounds to zero down to a 32nd of what
        covers all, 2000 of them (1000 where asymmetric, each with every offset), then 150 around each of the best four.
        """
        span, half = (1 << bits) - 1, 1 << (bits - 1)
        below = (half, half) if symmetric else (0, span)
        top = max(-self.lo, self.hi)
        cover = top / (half - 1) if symmetric else (self.hi - self.lo) / span
        scales = np.geomspace(2 * top, cover / 32, 2000 if symmetric else 1000)
        errors = np.array([self.by_offset(s, span, *below).min() for s in scales])
        ratio = scales[1] / scales[0]
        best = errors.min()
        for i in np.argsort(errors)[:4]:
            for s in np.geomspace(scales[i] * ratio, scales[i] / ratio, 150):
                best = min(best, self.by_offset(s, span, *below).min())
        return float(best)


@pytest.fixture(scope="session")
def brute_of() -> Callable[[Values], Brute]:
    return Brute


@pytest.fixture(scope="session")
def brute(data: dict[str, Values]) -> Callable[[str], Brute]:
    """brute(name): brute force on one of `data`."""
    made: dict[str, Brute] = {}

    def of(name: str) -> Brute:
        if name not in made:
            made[name] = Brute(data[name])
        return made[name]

    return of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take `name` run on each kind of values; `spiked` says whether it has an atom inside."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", NAMES)


@pytest.fixture
def spiked(name: str) -> bool:
    return name in SPIKED
