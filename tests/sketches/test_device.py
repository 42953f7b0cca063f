"""DeviceCollectors: the bytes of Collector, whatever the type, strides and batches; what they refuse; CUDA graphs."""

import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest

from calibrant.core import DataError, StateError
from calibrant.sketches import Collector, SketchSpec, TensorSketch, margins
from tests.sketches.devices import DEVICES, interpreted, on_gpu, torch

if torch is not None:
    from calibrant.sketches import device_margins
    from calibrant.sketches.device import DeviceCollectors
    from calibrant.sketches.kernels import gpu, gpu_read
    from calibrant.sketches.kernels.gpu_planes import Planes
    from calibrant.sketches.kernels.gpu_words import COUNT_BITS, ENDS, FIELDS, SETTLED_EACH, UNIT_BITS

SPECS = {
    "plain": SketchSpec(),
    "few bits": SketchSpec(mantissa_bits=3),
    "extremes": SketchSpec(histogram=False),
    "extremes of channels": SketchSpec(histogram=False, channel_axis=-1),
    "of channels": SketchSpec(channel_axis=1),
    "everything": SketchSpec(channel_axis=1, per_channel=True, isotone_axis=-1),
    "rows along the channels": SketchSpec(channel_axis=1, per_channel=True, isotone_axis=1),
    "columns": SketchSpec(histogram=False, isotone_axis=0),
}
EVERYTHING = SPECS["everything"]


def gpu_test(test):
    """A test that makes no sense elsewhere."""
    for mark in on_gpu:
        test = mark(test)
    return test


@pytest.fixture(autouse=True)
def _little_room(monkeypatch):
    """For cells: to look at a million slots takes long on a CPU."""
    monkeypatch.setattr(margins, "LIMIT", 500)


def activations(shape=(6, 5, 4, 11), seed=5):
    """Clipped values with zeros of both signs, and a few that are not finite."""
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(size=shape) * 3, -1, 6).astype(np.float32)
    x[rng.random(shape) < 0.2] = -0.0
    x[rng.random(shape) < 0.01] = np.nan
    x.reshape(shape[0], -1)[3, :2] = np.inf, -np.inf
    return x


def on_host(batches, spec):
    collector = Collector(spec)
    for batch in batches:
        collector.add(batch)
    return collector.sketch()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_bytes_of_collector(device, spec):
    x = activations()
    made = DeviceCollectors({"x": spec, "y": spec, "never seen": spec}, device)
    batches = [torch.from_numpy(part).to(device) for part in (x[:1], x[1:1], x[1:4], x[4:])]
    made.add({"x": batches[0], "y": batches[3], "nobody asked": None}, 0)
    made.add({"x": batches[1], "y": batches[2]}, 1)
    made.add({"x": batches[2]}, torch.ones((), dtype=torch.int64, device=device))
    made.add({"x": batches[3]}, 0)
    halves = made.sketches()
    assert halves.even["x"] == on_host([x[:1], x[4:]], spec)
    assert halves.odd["x"] == on_host([x[1:4]], spec)
    assert halves.even["y"] == on_host([x[4:]], spec)
    assert halves["y"] == on_host([x[1:4], x[4:]], spec)
    assert halves["never seen"] == TensorSketch.empty(spec)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "bfloat16", "float64", "int8", "uint8", "int32", "int64", "bool"]
)
def test_types(device, dtype):
    x = torch.from_numpy(np.nan_to_num(activations(), posinf=100, neginf=-100) if "int" in dtype else activations())
    x = (x.double() * 1.1 if dtype == "float64" else x).to(getattr(torch, dtype))
    made = DeviceCollectors({"x": EVERYTHING}, device)
    made.add({"x": x.to(device)}, 0)
    assert made.sketches()["x"] == on_host([x], EVERYTHING)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("device", "bits"),
    [
        *(pytest.param("cpu", n, marks=interpreted) for n in (1, 6, 8, 12)),
        *(pytest.param("cuda", n, marks=on_gpu) for n in (1, 4, 5, 6, 7, 8, 12)),
    ],
)
def test_all_values_of_16_bits(device, bits, dtype):
    raw = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    x, spec = raw.view(getattr(torch, dtype)), SketchSpec(mantissa_bits=bits)
    made = DeviceCollectors({"x": spec}, device)
    made.add({"x": x.to(device)}, 0)
    assert made.sketches()["x"] == on_host([x], spec)


