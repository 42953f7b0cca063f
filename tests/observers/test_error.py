"""squared_error: what a sketch says of a config's error, against the raw values."""

import numpy as np
import pytest

from calibrant.core import ObservationError, StateError, TensorQuantizationConfig, fake_quantize
from calibrant.core import QuantizationProperty as P
from calibrant.observers import squared_error
from calibrant.sketches import SketchSpec, TensorSketch

RNG = np.random.default_rng(17)
DATA = {
    "normal": RNG.normal(0, 1, 200_000),
    "relu6": np.clip(RNG.normal(1, 3, 200_000), 0, 6),
    "student": RNG.standard_t(3, 200_000),
    "lognormal": RNG.lognormal(0, 1, 200_000),
    "off centre": RNG.uniform(-1, 5, 200_000),
    "pixels": RNG.integers(0, 256, 100_000) / 255,
}
SPEC = SketchSpec()


def config(bits=8, symmetric=True, scale=0.02, offset=0, channels=False):
    unsigned = not symmetric
    return TensorQuantizationConfig(
        (P.PER_CHANNEL if channels else P.PER_TENSOR) | P.LINEAR | (P.SYMMETRICAL if symmetric else P.ASYMMETRICAL),
        num_of_bits=bits,
        quant_min=0 if unsigned else -(1 << (bits - 1)),
        quant_max=(1 << bits) - 1 if unsigned else (1 << (bits - 1)) - 1,
        scale=scale,
        offset=offset,
        channel_axis=1 if channels else None,
    )


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
@pytest.mark.parametrize(("bits", "symmetric"), [(8, True), (8, False), (4, True), (4, False)])
def test_it_is_the_error_on_the_raw_values(kind, share, bits, symmetric):
    x = DATA[kind].astype(np.float32)
    reach = share * np.abs(x).max()
    levels = (1 << bits) - 1
    wanted = config(bits, symmetric, 2 * reach / levels, 0 if symmetric else levels // 3)
    exact = x.astype(np.float64)
    error, power = squared_error(wanted, TensorSketch.of(x, SPEC))
    assert power == pytest.approx((exact**2).mean(), rel=1e-4)
    assert error == pytest.approx(((exact - fake_quantize(x, wanted)) ** 2).mean(), rel=0.01)


def test_sixteen_bits_on_smooth_values():
    x = DATA["normal"].astype(np.float32)
    wanted = config(16, True, 4.0 / 32767)
    error, _ = squared_error(wanted, TensorSketch.of(x, SPEC))
    assert error == pytest.approx(((x.astype(np.float64) - fake_quantize(x, wanted)) ** 2).mean(), rel=0.03)


def test_per_channel_is_the_mean_over_all_channels():
    x = (RNG.normal(0, 1, (64, 5, 200)) * np.array([0.1, 1, 3, 0.5, 2])[:, None]).astype(np.float32)
    wanted = config(scale=[0.001, 0.01, 0.03, 0.005, 0.02], offset=[0] * 5, channels=True)
    sketch = TensorSketch.of(x, SketchSpec(channel_axis=1, per_channel=True, channel_mantissa_bits=8))
    error, _ = squared_error(wanted, sketch)
    assert error == pytest.approx(((x.astype(np.float64) - fake_quantize(x, wanted)) ** 2).mean(), rel=0.01)


def test_what_has_no_error():
    assert squared_error(config(), TensorSketch.empty(SPEC)) == (0, 0)
    assert squared_error(config(), TensorSketch.of(np.zeros(9, np.float32), SPEC)) == (0, 0)
    grid = (np.arange(-100, 100) * 0.5).astype(np.float32)
    assert squared_error(config(scale=0.5), TensorSketch.of(grid, SPEC))[0] < 1e-5


def test_what_it_cannot_tell():
    with pytest.raises(StateError, match="no scale yet"):
        squared_error(config(scale=None, offset=None), TensorSketch.empty(SPEC))
    with pytest.raises(ObservationError, match="no histogram"):
        squared_error(config(), TensorSketch.empty(SketchSpec(histogram=False)))
