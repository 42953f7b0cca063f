"""Several tensors counted in one call: the same sketches as of each added by itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.core import DataError
from calibrant.sketches import Collector, SketchSpec, TensorSketch, together
from calibrant.sketches.kernels import cpu, reference
from calibrant.sketches.tally import Tally
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
    last_of_its_bin = np.int32(0x3F807FFF).view(np.float32)
    x = np.full(15, last_of_its_bin)
    counting, places = Together(collectors), places_of(collectors, {"x": x})
    for _ in range(9):
        counting.count(places)
    assert len(emptied) >= 2
    assert collectors["x"].sketch() == TensorSketch.of(np.full(135, last_of_its_bin))


@pytest.mark.parametrize(
    ("spec", "x"),
    [
        (SketchSpec(isotone_axis=-1), np.ones((2, 3), np.float32)),
        (SketchSpec(), np.ones(3, np.float16)),
        (SketchSpec(), np.ones(3, np.int32)),
        (SketchSpec(), np.ones((4, 4), np.float32)[:, ::2]),
        (SketchSpec(), np.ones((0, 3), np.float32)),
    ],
    ids=["margins", "float16", "integers", "strides", "nothing"],
)
def test_what_has_to_be_added_by_itself(spec, x):
    assert Collector(spec).layout_to_lend(x) is None


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
