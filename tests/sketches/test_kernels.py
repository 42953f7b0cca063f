"""The kernels: a table counted by hand, on the reference and its compiled twin; then the twins against each other."""

import importlib
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

from calibrant.sketches.kernels import cpu, jit, reference
from calibrant.sketches.kernels.reference import NONE_HI, NONE_LO
from calibrant.sketches.kernels.spread import spread
from calibrant.sketches.layout import Layout
from tests.sketches.devices import DEVICES, interpreted, on_gpu, torch

if torch is not None:
    from calibrant.sketches.kernels import gpu, gpu_margins
    from calibrant.sketches.kernels.gpu_planes import Planes
    from calibrant.sketches.kernels.gpu_read import read
    from calibrant.sketches.kernels.gpu_room import Room
    from calibrant.sketches.kernels.gpu_words import HIGH, LOW, N_HIGH, N_LOW, NEG_INF, SIZE, ZEROS


class OnDevice:
    """The kernels for GPUs, called as if they were the others."""

    harvest = staticmethod(reference.harvest)

    def __init__(self, device):
        self.device = device

    def count(self, bits, base, blocks, inner, lanes, channels, ends, hits, totals, tables, wide, channel_tables, fine):
        """Into state of nothing, of one kind of table."""
        assert base == 0
        assert not hits.any()
        layout, each = Layout(blocks, inner, lanes, channels), channel_tables.size > 0
        mantissa_bits = fine if each else wide if tables.size else None
        if not bits.size:
            return 0
        heads, ((group, keys), (counts, positions)) = self.counted(bits.view(np.float32), layout, mantissa_bits)
        ends[:] = -heads[:, LOW], heads[:, HIGH]
        hits[:] = np.where(ends == 0, heads[:, ZEROS], (heads[:, N_LOW], heads[:, N_HIGH]))
        hits[(ends == NONE_LO) | (ends == NONE_HI)] = 0
        totals += heads[:, ZEROS : NEG_INF + 1].sum(axis=0)
        if mantissa_bits:
            index = np.where(keys < 0, (1 << (8 + mantissa_bits)) - 1 - keys, keys)
            words = reference.MARK + (index.astype(np.uint64) << np.uint64(8))
            packed = counts.astype(np.uint64) * words + positions.astype(np.uint64)
            (channel_tables if each else tables)[index, group] += packed
        return int(heads[:, SIZE].sum())

    def counted(self, values, layout, mantissa_bits):
        """Heads and cells of the second half, after values of any type were counted into it."""
        values, planes = torch.from_numpy(values.copy()).to(self.device), Planes.of(layout, values.size)
        state = gpu.empty_state(planes.groups, mantissa_bits, self.device)
        half = torch.ones(1, dtype=torch.int32, device=self.device)
        gpu.count(values, planes, state, half, Room(self.device))
        heads, ((group, _), _) = read([state], 0)[0]
        assert not heads[:, 2:].any()
        assert not len(group)
        return read([state], 1)[0]

    def top_two(self, bits):
        values = torch.from_numpy(bits.view(np.float32).copy()).to(self.device)
        rows = bits.shape[0] * bits.shape[2]
        pairs = torch.full((rows + 1, 2), -7, dtype=torch.int32, device=self.device)
        owners = torch.full((rows + 1,), -7, dtype=torch.int32, device=self.device)
        if rows:
            gpu_margins.top_two(values, 0, rows, 1, 1, pairs, owners)
        pairs, owners = pairs.cpu().numpy(), owners.cpu().numpy()
        assert [*pairs[-1], owners[-1]] == [-7] * 3
        assert set(owners[:-1]) <= {-1, 0}
        return *pairs[:-1].T, owners[:-1] >= 0


KERNELS = [
    reference,
    cpu,
    pytest.param(OnDevice("cpu"), id="gpu, interpreted", marks=interpreted),
    pytest.param(OnDevice("cuda"), id="gpu", marks=on_gpu),
]
ONE, NEGATIVE = 127 << 8, 1 << 16  # table indices at 8 mantissa bits: of 1.0, and of the negative values nearest to 0
LARGEST = 0x7F7FFFFF


