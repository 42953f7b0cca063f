"""Tables of parts of the samples merge, in any tree, into the bytes of a table of all of them."""

import random
from dataclasses import replace

import pytest

from calibrant import CalibrationTable, OnnxruntimeExecutor, QuantizationSetting, load_onnx_graph
from calibrant.api import calibrate
from calibrant.core import IncompatibleSketches, TargetPlatform
from calibrant.engines import iterate_samples
from calibrant.quantizers import quantize_graph
from calibrant.sketches import Halves
from calibrant.table.collecting import METHODS, collect_table, empty_table


@pytest.fixture(params=["per tensor", "per channel"])
def collect(small_model, request):
    """The empty table, and a function that collects one from some samples."""
    setting = QuantizationSetting()
    setting.quantize_activation_setting.per_channel = request.param == "per channel"
    graph = load_onnx_graph(small_model)
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME, setting)
    executor = OnnxruntimeExecutor(graph, threads=2)
    empty = empty_table(graph, TargetPlatform.ONNXRUNTIME, METHODS, executor.description)
    return empty, lambda samples: collect_table(empty, iterate_samples(samples, executor.input_specs), executor)


@pytest.fixture
def saved(tmp_path):
    """A function from a table to the bytes of its file, which loads as that table."""

    def bytes_of(table):
        table.save(tmp_path / "t")
        again = CalibrationTable.load(tmp_path / "t")
        assert (again.sketches.even, again.sketches.odd) == (table.sketches.even, table.sketches.odd)
        return (tmp_path / "t").read_bytes()

    return bytes_of


def random_tree(parts, rng):
    """Any two of them merged, until one is left."""
    parts = list(parts)
    while len(parts) > 1:
        one, other = (parts.pop(rng.randrange(len(parts))) for _ in range(2))
        parts.append(one.merge(other))
    return parts[0]


def check_trees(collect, saved, samples, counts, seed):
    """For each count: the samples dealt out at random to so many parts, of which some may get none."""
    empty, run = collect
    whole, rng = saved(run(samples)), random.Random(seed)
    for count in counts:
        shares = [[] for _ in range(count)]
        for sample in samples:
            rng.choice(shares).append(sample)
        parts = [run(share) if share else empty for share in shares]
        assert saved(random_tree(parts, rng)) == whole


def test_random_trees_give_the_same_bytes(collect, saved, small_samples):
    check_trees(collect, saved, small_samples, [1, 2, 16], seed=1)


@pytest.mark.long
def test_random_trees_of_any_size_give_the_same_bytes(collect, saved, small_samples):
    check_trees(collect, saved, small_samples, [*range(1, 17)] * 2, seed=2)


def test_the_laws(collect, saved, small_samples):
    empty, run = collect
    a, b, c = run(small_samples[:5]), run(small_samples[5:9]), run(small_samples[9:])
    assert saved(a.merge(b)) == saved(b.merge(a)) != saved(a)
    assert saved(a.merge(b).merge(c)) == saved(a.merge(b.merge(c)))
    assert saved(a.merge(empty)) == saved(empty.merge(a)) == saved(a)
    assert saved(empty.merge(empty)) == saved(empty)
    assert (empty.samples, a.merge(b).samples) == (0, 9)


def test_a_sample_counts_as_often_as_it_is_given(collect, saved, small_samples):
    _, run = collect
    one = run(small_samples[:1])
    assert saved(one.merge(one)) == saved(run(small_samples[:1] * 2)) != saved(one)


@pytest.fixture
def table(small_model, small_samples):
    return calibrate(small_model, small_samples[5:9])


def without(table, name):
    """The table without that value."""
    even, odd = ({n: s for n, s in half.items() if n != name} for half in (table.sketches.even, table.sketches.odd))
    return replace(table, sketches=Halves(even, odd))


DIFFERENT = {
    r"different model [0-9a-f]{8} and other$": lambda t: replace(t, fingerprint="other"),
    r"different engine onnxruntime .* and onnxruntime 0\.1$": lambda t: replace(t, engine="onnxruntime 0.1"),
    r"platform ONNXRUNTIME and TRT_INT8$": lambda t: replace(t, settings=t.settings | {"platform": "TRT_INT8"}),
    r"different engine .* and x; methods .* and kl; model .* and y$": lambda t: replace(
        t, engine="x", fingerprint="y", settings=t.settings | {"methods": "kl"}
    ),
    r"different calibrant .* and unknown$": lambda t: replace(
        t, settings={what: how for what, how in t.settings.items() if what != "calibrant"}
    ),
    r"different more unknown and 1$": lambda t: replace(t, settings=t.settings | {"more": "1"}),
    r"only one of them has 'sum'": lambda t: without(t, "sum"),
    r"only one of them has 'sum', 'x'": lambda t: without(without(t, "x"), "sum"),
}


@pytest.mark.parametrize("words", DIFFERENT)
def test_what_differs_is_named(table, words):
    with pytest.raises(IncompatibleSketches, match=f"^cannot merge tables.*{words}"):
        table.merge(DIFFERENT[words](table))


def test_other_settings_of_a_value_are_named(table, small_model, small_samples):
    setting = QuantizationSetting()
    setting.quantize_activation_setting.per_channel = True
    other = calibrate(small_model, small_samples[5:9], setting=setting)
    with pytest.raises(IncompatibleSketches, match="only one of them has 'flat'"):
        table.merge(other)
    assert table.sketches["x"].spec != other.sketches["x"].spec
    with pytest.raises(IncompatibleSketches, match="histogram True and False, per_channel False and True"):
        table.merge(without(other, "flat"))


def test_merging_changes_neither(table, saved):
    before = saved(table)
    table.merge(table)
    assert saved(table) == before