STRIDED = {
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    "every second": lambda x: torch.stack([x, x + 1], dim=-1).reshape(*x.shape[:-1], -1)[..., ::2],
    "expanded": lambda x: x[:, :, :1, :1].expand(x.shape),
    "unaligned": lambda x: torch.cat([x.reshape(-1)[:1], x.reshape(-1)])[1:].reshape(x.shape),
    "needs grad": lambda x: x.clone().requires_grad_(),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("strided", STRIDED)
def test_strides(device, strided):
    x = STRIDED[strided](torch.from_numpy(activations()).to(device))
    made = DeviceCollectors({"x": EVERYTHING}, device)
    made.add({"x": x}, 0)
    assert made.sketches()["x"] == on_host([x.detach().cpu()], EVERYTHING)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("limit", [1, 3, 50, 200])
@pytest.mark.parametrize("channel_axis", [None, 1])
def test_margins_become_coarser_as_on_the_host(device, limit, channel_axis, monkeypatch):
    monkeypatch.setattr(margins, "LIMIT", limit)
    spec = SketchSpec(channel_axis=channel_axis, per_channel=channel_axis is not None, isotone_axis=-1)
    batches = [activations((6, 5, 7, 3), seed) * np.float32(10.0**seed) for seed in range(4)]
    made = DeviceCollectors({"x": spec}, device)
    for number, batch in enumerate(batches):
        made.add({"x": torch.from_numpy(batch).to(device)}, number % 2)
    halves = made.sketches()
    assert halves.even["x"] == on_host(batches[::2], spec)
    assert halves.odd["x"] == on_host(batches[1::2], spec)
    assert halves["x"] == on_host(batches, spec)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_of_one_value_and_rows_with_ties(device):
    spec, made = SketchSpec(isotone_axis=1), DeviceCollectors({"x": SketchSpec(isotone_axis=1)}, device)
    batches = [np.float32([[1], [np.nan], [2]]), np.float32([[1, 1], [2, 1], [-0.0, 0.0]])]
    for batch in batches:
        made.add({"x": torch.from_numpy(batch).to(device)}, 0)
    found = made.sketches()["x"]
    assert (found.margins.single.tolist(), found.margins.tied.tolist()) == ([2], [2])
    assert found == on_host(batches, spec)


@pytest.mark.parametrize("device", DEVICES)
def test_sketches_may_be_taken_in_between_and_all_forgotten(device):
    x, made = activations(), DeviceCollectors({"x": EVERYTHING}, device)
    tensor = torch.from_numpy(x).to(device)
    made.add({"x": tensor[:2]}, 0)
    early = made.sketches()
    made.add({"x": tensor[2:]}, 0)
    assert early["x"] == on_host([x[:2]], EVERYTHING)
    assert made.sketches()["x"] == on_host([x], EVERYTHING)
    made.clear()
    assert made.sketches()["x"] == TensorSketch.empty(EVERYTHING)
    made.add({"x": tensor}, 1)
    assert made.sketches()["x"] == on_host([x], EVERYTHING)


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_refused_leaves_no_trace(device):
    x, made = torch.from_numpy(activations()).to(device), DeviceCollectors({"x": EVERYTHING}, device)
    made.add({"x": x}, 0)
    with pytest.raises(DataError, match="value 'x': expected 5 channels on axis 1, got 4"):
        made.add({"x": x[:, :4]}, 0)
    with pytest.raises(DataError, match=r"value 'x': channel_axis 1 does not fit a tensor of shape \[3\]"):
        made.add({"x": x[0, 0, 0, :3]}, 0)
    with pytest.raises(DataError, match=r"value 'x': cannot observe values of type torch.complex64"):
        made.add({"x": x.to(torch.complex64)}, 0)
    with pytest.raises(DataError, match=f"value 'x': expected a tensor on {device}, got meta"):
        made.add({"x": x.to("meta")}, 0)
    with pytest.raises(DataError, match=f"value 'x': expected a tensor on {device}, got ndarray"):
        made.add({"x": activations()}, 0)
    assert made.sketches()["x"] == on_host([activations()], EVERYTHING)


@pytest.mark.parametrize("device", DEVICES)
def test_counts_beyond_32_bits(device):
    """Four thousand million values take too long here, so a state is told that it has them."""
    made, ones = DeviceCollectors({"x": SketchSpec()}, device), torch.full((3000,), 1.0039, device=device)
    made.add({"x": ones}, 0)
    state = made._values["x"].states["of all"]
    heads = state.memory[0, 0, : FIELDS * state.rows].unflatten(0, (state.rows, FIELDS))
    heads[:, ENDS:] *= 2**33
    first, second = state.memory[0, 0, FIELDS * state.rows :].unflatten(0, (2, -1))
    counts, sums = first & (2**COUNT_BITS - 1), first >> COUNT_BITS
    second += 2 ** (33 - UNIT_BITS) * counts + 2 ** (32 + 33 - UNIT_BITS - 8) * sums
    first.zero_()
    made.add({"x": ones}, 0)
    found, one = made.sketches()["x"], on_host([ones.cpu()], SketchSpec())
    assert found.histogram.counts.tolist() == [(2**33 + 1) * 3000]
    assert found.histogram.positions.tolist() == [(2**33 + 1) * int(one.histogram.positions[0])]
    assert (found.extremes.n_lo.tolist(), found.extremes.size) == ([(2**33 + 1) * 3000], (2**33 + 1) * 3000)


@pytest.mark.parametrize(
    ("shape", "axis"), [((1024, 3), 1), ((1, 3, 1024), 1), ((1024,), None)], ids=["last", "first", "one stretch"]
)
@pytest.mark.parametrize(
    ("device", "bits"),
    [pytest.param("cpu", 1, marks=interpreted), *(pytest.param("cuda", n, marks=on_gpu) for n in (3, 9))],
)
def test_counts_and_sums_outgrow_the_words_they_share(device, shape, axis, bits):
    """A state is told what many additions have left in it, each time as much as its words have room for."""
    spec = SketchSpec(
        histogram=axis is None, mantissa_bits=bits, channel_axis=axis, per_channel=axis == 1, channel_mantissa_bits=bits
    )
    value = 1 + 255 / 2 ** (bits + 8)  # at the end of its bin: the sum grows fastest
    made, x = DeviceCollectors({"x": spec}, device), torch.full(shape, value, device=device)
    made.add({"x": x}, 0)
    (state,) = made._values["x"].states.values()
    table, cells = state.memory[0, :, FIELDS * state.rows :], 1 << (9 + bits)
    heads = state.memory[0, :, : FIELDS * state.rows].unflatten(1, (state.rows, FIELDS))
    once, hits = table[:, :cells].clone(), heads[..., ENDS:].clone()
    times = 1
    for passed in (5, 9, 13):  # so many times SETTLED_EACH, which an addition passes that is done
        more = passed * SETTLED_EACH // 1024 - 1 - times
        table[:, :cells] += more * once
        heads[..., ENDS:] += more * hits
        made.add({"x": x}, 0)
        times += more + 1
    found, one = made.sketches()["x"], on_host([x.cpu()], spec)
    assert table[:, cells:].any()
    histogram, of_one = (s.histogram or s.channel_histogram for s in (found, one))
    assert histogram.counts.tolist() == [times * 1024] * len(table)
    assert histogram.positions.tolist() == [times * n for n in of_one.positions.tolist()]
    assert (found.extremes.n_lo.tolist(), found.extremes.size) == ([times * 1024] * len(table), times * x.numel())


@gpu_test
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("where", ["in a window", "outside"])
def test_a_long_tensor_has_one_value_almost_everywhere(where, dtype):
    """So often that the word of its cell has to be emptied while others add to it."""
    made = DeviceCollectors({"x": SketchSpec()}, "cuda")
    x = torch.full((5 * 2**26,), 1.0039, dtype=getattr(torch, dtype), device="cuda")
    if where == "outside":  # of a window that follows from what a few places tell
        x[:] = 6e-8 if dtype == "float16" else 1e-30
        x.view(-1, 2**14)[:, :64] = 1.0039
    small = x[: 2**20].cpu()
    for _ in range(3):
        made.add({"x": x}, 0)
    found, one = made.sketches()["x"], on_host([small], SketchSpec())
    times = 3 * x.numel() // len(small)
    assert found.histogram.keys.tolist() == one.histogram.keys.tolist()
    assert found.histogram.counts.tolist() == [times * n for n in one.histogram.counts.tolist()]
    assert found.histogram.positions.tolist() == [times * n for n in one.histogram.positions.tolist()]


@interpreted
def test_no_program_counts_more_of_a_place_than_float32_holds():
    planes, nowhere = Planes(2, 2**29 - 1, 2, 4, 2, 1), SimpleNamespace(data_ptr=lambda: 0)
    described = gpu._described_parts([(nowhere, planes, SimpleNamespace(memory=nowhere))] * 20, rows=512, columns=2)
    assert len(described) > 20
    assert (planes.outer / described[:, -1]).max() < 2**24


@pytest.mark.parametrize("words", [1, 150_000])
@pytest.mark.parametrize("device", DEVICES)
def test_what_is_read_at_once_changes_nothing(device, words, monkeypatch):
    monkeypatch.setattr(gpu_read, "LOOKED_AT", words)
    made, x = DeviceCollectors({f"{n}": SPECS[spec] for n, spec in enumerate([*SPECS] * 2)}, device), activations()
    made.add({f"{n}": torch.from_numpy(x).to(device) for n in range(len(SPECS))}, 1)
    found = made.sketches()
    for n, spec in enumerate(SPECS.values()):
        assert found.odd[f"{n}"] == on_host([x], spec)
        assert found.even[f"{n}"] == found.odd[f"{n + len(SPECS)}"] == TensorSketch.empty(spec)


@gpu_test
@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("value", [0.0, 1.5, float("nan"), float("-inf")])
def test_extremes_of_a_long_tensor(value, axis):
    """Alone, in several launches, together more than float32, in which places of a tile are counted, has room for."""
    x = torch.full((2**24 + 5, 16), value, device="cuda")
    x[0] = -2.0
    made = DeviceCollectors({"x": SketchSpec(histogram=False, channel_axis=axis)}, "cuda")
    made.add({"x": x}, 0)
    seen, rest = made.sketches()["x"].extremes, x.numel() - 16
    finite = math.isfinite(value)
    assert (seen.size, seen.zeros, seen.nan, seen.neg_inf) == (
        x.numel(),
        rest if value == 0 else 0,
        rest if math.isnan(value) else 0,
        rest if value == -math.inf else 0,
    )
    each = len(seen.lo)
    assert set(seen.lo) == {-2.0}
    assert set(seen.hi) == {value if finite else -2.0}
    assert set(seen.n_hi) == {(rest if finite else 16) // each}


@pytest.mark.parametrize("spec", ["plain", "extremes of channels", "everything", "of channels"])
@pytest.mark.parametrize("device", DEVICES)
def test_long_tensors_take_several_launches(device, spec, monkeypatch):
    monkeypatch.setattr(gpu.nvidia, "MOST", 64)
    monkeypatch.setattr(gpu.gpu_words, "MOST_OF_EACH", 32)
    spec, launches = SPECS[spec], []
    for module, name in ((gpu.nvidia, "count_last"), (gpu.nvidia, "count_fast"), (gpu, "_count_portable")):
        one = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, one=one, **named: (launches.append(1), one(*given, **named)))
    for shape in ((4, 5, 4, 11), (97, 5), (4, 5, 100)):
        launches.clear()
        x, made = activations(shape)[: 1 if shape[-1] == 100 else None], DeviceCollectors({"x": spec}, device)
        made.add({"x": torch.from_numpy(x).to(device)}, 0)
        assert made.sketches()["x"] == on_host([x], spec)
        assert len(launches) > 2 or not (spec.histogram or spec.per_channel)


@gpu_test
@pytest.mark.parametrize("last", [False, True], ids=["one stretch", "channels take turns"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_fast_kernels_work_here(dtype, last):
    """Else every other test would pass with the portable ones in their place."""
    assert not gpu._differs(torch.device("cuda:0"), getattr(torch, dtype), last)


@interpreted
def test_a_fast_kernel_that_does_not_work_is_reported(monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(gpu, "_differs", broken)
    with caplog.at_level(logging.WARNING):
        assert not gpu._fast_works.__wrapped__("cuda:0", torch.float32)
    assert "cuda:0: the portable kernels count torch.float32" in caplog.text
    assert "RuntimeError: no such instruction" in caplog.text


@interpreted
def test_memory_cannot_be_taken_in_a_capture(monkeypatch):
    monkeypatch.setattr(device_margins, "is_capturing", lambda _: True)
    made = DeviceCollectors({"x": EVERYTHING}, "cpu")
    with pytest.raises(StateError, match="value 'x': its memory cannot be taken while a CUDA graph is captured"):
        made.add({"x": torch.ones(2, 3, 4)}, 0)


@gpu_test
def test_a_captured_step():
    batches = [torch.from_numpy(activations(seed=seed)).cuda() for seed in range(7)]
    made = DeviceCollectors({"x": EVERYTHING, "y": SketchSpec(), "z": SketchSpec()}, "cuda")
    half, x = torch.zeros(1, dtype=torch.int32, device="cuda"), batches[0].clone()

    def step():
        made.add({"x": x, "y": x.relu(), "z": x * 2}, half)

    step()
    made.clear()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for number, batch in enumerate(batches):
        x.copy_(batch)
        half.fill_(number % 2)
        graph.replay()
    halves, kept = made.sketches(), [batch.cpu() for batch in batches]
    assert halves.even["x"] == on_host(kept[::2], EVERYTHING)
    assert halves.odd["x"] == on_host(kept[1::2], EVERYTHING)
    assert halves["y"] == on_host([batch.relu() for batch in kept], SketchSpec())
    assert halves["z"] == on_host([batch * 2 for batch in kept], SketchSpec())
    for _ in range(7):
        graph.replay()
    made.clear()
    half.fill_(0)
    graph.replay()
    assert made.sketches()["x"] == on_host(kept[-1:], EVERYTHING)


@gpu_test
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_collector_counts_tensors_where_they_are(spec, monkeypatch):
    x = torch.from_numpy(activations())
    expected = on_host([x[:2], x[2:]], spec)
    collector = Collector(spec)
    collector.add(x[:2])
    monkeypatch.setattr("calibrant.sketches.collector.as_floats", None)  # nothing is copied
    collector.add(x[2:].cuda())
    assert collector.sketch() == expected
    with pytest.raises(DataError, match="cannot observe values of type torch"):
        collector.add(x.cuda().to(torch.complex64))
    if spec.channel_axis == 1:
        with pytest.raises(DataError, match="expected 5 channels on axis 1, got 4"):
            collector.add(x[:, :4].cuda())


@gpu_test
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_adding_waits_for_nothing():
    x, made = torch.from_numpy(activations()).cuda(), DeviceCollectors({"x": EVERYTHING, "y": SketchSpec()}, "cuda")
    made.add({"x": x, "y": x}, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            made.add({"x": x, "y": x.half()}, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert made.sketches().odd["x"] == on_host([x.cpu()] * 5, EVERYTHING)


HARD = {
    "first values unlike the rest": lambda x: torch.cat([x[: len(x) // 3] * 1e-20, x[len(x) // 3 :]]),
    "one value from somewhere on": lambda x: torch.cat([x[: len(x) // 3], torch.full_like(x[len(x) // 3 :], 0.1)]),
    "a hot cell from somewhere on": lambda x: torch.where(torch.arange(len(x), device=x.device) % 3 > 0, x, 0.3),
    "narrow": lambda x: x * 1e-3 + 5,
    "far below 1": lambda x: x * 1e-12,
    "far above 1": lambda x: x * 1e30,
    "zeros": lambda x: x.clamp(min=0),
    "atoms": lambda x: (x * 4).clamp(0, 6),
    "not finite": lambda x: torch.where(x > 1, torch.nan, torch.where(x < -1, torch.inf, -x)),
    "any bits": lambda x: torch.randint(-(2**31), 2**31, x.shape, device=x.device).to(torch.int32).view(torch.float32),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("size", [1, 3, 1000, 16384, 100_003, 2**22, 3 * 2**23 + 5])
@pytest.mark.parametrize("hard", [pytest.param(kind, marks=on_gpu) for kind in HARD])
def test_hard_tensors(hard, size, dtype):
    torch.manual_seed(0)
    x = HARD[hard](torch.randn(size, device="cuda")).to(getattr(torch, dtype))
    made = DeviceCollectors({"x": SketchSpec()}, "cuda")
    made.add({"x": x}, 0)
    assert made.sketches()["x"] == on_host([x.cpu()], SketchSpec())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "shape", [(2, 3, 64), (4, 5, 7, 7), (32, 7, 14, 14), (3, 64, 56, 56), (300, 4, 2), (2, 2, 1000, 100), (5000, 70)]
)
@pytest.mark.parametrize("hard", [pytest.param(kind, marks=on_gpu) for kind in HARD])
def test_hard_channels(hard, shape, dtype):
    torch.manual_seed(0)
    x = HARD[hard](torch.randn(int(np.prod(shape)), device="cuda")).reshape(shape).to(getattr(torch, dtype))
    spec = SketchSpec(channel_axis=1, per_channel=True)
    made = DeviceCollectors({"x": spec}, "cuda")
    made.add({"x": x}, 0)
    assert made.sketches()["x"] == on_host([x.cpu()], spec)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bits", [1, 2, 6, 8])
@pytest.mark.parametrize("shape", [(1, 3), (7, 1030), (100_003, 16), (5000, 72)])
@pytest.mark.parametrize("hard", [pytest.param(kind, marks=on_gpu) for kind in HARD])
def test_hard_channels_that_take_turns(hard, shape, bits, dtype):
    torch.manual_seed(0)
    x = HARD[hard](torch.randn(int(np.prod(shape)), device="cuda")).reshape(shape).to(getattr(torch, dtype))
    spec = SketchSpec(histogram=False, channel_axis=1, per_channel=True, channel_mantissa_bits=bits)
    made = DeviceCollectors({"x": spec}, "cuda")
    made.add({"x": x}, 0)
    made.add({"x": x.flip(0)}, 0)
    made.add({"x": not_aligned(x)}, 0)
    assert made.sketches()["x"] == on_host([x.cpu(), x.flip(0).cpu(), x.cpu()], spec)


def not_aligned(x):
    """The same values, from an address on that no 16 bytes begin at."""
    return torch.cat([x.reshape(-1)[:1], x.reshape(-1)])[1:].reshape(x.shape)


@gpu_test
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_channels_that_take_turns_in_a_captured_step(dtype):
    torch.manual_seed(0)
    batches = [torch.randn(20_000, 40, device="cuda").to(getattr(torch, dtype)) for _ in range(4)]
    spec = SketchSpec(histogram=False, channel_axis=1, per_channel=True)
    made, x = DeviceCollectors({"x": spec, "y": spec}, "cuda"), batches[0].clone()

    def step():
        made.add({"x": x, "y": x[:3000] * 2}, 0)

    step()
    made.clear()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for batch in batches:
        x.copy_(batch)
        graph.replay()
    assert made.sketches()["x"] == on_host([batch.cpu() for batch in batches], spec)
    assert made.sketches()["y"] == on_host([(batch[:3000] * 2).cpu() for batch in batches], spec)


@pytest.mark.long
@pytest.mark.parametrize("axis", [pytest.param(None, marks=on_gpu), pytest.param(0, marks=on_gpu)])
def test_more_than_two_thousand_million_elements(axis):
    size, spec = 2**31 + 12_345, SketchSpec(channel_axis=axis)
    x = torch.ones((1, size), dtype=torch.float16, device="cuda")
    x[0, -1], x[0, -2], x[0, : 2**31 : 2] = -3, 7, 0
    made = DeviceCollectors({"x": spec}, "cuda")
    made.add({"x": x}, 0)
    found = made.sketches()["x"]
    assert found.histogram.counts.tolist() == [1, 2**30, size - 2**30 - 2, 1]
    assert (found.extremes.lo.tolist(), found.extremes.hi.tolist(), found.extremes.size) == ([-3], [7], size)


@pytest.mark.long
@pytest.mark.parametrize("channels", [pytest.param(n, marks=on_gpu) for n in (1, 96)])
def test_one_value_so_often_that_its_positions_add_up_to_more_than_32_bits(channels):
    size, spec = 3 * 2**30, SketchSpec(channel_axis=1, per_channel=channels > 1)
    x, made = torch.full((1, channels, size // channels), 1.0039, device="cuda"), DeviceCollectors({"x": spec}, "cuda")
    made.add({"x": x}, 0)
    found = made.sketches()["x"]
    one = on_host([x[:, :1, :1].cpu().numpy()], SketchSpec(channel_axis=1, per_channel=True))
    assert found.histogram.counts.tolist() == [size]
    assert found.histogram.positions.tolist() == [size * int(one.histogram.positions[0])]
    if channels > 1:
        positions = int(one.channel_histogram.positions[0]) * size // channels
        assert found.channel_histogram.counts.tolist() == [size // channels] * channels
        assert found.channel_histogram.positions.tolist() == [positions] * channels
