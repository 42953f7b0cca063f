"""Several tensors counted in one call: the same sketches as of each added by itself."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.core import DataError
from calibrant.sketches import Collector, SketchSpec, TensorSketch, together
from calibrant.sketches.collector import MOST_LENT
from calibrant.sketches.kernels import cpu, reference
from calibrant.sketches.tally import FLUSH_LIMIT, Tally, table_bytes
from calibrant.sketches.together import Place, Places, Together

SPECS = {
    "plain": SketchSpec(),
    "channels": SketchSpec(channel_axis=1),
    "tables": SketchSpec(channel_axis=1, per_channel=True, channel_mantissa_bits=1),
    "ends": SketchSpec(histogram=False),
}


def tensors(seed=0, shape=(2, 5, 7)):
    rng = np.random.default_rng(seed)
    found = {name: (rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3)).astype(np.float32) for name in SPECS}
    found["plain"].flat[:4] = 0, -0.0, np.nan, np.inf
    return found


LAST_OF_ITS_BIN = np.int32(0x3F807FFF).view(np.float32)  # of all values of its cell the one that soonest fills it


def places_of(collectors, arrays):
    return Places([Place(name, x, collectors[name].layout_to_lend(x)) for name, x in arrays.items()])


@pytest.mark.parametrize("most_calls", [1, 3, 64])
def test_the_sketches_of_each_by_itself(monkeypatch, most_calls):
    """Whatever lies in the places at the time; tables are looked at as often as they must be."""
    monkeypatch.setattr(together, "MOST_CALLS", most_calls)
    collectors = {name: Collector(spec) for name, spec in SPECS.items()}
    arrays = tensors()
    places, one, other = places_of(collectors, arrays), Together(collectors), Together(collectors)
    seen = {name: [] for name in SPECS}
    for seed in range(7):
        for name, x in tensors(seed).items():
            arrays[name][...] = x
            seen[name].append(x)
        (one, one, other)[seed % 3].count(places)
    collectors["plain"].add(arrays["plain"])
    seen["plain"].append(arrays["plain"])
    for name, spec in SPECS.items():
        assert collectors[name].sketch() == TensorSketch.of(np.concatenate(seen[name]), spec), name


def test_other_shapes_in_turn():
    collectors = {name: Collector(spec) for name, spec in SPECS.items()}
    small, large = tensors(1, (1, 5, 3)), tensors(2, (3, 5, 64))
    counting = Together(collectors)
    for arrays in (small, large, small):
        counting.count(places_of(collectors, arrays))
    for name, spec in SPECS.items():
        parts = [np.moveaxis(x, 1, 2).reshape(-1, 5) for x in (small[name], large[name], small[name])]
        assert collectors[name].sketch() == TensorSketch.of(np.concatenate(parts), spec), name


def test_a_table_is_emptied_before_a_cell_can_overflow(monkeypatch):
    monkeypatch.setattr(together, "FLUSH_LIMIT", 40)
    monkeypatch.setattr("calibrant.sketches.tally.FLUSH_LIMIT", 40)
    emptied = []
    harvest = cpu.harvest
    monkeypatch.setattr(cpu, "harvest", lambda *tables: emptied.append(1) or harvest(*tables))
    collectors = {"x": Collector(SketchSpec())}
    x = np.full(15, LAST_OF_ITS_BIN)
    counting, places = Together(collectors), places_of(collectors, {"x": x})
    for _ in range(9):
        counting.count(places)
    assert len(emptied) >= 2
    assert collectors["x"].sketch() == TensorSketch.of(np.full(135, LAST_OF_ITS_BIN))


def test_a_sketch_in_between_takes_no_room_away():
    """What room was made for may come after it, and twice a table's limit would overflow the cell."""
    collectors = {"x": Collector(SketchSpec(mantissa_bits=1))}
    x = np.full(FLUSH_LIMIT // 4, np.nextafter(np.float32(1.5), np.float32(0)))
    counting, places = Together(collectors), places_of(collectors, {"x": x})
    for _ in range(4):
        counting.count(places)  # room is made for one, for two, and for four, of which one is counted
    between = collectors["x"].sketch().histogram
    assert between.counts.tolist() == [4 * x.size]
    for _ in range(7):
        counting.count(places)
    assert collectors["x"].sketch().histogram.counts.tolist() == [11 * x.size]


def test_shapes_in_turn_make_no_room_in_vain(monkeypatch):
    """Or tables would be looked through, and emptied, for almost every sample."""
    monkeypatch.setattr(together, "FLUSH_LIMIT", 3200)
    monkeypatch.setattr("calibrant.sketches.tally.FLUSH_LIMIT", 3200)
    looked, load = [], cpu.load
    monkeypatch.setattr(cpu, "load", lambda *table: looked.append(1) or load(*table))
    collectors = {"x": Collector(SketchSpec())}
    counting = Together(collectors)
    places = [places_of(collectors, {"x": np.ones(size, np.float32)}) for size in (40, 60)]
    for _ in range(30):
        for each in places:
            counting.count(each)
    assert not looked
    assert collectors["x"].sketch().extremes.size == 3000


def test_threads_that_borrow_at_once_get_tallies_of_their_own():
    both = Barrier(2, timeout=10)

    class Meeting(list):
        def append(self, tally):
            super().append(tally)
            both.wait()

    collector = Collector()
    collector._lent = Meeting()
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(collector.lend, [1, 1])
    assert one is not other
    assert set(collector._lent) == {one, other}


@pytest.mark.parametrize(
    ("spec", "x"),
    [
        (SketchSpec(isotone_axis=-1), np.ones((2, 3), np.float32)),
        (SketchSpec(), np.ones(3, np.float16)),
        (SketchSpec(), np.ones(3, np.int32)),
        (SketchSpec(), np.ones((4, 4), np.float32)[:, ::2]),
        (SketchSpec(), np.ones((0, 3), np.float32)),
        (SketchSpec(channel_axis=1, per_channel=True, channel_mantissa_bits=8), np.ones((1, 17), np.float32)),
    ],
    ids=["margins", "float16", "integers", "strides", "nothing", "large tables"],
)
def test_what_has_to_be_added_by_itself(spec, x):
    assert Collector(spec).layout_to_lend(x) is None


def test_tables_that_every_thread_may_have():
    spec = SketchSpec(channel_axis=1, per_channel=True, channel_mantissa_bits=8)
    assert Collector(spec).layout_to_lend(np.ones((1, 16), np.float32)) is not None
    assert table_bytes(16, 8) == MOST_LENT == 16 * np.zeros(1 << 17, np.uint64).nbytes


def test_another_number_of_channels_is_refused():
    collector = Collector(SketchSpec(channel_axis=1))
    assert collector.layout_to_lend(np.ones((1, 3, 2), np.float32)) is not None
    with pytest.raises(DataError, match="expected 3 channels on axis 1, got 4"):
        collector.layout_to_lend(np.ones((1, 4, 2), np.float32))


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9), st.booleans()), max_size=5), st.integers(0, 99))
def test_the_kernel_is_the_reference(tensors, seed):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(rows, channels)).astype(np.float32) for rows, channels, _ in tensors]
    contents = []
    for kernels in (reference, cpu):
        tallies = [Tally(channels, 8, 1 if each else None) for _, channels, each in tensors]
        rows = [[x.ctypes.data, x.size, 1, len(x), x.shape[1], x.shape[1]] for x in arrays]
        kernels.count_all(
            np.array(rows, np.int64).reshape(-1, 6),
            np.array([tally.addresses for tally in tallies], np.int64).reshape(-1, 10),
        )
        contents.append(
            [
                (
                    t.size,
                    t.ends.tolist(),
                    t.hits.tolist(),
                    t.totals.tolist(),
                    str(t.histogram()),
                    str(t.channel_histogram()),
                )
                for t in tallies
            ]
        )
    assert contents[0] == contents[1]
    assert [size for size, *_ in contents[0]] == [x.size for x in arrays]
