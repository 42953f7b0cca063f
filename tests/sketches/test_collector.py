"""Collector: the same bytes whatever the batches, threads, layouts and types; and what it refuses."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from calibrant.core import DataError, SettingError
from calibrant.sketches import Collector, Histogram, LogBins, SketchSpec, TensorSketch, collector, tally
from calibrant.sketches.arrays import as_floats
from calibrant.sketches.kernels import cpu, reference
from calibrant.sketches.layout import Layout

FULL = SketchSpec(channel_axis=1, per_channel=True, isotone_axis=-1)
PLAIN = SketchSpec()


def activations(shape=(24, 6, 9, 11), seed=5):
    """Clipped values with zeros of both signs, and a few that are not finite."""
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(size=shape) * 3, -1, 6).astype(np.float32)
    x[rng.random(shape) < 0.2] = -0.0
    x[rng.random(shape) < 0.001] = np.nan
    x.reshape(shape[0], -1)[3, :2] = np.inf, -np.inf
    return x


def collect(batches, spec=FULL, threads=1):
    made = Collector(spec, threads)
    for batch in batches:
        made.add(batch)
    return made.sketch()


def uneven(x):
    return [x[:1], x[1:1], x[1:14], x[14:17], x[17:]]


BATCHINGS = {
    "whole": lambda x: [x],
    "one by one": lambda x: [x[i : i + 1] for i in range(len(x))],
    "reversed": lambda x: [x[i : i + 1] for i in reversed(range(len(x)))],
    "shuffled": lambda x: [x[np.random.default_rng(1).permutation(len(x))]],
    "halves": lambda x: [x[:12], x[12:]],
    "uneven, one of them empty": uneven,
    "every third": lambda x: [x[i::3] for i in range(3)],
    "mirrored": lambda x: [x[:, :, ::-1, ::-1]],
    "by channel-last memory": lambda x: [np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1)],
    "transposed plane": lambda x: [np.ascontiguousarray(x[::2]), x[1::2]],
}


@pytest.mark.parametrize("threads", range(1, 9))
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("spec", [PLAIN, FULL], ids=["plain", "full"])
def test_any_batching_and_any_threads_give_the_same_bytes(batching, threads, spec, monkeypatch):
    monkeypatch.setattr(collector, "LEAST_PART", 100)
    x = activations()
    expected = TensorSketch.of(x, spec).to_bytes()
    assert collect(BATCHINGS[batching](x), spec, threads).to_bytes() == expected


@pytest.mark.parametrize("limit", [1, 7, 64, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_tables_are_emptied_in_time(limit, dtype, monkeypatch):
    x = activations().astype(dtype)[:, :, :, :2].reshape(-1)[: 40 * limit].reshape(-1, 2)
    expected = TensorSketch.of(x, FULL)
    monkeypatch.setattr(tally, "FLUSH_LIMIT", limit)
    assert collect([x[:5], x[5:]]) == expected


def test_packed_counters_do_not_overflow(monkeypatch):
    last_of_its_bin = np.full(2**20, 0x3F807FFF, np.int32).view(np.float32)
    batches = [last_of_its_bin] * 17
    found = collect(batches, PLAIN).histogram
    assert (found.counts.tolist(), found.positions.tolist()) == ([17 * 2**20], [17 * 2**20 * 255])
    zeros = collect([np.zeros(2**20, np.float32)] * 40, PLAIN).histogram  # which never bring a table near its limit
    assert (zeros.counts.tolist(), zeros.positions.tolist()) == ([40 * 2**20], [0])
    monkeypatch.setattr(tally, "FLUSH_LIMIT", 2**30)  # the trap is real: positions would spill into the counts
    assert collect(batches, PLAIN).histogram.counts.tolist() != [17 * 2**20]


def test_counts_do_not_overflow():
    """Four thousand million zeros take too long here, so a table is told that it has them."""
    zeros, layout = np.zeros(2**23, np.float32), Layout.of((2**23,), None)
    counted = tally.Tally(1, 8, None)
    counted.add(zeros, 0, layout)
    counted._histogram._packed[:] = 0
    counted._histogram._packed[0, 0, 0] = 2**32 - 2**24 << 32
    for _ in range(4):
        counted.add(zeros, 0, layout)
    _, (counts, positions) = counted.histogram()
    assert (counts.tolist(), positions.tolist()) == ([2**32 + 2**24], [0])


@pytest.mark.parametrize("layout", [Layout(1, 50, 1, 1), Layout(3, 5, 1, 3), Layout(1, 9, 4, 4), Layout(2, 3, 4, 7)])
def test_most_of_one_channel_is_never_exceeded(layout):
    size = 3 * layout.blocks * layout.inner * layout.lanes
    place = np.arange(size)
    channel = place // (layout.inner * layout.lanes) % layout.blocks * layout.lanes + place % layout.lanes
    for base in range(size):
        for stop in range(base + 1, size + 1):
            most = np.bincount(channel[base:stop]).max()
            assert most <= layout.most_of_one_channel(base, stop - base)


def blocked(x, lanes, padding):
    """x [N, C, ...] as [N, ceil(C / lanes), ..., lanes]."""
    missing = -x.shape[1] % lanes
    full = np.concatenate([x, np.full((x.shape[0], missing, *x.shape[2:]), padding, np.float32)], axis=1)
    split = full.reshape(x.shape[0], -1, lanes, *x.shape[2:])
    return np.ascontiguousarray(np.moveaxis(split, 2, -1))


@pytest.mark.parametrize("padding", [0, np.nan, np.inf, 1e30])
@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("channels", [1, 8, 12, 24, 33])
@pytest.mark.parametrize(
    "spec", [PLAIN, FULL, SketchSpec(channel_axis=-3, isotone_axis=1)], ids=["plain", "full", "-3"]
)
def test_blocked_counts_as_plain(channels, lanes, padding, spec):
    x = activations((5, channels, 6, 7))
    made = Collector(spec)
    made.add_blocked(blocked(x[:2], lanes, padding), channels)
    made.add(x[2:3])
    made.add_blocked(blocked(x[3:], lanes, padding), channels)
    assert made.sketch() == TensorSketch.of(x, spec)


@pytest.mark.parametrize("spec", [PLAIN, FULL], ids=["plain", "full"])
def test_blocked_with_threads(spec, monkeypatch):
    monkeypatch.setattr(collector, "LEAST_PART", 100)
    x = activations((5, 20, 30, 30))
    made = Collector(spec, threads=7)
    made.add_blocked(blocked(x, 8, np.nan), 20)
    assert made.sketch() == TensorSketch.of(x, spec)


def test_channels_last_with_threads(monkeypatch):
    monkeypatch.setattr(collector, "LEAST_PART", 100)
    x, spec = activations((41, 37, 13)), SketchSpec(channel_axis=-1, per_channel=True)
    assert collect([x], spec, 7) == TensorSketch.of(x, spec)


def test_blocked_shapes_that_do_not_fit():
    with pytest.raises(DataError, match=r"a blocked tensor of 20 channels.*got \[1, 2, 5, 5, 8\]"):
        Collector().add_blocked(np.zeros((1, 2, 5, 5, 8), np.float32), 20)
    with pytest.raises(SettingError, match="channels on axis 1, but channel_axis is 2"):
        Collector(SketchSpec(channel_axis=2)).add_blocked(np.zeros((1, 3, 5, 5, 8), np.float32), 20)


def test_collectors_in_many_threads():
    data = [activations(seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda x: collect(uneven(x), FULL, 2), data))
    assert found == [TensorSketch.of(x, FULL) for x in data]


def test_sketch_may_be_taken_in_between():
    x, made = activations(), Collector(FULL)
    made.add(x[:7])
    early = made.sketch()
    made.add(x[7:])
    assert early == TensorSketch.of(x[:7], FULL)
    assert made.sketch() == made.sketch() == TensorSketch.of(x, FULL)


def test_all_float16_values_are_exact():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    single = halves.astype(np.float32)
    assert collect([halves], PLAIN) == collect([single], PLAIN)
    finite = single[np.isfinite(single)]
    found = collect([halves], SketchSpec(mantissa_bits=10)).histogram  # ten bits: every half has a cell of its own
    np.testing.assert_array_equal(LogBins(10).lower(found.keys[found.keys >= 0]), np.unique(finite[finite >= 0]))
    assert (found.positions == 0).all()


def test_all_bfloat16_values_are_exact():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    raw = np.arange(2**16, dtype=np.uint16)
    single = (raw.astype(np.uint32) << 16).view(np.float32)
    assert collect([raw.view(ml_dtypes.bfloat16)], PLAIN) == collect([single], PLAIN)


class FakeTensor:
    """As much of a torch tensor as is used: on a device, of a type that numpy may lack."""

    def __init__(self, array, dtype="torch.float32", state="cuda, needs grad"):
        self.array, self.dtype, self.state = array, dtype, state

    def detach(self):
        return FakeTensor(self.array, self.dtype, "cuda")

    def float(self):
        return FakeTensor(self.array.astype(np.float32), "torch.float32", self.state)

    def cpu(self):
        assert self.state == "cuda"
        return FakeTensor(self.array, self.dtype, "cpu")

    def numpy(self):
        assert self.state == "cpu"
        assert self.dtype != "torch.bfloat16", "Got unsupported ScalarType BFloat16"
        return self.array


def test_torch_tensors(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it would fail
    x = activations()
    assert collect([FakeTensor(x[:4]), FakeTensor(x[4:], "torch.bfloat16")]) == TensorSketch.of(x, FULL)


SAME = np.arange(-6, 18).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "x",
    [
        SAME.astype(np.float64),
        SAME.astype(np.int8),
        SAME.astype(np.int64),
        SAME.astype(">f4"),
        SAME.astype(np.float16),
        np.asfortranarray(SAME.astype(np.float32)),
        np.repeat(SAME.astype(np.float32), 2, axis=2)[:, :, ::2],
        np.frombuffer(b"\0" + SAME.astype(np.float32).tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 3, 4),
        np.frombuffer(SAME.astype(np.float32).tobytes(), np.float32).reshape(2, 3, 4),
        SAME.tolist(),
    ],
    ids=["f8", "i1", "i8", "big endian", "f2", "fortran", "strided", "unaligned", "read-only", "list"],
)
def test_types_and_strides(x):
    expected = TensorSketch.of(SAME.astype(np.float32), FULL)
    assert collect([x]) == expected
    assert len(cpu.count.signatures) == len(cpu.top_two.signatures) == 1  # another one would be compiled for seconds


def test_kernels_are_given_aligned_memory():
    unaligned = np.frombuffer(b"\0" + bytes(8), np.uint8)[1:].view(np.float32)
    assert not unaligned.flags.aligned
    assert as_floats(unaligned).flags.aligned


def test_wide_values_become_float32():
    found = collect([np.float64([1e300, -1e300, 1 / 3])], PLAIN).extremes
    assert (found.pos_inf, found.neg_inf, found.lo.tolist()) == (1, 1, [np.float32(1 / 3)])
    assert collect([np.array([True, False])], PLAIN) == collect([np.float32([0, 1])], PLAIN)
    assert collect([2.5], PLAIN) == collect([np.float32([2.5])], PLAIN)


@pytest.mark.parametrize("x", [np.complex64([1]), np.array(["1"]), np.array([None]), np.array(["2026"], "M8")])
def test_types_that_are_refused(x):
    with pytest.raises(DataError, match="cannot observe values of type"):
        Collector().add(x)


def test_what_is_refused_leaves_no_trace():
    x, made = activations(), Collector(FULL)
    made.add(x)
    with pytest.raises(DataError, match="expected 6 channels on axis 1, got 5"):
        made.add(x[:, :5])
    with pytest.raises(DataError, match=r"channel_axis 1 does not fit a tensor of shape \[3\]"):
        made.add(np.ones(3))
    with pytest.raises(DataError, match="cannot observe"):
        made.add(np.array(["x"]))
    assert made.sketch() == TensorSketch.of(x, FULL)


@pytest.mark.parametrize("threads", [0, 65, 1.5])
def test_threads_out_of_range(threads):
    with pytest.raises(SettingError, match="threads must be an integer from 1 to 64"):
        Collector(threads=threads)


def test_error_in_a_thread_is_raised(monkeypatch):
    def broken(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(collector, "LEAST_PART", 10)
    made = Collector(PLAIN, threads=3)
    made.add(np.ones(100))
    monkeypatch.setattr(made._tallies[0, 1], "add", broken)
    with pytest.raises(MemoryError, match="no room"):
        made.add(np.ones(100))


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident memory as Linux does")
def test_tables_take_memory_only_where_they_are_written():
    process = psutil.Process()
    x = np.linspace(-1, 1, 1000, dtype=np.float32)
    collect([x], PLAIN)
    before = process.memory_info().rss
    made = [Collector(PLAIN) for _ in range(40)]  # of 4 MiB each, were they resident
    for each in made:
        each.add(x)
        each.sketch()
    assert process.memory_info().rss - before < 20 << 20


def test_the_reference_kernels_give_the_same(monkeypatch):
    x = activations()
    expected = collect(uneven(x))
    monkeypatch.setattr(reference, "COPIES", 1, raising=False)
    monkeypatch.setattr(tally, "kernels", reference)
    assert collect(uneven(x)) == expected


@pytest.mark.long
def test_a_large_tensor_in_parts():
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(size=(3, 16, 1024, 1024)).astype(np.float32), -1, 2)
    whole = collect([x], SketchSpec(channel_axis=1), threads=4)
    parts = [Histogram.of(part) for part in x.reshape(12, -1)]
    for part in parts[1:]:
        parts[0] = parts[0].merge(part)
    assert whole.histogram == parts[0]
    assert whole.extremes.n_lo.tolist() == (x == -1).sum(axis=(0, 2, 3)).tolist()
