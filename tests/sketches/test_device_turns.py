"""Channels that take turns in memory, on a GPU: values that repeat for long, and words that overflow unforeseen."""

import numpy as np
import pytest

from calibrant.sketches import Collector, SketchSpec
from tests.sketches.devices import on_gpu, torch
from tests.sketches.test_device import HARD

if torch is not None:
    from calibrant.sketches.device import DeviceCollectors
    from calibrant.sketches.kernels import gpu_nvidia

VALUES = [0.1, -3, 0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1e30, 6e-8, 1, 65504, 6, -6, 1e-20]
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
LATE = 90_000  # rows that look harmless


def assert_same_on_both(x, bits):
    spec = SketchSpec(histogram=False, channel_axis=1, per_channel=True, channel_mantissa_bits=bits)
    made, collector = DeviceCollectors({"x": spec}, "cuda"), Collector(spec, threads=8)
    for _ in range(2):
        made.add({"x": x}, 0)
        collector.add(x.cpu())
    assert made.sketches()["x"] == collector.sketch()


@DTYPES
@pytest.mark.parametrize("shape", [(60_000, 32), (9001, 72), (20_001, 15), (150_000, 8)], ids=str)
@pytest.mark.parametrize("alike", ["channels differ", "channels are alike", "some rows are unlike the rest"])
@pytest.mark.parametrize("longest", [pytest.param(rows, marks=on_gpu) for rows in (20_000, 500)])
def test_each_value_repeats_for_some_rows(longest, alike, shape, dtype):
    rng, (rows, channels) = np.random.default_rng(0), shape
    values = rng.choice(np.float32(VALUES), size=(rows, 1 if alike == "channels are alike" else channels))
    x = np.broadcast_to(values, shape)[np.repeat(np.arange(rows), rng.integers(1, longest, size=rows))[:rows]]
    if alike == "some rows are unlike the rest":
        x = np.where(rng.random((rows, 1)) < 5e-4, rng.normal(size=shape).astype(np.float32), x)
    assert_same_on_both(torch.from_numpy(np.ascontiguousarray(x)).to(getattr(torch, dtype)).cuda(), bits=6)


def one_channel(x):
    x[LATE:, 3] = 1.37
    return x


def after_all_repeated(x):
    x[LATE : LATE + 40_000] = 0.73
    x[LATE + 60_000 : LATE + 61_000] = torch.arange(x.shape[1], device="cuda") * 0.1
    x[LATE + 70_000 :, -2] = -2.72
    return x


def beside_zeros_and_values_outside(x):
    x.clamp_(min=0)[LATE:, 5] = 0.11
    x[::97] *= 1e-9
    x[5::1013, 1], x[7::5003, 2] = torch.nan, torch.inf
    return x


def rows_in_order(x):
    return x.sort(0).values


@DTYPES
@pytest.mark.parametrize("bits", [3, 6])
@pytest.mark.parametrize("channels", [24, 32])
@pytest.mark.parametrize(
    "overflow",
    [
        pytest.param(overflow, marks=on_gpu)
        for overflow in (one_channel, after_all_repeated, beside_zeros_and_values_outside, rows_in_order)
    ],
)
def test_words_overflow_unforeseen(overflow, channels, bits, dtype, monkeypatch):
    monkeypatch.setattr(gpu_nvidia, "_parts", lambda *_: 1)  # one program has all rows
    torch.manual_seed(0)
    assert_same_on_both(overflow(torch.randn(330_007, channels, device="cuda")).to(getattr(torch, dtype)), bits)


@DTYPES
@pytest.mark.parametrize("shape", [(6001, 1024), (9000, 520), (5, 1040)], ids=str)
@pytest.mark.parametrize("hard", [pytest.param(kind, marks=on_gpu) for kind in ("far below 1", "zeros", "any bits")])
def test_two_programs_add_up_what_they_counted(hard, shape, dtype):
    torch.manual_seed(0)
    x = HARD[hard](torch.randn(int(np.prod(shape)), device="cuda")).reshape(shape)
    assert_same_on_both(x.to(getattr(torch, dtype)), bits=6)


@DTYPES
@pytest.mark.parametrize("patience", [pytest.param(looks, marks=on_gpu) for looks in (0, 1)])
def test_whoever_comes_late_adds_up_all(patience, dtype, monkeypatch):
    from calibrant.sketches.kernels import gpu_last_kernel

    monkeypatch.setattr(gpu_last_kernel, "PATIENCE", patience)
    monkeypatch.setattr(gpu_last_kernel, "kernel", gpu_last_kernel.kernel.__wrapped__)
    torch.manual_seed(0)
    for _ in range(2):
        assert_same_on_both(torch.randn(3001, 1024, device="cuda").to(getattr(torch, dtype)), bits=6)