class State:
    """What a kernel counts into."""

    def __init__(self, channels=1, bits=8, channel_bits=None):
        self.ends = np.repeat(np.array([[NONE_LO], [NONE_HI]], np.int32), channels, axis=1)
        self.hits = np.zeros((2, channels), np.int64)
        self.totals = np.zeros(4, np.int64)
        self.tables = np.zeros((1 << (9 + (bits or 0)), 1 if bits else 0), np.uint64)
        self.channel_tables = np.zeros((1 << (9 + (channel_bits or 0)), channels if channel_bits else 0), np.uint64)
        self.bits, self.channel_bits = bits or 0, channel_bits or 0
        self.size = 0

    def count(self, kernels, bits, base, layout):
        tables = self.tables, self.bits, self.channel_tables, self.channel_bits
        self.size += kernels.count(bits, base, *layout, self.ends, self.hits, self.totals, *tables)
        return self

    def content(self):
        return [self.size, self.ends, self.hits, self.totals, self.tables, self.channel_tables]


# bits of the values, (lo, hi) as bits or None, their hits, (zeros, nan, +inf, -inf), {index: (count, positions)}
HAND_COUNTED = {
    "nothing": ([], None, (0, 0), (0, 0, 0, 0), {}),
    "one": ([0x3F800000], (0x3F800000, 0x3F800000), (1, 1), (0, 0, 0, 0), {ONE: (1, 0)}),
    "last of its bin": ([0x3F807FFF], (0x3F807FFF, 0x3F807FFF), (1, 1), (0, 0, 0, 0), {ONE: (1, 255)}),
    "first of the next": ([0x3F808000], (0x3F808000, 0x3F808000), (1, 1), (0, 0, 0, 0), {ONE + 1: (1, 0)}),
    "middle, twice": ([0x3F804000] * 2, (0x3F804000, 0x3F804000), (2, 2), (0, 0, 0, 0), {ONE: (2, 256)}),
    "both zeros": ([0x80000000, 0, 0x80000000], (0, 0), (3, 3), (3, 0, 0, 0), {0: (3, 0)}),
    "-0.0 alone": ([0x80000000], (0, 0), (1, 1), (1, 0, 0, 0), {0: (1, 0)}),
    "-0.0 is not negative": ([0x80000000, 0x3F800000], (0, 0x3F800000), (1, 1), (1, 0, 0, 0), {0: (1, 0), ONE: (1, 0)}),
    "-0.0 is not positive": (
        [0x80000000, 0xBF800000, 0x80000001],
        (0xBF800000, 0),
        (1, 1),
        (1, 0, 0, 0),
        {0: (1, 0), NEGATIVE: (1, 0), NEGATIVE + ONE: (1, 0)},
    ),
    "subnormals": (
        [1, 0x7FFF, 0x8000, 0x80000001],
        (0x80000001, 0x8000),
        (1, 1),
        (0, 0, 0, 0),
        {0: (2, 255), 1: (1, 0), NEGATIVE: (1, 0)},
    ),
    "largest": (
        [LARGEST, 0x80000000 | LARGEST],
        (0x80000000 | LARGEST, LARGEST),
        (1, 1),
        (0, 0, 0, 0),
        {(255 << 8) - 1: (1, 255), NEGATIVE + (255 << 8) - 1: (1, 255)},
    ),
    "nan and inf alone": ([0x7F800001, 0xFFC00000, 0x7F800000, 0xFF800000], None, (0, 0), (0, 2, 1, 1), {}),
    "nan of every kind": (
        [0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7FC00000, 0x3F800000, 0x80000000],
        (0, 0x3F800000),
        (1, 1),
        (1, 5, 0, 0),
        {0: (1, 0), ONE: (1, 0)},
    ),
    "inf beside values": (
        [0x7F800000, 0xBF800000, 0x7F800000, 0xBF800000],
        (0xBF800000, 0xBF800000),
        (2, 2),
        (0, 0, 2, 0),
        {NEGATIVE + ONE: (2, 0)},
    ),
}


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("case", HAND_COUNTED)
@pytest.mark.parametrize("repeat", [1, 37])
def test_hand_counted(kernels, case, repeat):
    bits, ends, hits, totals, cells = HAND_COUNTED[case]
    values = np.array(bits * repeat, np.uint32).view(np.int32)
    state = State().count(kernels, values, 0, Layout.of(values.shape, None))
    expected = (NONE_LO, NONE_HI) if ends is None else reference.ordered(np.array(ends, np.uint32).view(np.int32))
    assert state.size == len(values)
    assert state.ends[:, 0].tolist() == list(expected)
    assert state.hits[:, 0].tolist() == [repeat * n for n in hits]
    assert state.totals.tolist() == [repeat * n for n in totals]
    finite = state.size - int(state.totals[1:].sum())
    found = kernels.harvest(state.tables, *reference.reach(state.ends, 8), finite)
    by_key = sorted((index if index < NEGATIVE else NEGATIVE - 1 - index, *cells[index]) for index in cells)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == [
        (0, key, repeat * count, repeat * positions) for key, count, positions in by_key
    ]
    assert not state.tables.any()


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    ("row", "top", "second", "finite"),
    [
        ([1, 3, 2], 3, 2, True),
        ([3, 1, 3], 3, 3, True),
        ([5], 5, 5, True),
        ([-1, -2], -1, -2, True),
        ([-0.0, 0.0, -1], 0, 0, True),
        ([-0.0, -3], 0, -3, True),
        ([1e-45, -1e-45, 0], 1e-45, 0, True),
        ([1, np.nan, 2], None, None, False),
        ([1, -np.inf, 2], None, None, False),
        ([1, np.inf, 2], None, None, False),
        ([-np.nan, 1, 2], None, None, False),
    ],
)
@pytest.mark.parametrize("inner", [1, 3])
def test_two_largest(kernels, row, top, second, finite, inner):
    bits = np.repeat(np.float32(row)[np.newaxis, :, np.newaxis], inner, axis=2).view(np.int32)
    found = kernels.top_two(bits)
    assert found[2].tolist() == [finite] * inner
    if finite:
        wanted = reference.ordered(np.float32([top, second]).view(np.int32))
        assert [found[0].tolist(), found[1].tolist()] == [[key] * inner for key in wanted]


def sample(rng, n):
    """Float32 bits of one of the kinds of data that a model has, or that has once been a bug."""
    x = rng.normal(size=n).astype(np.float32)
    kind = rng.integers(6)
    if kind == 1:
        x = np.maximum(x, 0)
    elif kind == 2:
        x = rng.choice(np.float32([0, -0.0, 1, -1, 3, 1e-42, -1e-42]), n)
    elif kind == 3:
        x[rng.random(n) < 0.01] = rng.choice(np.float32([np.nan, np.inf, -np.inf]))
    elif kind == 4:
        x = rng.integers(0, 2**32, n, np.uint32).view(np.float32)
    elif kind == 5:
        x = np.full(n, -0.0, np.float32)
    return x.view(np.int32)


def random_layout(rng):
    """A layout, and how many elements it has."""
    kind = rng.integers(3)
    if kind == 0:
        shape = [int(n) for n in (*rng.integers(1, 7, 2), rng.choice([1, 2, 7, 49, 333, 9000]))]
        return Layout.of(shape, 1), int(np.prod(shape))
    if kind == 1:
        shape = int(rng.integers(1, 60)), int(rng.choice([1, 3, 5, 16, 17, 24, 300, 9000]))
        return Layout.of(shape, 1), shape[0] * shape[1]
    lanes, channels = int(rng.choice([4, 8, 16, 32])), int(rng.integers(1, 40))
    shape = int(rng.integers(1, 4)), -(-channels // lanes), int(rng.choice([1, 3, 49, 700])), lanes
    return Layout.of_blocked(shape, channels), int(np.prod(shape))


@pytest.mark.parametrize("seed", range(10))
def test_twins_agree(seed):
    rng = np.random.default_rng(seed)
    for _ in range(10):
        layout, size = random_layout(rng)
        bits = sample(rng, size)
        channel_bits = rng.choice([None, 6]) if layout.channels < 64 else None
        settings = layout.channels, [None, 5, 8, 12][seed % 4], channel_bits
        slow, fast = State(*settings), State(*settings)
        cut = int(rng.integers(size + 1)) // layout.lanes * layout.lanes
        slow.count(reference, bits, 0, layout)
        fast.count(cpu, bits[cut:], cut, layout).count(cpu, bits[:cut], 0, layout)
        for one, other in zip(slow.content(), fast.content(), strict=True):
            np.testing.assert_array_equal(one, other, str((layout, size, settings)))


# Shapes and channel axes: a tile and its neighbours, planes of all kinds, channels last.
DEVICE_SHAPES = [
    ((1,), None),
    ((2047,), None),
    ((4097,), None),
    ((40_000,), None),
    ((3, 5, 7), 1),
    ((2, 3, 64), 1),
    ((2, 70, 4), 1),
    ((2, 2, 5000), 1),
    ((300, 3), 1),
    ((9, 65), 1),
    ((4, 1, 50), 1),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(4))
def test_the_twin_on_a_device_agrees(device, seed):
    rng = np.random.default_rng(seed)
    for _ in range(3):
        shape, axis = DEVICE_SHAPES[rng.integers(len(DEVICE_SHAPES))]
        layout, size = Layout.of(shape, axis), int(np.prod(shape))
        bits = sample(rng, size)
        each = layout.channels > 1 and bool(rng.integers(2))
        wide = rng.choice([None, 1, 5, 8, 9, 12]) if layout.channels == 1 else None
        settings = layout.channels, wide, int(rng.choice([5, 6])) if each else None
        slow, fast = State(*settings).count(reference, bits, 0, layout), State(*settings)
        fast.count(OnDevice(device), bits, 0, layout)
        for one, other in zip(slow.content(), fast.content(), strict=True):
            np.testing.assert_array_equal(one, other, str((layout, size, settings)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(4))
def test_the_twin_on_a_device_finds_the_same_two_largest(device, seed):
    rng = np.random.default_rng(seed)
    for _ in range(3):
        shape = int(rng.integers(0, 5)), int(rng.integers(1, 70)), int(rng.choice([1, 1, 5, 30]))
        bits = sample(rng, int(np.prod(shape))).reshape(shape)
        found, wanted = OnDevice(device).top_two(bits), reference.top_two(bits)
        np.testing.assert_array_equal(found[2], wanted[2])
        for one, other in zip(found[:2], wanted[:2], strict=True):
            np.testing.assert_array_equal(one[wanted[2]], other[wanted[2]])


@pytest.mark.parametrize("seed", range(4))
def test_twins_find_the_same_two_largest(seed):
    rng = np.random.default_rng(seed)
    for _ in range(12):
        shape = int(rng.integers(0, 5)), int(rng.integers(1, 70)), int(rng.choice([1, 1, 5, 30]))
        bits = sample(rng, int(np.prod(shape))).reshape(shape)
        for one, other in zip(cpu.top_two(bits), reference.top_two(bits), strict=True):
            np.testing.assert_array_equal(one, other)


def cell(index, count, positions):
    return count * (2**31 + 256 * index) + positions


@pytest.mark.parametrize("kernels", [reference, cpu])
def test_harvest_empties_tables(kernels):
    tables = np.zeros((1024, 2), np.uint64)
    most = 2**23
    tables[5, 0], tables[512, 0], tables[514, 0] = cell(5, 3, 8), cell(512, 1, 2), cell(514, 4, 0)
    tables[0, 1], tables[1023, 1] = cell(0, 2**32, 0), cell(1023, most, most * 255)
    elements = 3 + 1 + 4 + 2**32 + most
    assert [column.tolist() for column in kernels.harvest(tables, 6, 512, elements)] == [
        [0, 0, 0, 1, 1],
        [-3, -1, 5, -512, 0],
        [4, 1, 3, most, 2**32],
        [0, 2, 8, most * 255, 0],
    ]
    assert not tables.any()


def test_cells_are_joined_as_the_reference_does():
    rng = np.random.default_rng(3)
    for size, other in ((0, 0), (0, 5), (7, 0), (1, 1), (40, 90), (300, 250)):
        cells = []
        for length in (size, other):
            name = np.unique(rng.integers(-100, 100, (length, 2)), axis=0).astype(np.int32)
            cells += [*name.T.copy(), *rng.integers(1, 2**40, (2, len(name)))]
        for found, expected in zip(cpu.join(*cells), reference.join(*cells), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mantissa_bits", [2, 8])
def test_cells_are_spread_as_the_reference_does(mantissa_bits):
    rng = np.random.default_rng(4)
    lower = np.array([-2.0, -1e-40, 0.0, 1.0, -3e38, *rng.normal(0, 5, 200)])
    upper = np.array([-1.0, 0.0, 0.0, 1.0, -2e38, *lower[5:] + rng.exponential(1, 200)])
    mean = lower + rng.uniform(0, 1, len(lower)) * (upper - lower)
    counts = np.array([0, 7, 2**40, 1, 3, *rng.integers(1, 1000, 200)])
    factors = np.array([3.0, 7.0, 0.1, 2.0, 1e-6, *np.exp2(rng.uniform(-3, 3, 200))])
    arguments = (lower, upper), mean, counts, factors, 32, mantissa_bits
    for found, expected in zip(spread(*arguments), reference.spread(*arguments), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_cell_is_spread_over_finer_ones_and_its_mean_stays():
    one = np.ones(1)
    sizes, sums = reference.spread((one, 2 * one), 1.25 * one, np.array([800]), one, 4, 2)
    assert np.flatnonzero(sizes).tolist() == [508, 509, 511]  # [1, 1.25), [1.25, 1.5) and [1.75, 2)
    assert sizes[[508, 509, 511]].tolist() == [600, 100, 100]
    assert sums[[508, 509, 511]].tolist() == [300 * 64 + 300 * 192, 100 * 192, 100 * 64]


@pytest.mark.parametrize("kernels", [reference, cpu])
def test_load_is_of_the_fullest_cell(kernels):
    tables = np.zeros((1024, 2), np.uint64)
    assert kernels.load(tables, 512, 512) == 0
    tables[5, 0] = cell(5, 200, 200 * 255)
    assert kernels.load(tables, 512, 512) == 201
    tables[1023, 1] = cell(1023, 2**31 - 1, 0)  # of values at their bin's lower edge, like 0.0, far more fit
    assert kernels.load(tables, 512, 512) == 2**23
    tables[7, 1] = cell(7, 2**23, 2**23 * 255)
    assert kernels.load(tables, 512, 512) == 2**23 + 1


def test_importing_compiles_nothing():
    code = "from calibrant.sketches.kernels import cpu as k; print(k.count.signatures, k.harvest.signatures)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]


def test_a_piece_that_makes_arrays_cannot_borrow(tmp_path, monkeypatch):
    place = tmp_path / "room" / "kernels"
    place.mkdir(parents=True)
    (place / "made_up_pieces.py").write_text(
        "import numpy as np\nfrom calibrant.sketches.kernels.jit import borrowing\n"
        "@borrowing\ndef first(array):\n    return array[0]\n"
        "@borrowing\ndef fresh(size):\n    return np.zeros(size)\n"
    )
    monkeypatch.syspath_prepend(place)
    pieces, array = importlib.import_module("made_up_pieces"), np.arange(3.0)
    held = sys.getrefcount(array)
    assert pieces.first(array) == 0
    assert sys.getrefcount(array) == held
    with pytest.raises(TypingError, match="zeros"):
        pieces.fresh(3)


def test_it_is_known_what_is_kept_on_disk(tmp_path, monkeypatch):
    place = tmp_path / "room" / "kernels"
    place.mkdir(parents=True)
    (place / "made_up_kernel.py").write_text(
        "from calibrant.sketches.kernels.jit import compiled\n@compiled\ndef twice(x):\n    return 2 * x\n"
    )
    monkeypatch.syspath_prepend(place)
    twice = importlib.import_module("made_up_kernel").twice
    assert not jit.is_kept(twice)
    assert twice(3) == 6
    assert jit.is_kept(twice)


def test_where_nothing_can_be_kept_kernels_are_compiled_all_the_same(monkeypatch, caplog):
    def refusing(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(jit, "njit", refusing)
    jit._warn_of_no_cache.cache_clear()
    twice, thrice = jit.compiled(lambda x: 2 * x), jit.compiled(lambda x: 3 * x)
    assert (twice(3), thrice(3)) == (6, 9)
    assert not jit.is_kept(twice)
    assert caplog.text.count("NUMBA_CACHE_DIR") == 1


def test_what_is_kept_on_disk_is_renewed_with_any_of_the_files():
    """numba looks at a kernel's own file alone; kernels call those of other files."""
    stamps = {
        k._cache._cache_file._source_stamp for k in (cpu.count, cpu.harvest, cpu.top_two, jit.compiled(lambda: 0))
    }
    assert len(stamps) == 2  # of the kernels' folder, and of this one
    assert jit.stamp(Path(jit.__file__).parent) in stamps
