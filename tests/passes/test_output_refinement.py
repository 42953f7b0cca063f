"""OutputRefinementPass: a scale is chosen for those who read the value."""

import numpy as np
import pytest
from onnx import helper

from calibrant import QuantizationSetting, calibrate
from calibrant.analysis import Simulation, sqnr_db
from calibrant.api import quantize
from calibrant.core import QuantizationProperty as P
from calibrant.core import SettingError, TensorQuantizationConfig
from calibrant.passes.ahead import Ahead, less
from calibrant.passes.output_refinement import OutputRefinementPass, Refinable, Search, ends_of, refinable
from tests.passes.test_bias_correction import exact_outputs, outputs, saved

RNG = np.random.default_rng(4)


@pytest.fixture
def unread(tmp_path):
    """`v` has a channel a hundred times as large as the other three, which its reader multiplies by 0."""
    spread = np.diag([1.0, 1.0, 1.0, 100.0]).reshape(4, 4, 1, 1)
    readers = RNG.normal(0, 0.5, (6, 4, 1, 1))
    readers[:, 3] = 0
    weights = {"w1": spread, "b1": np.zeros(4), "w2": readers, "b2": np.zeros(6)}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["v"], "conv1"),
        helper.make_node("Conv", ["v", "w2", "b2"], ["y"], "conv2"),
    ]
    samples = [RNG.normal(0, 1, (1, 4, 6, 6)).astype(np.float32) for _ in range(48)]
    return saved(tmp_path / "m.onnx", nodes, weights, [1, 4, 6, 6], "y"), samples


def refining(on=True, **fields):
    """Without equalization, which would take away what these cases are built for."""
    setting = QuantizationSetting(output_refinement=on, equalization=False, smooth_quant=False)
    for name, value in fields.items():
        setattr(setting.output_refinement_setting, name, value)
    return setting


def scales(graph):
    return {name: float(graph.config_of(name).scale) for name in ("x", "v", "y") if graph.config_of(name)}


def test_a_scale_is_chosen_for_what_its_readers_make_of_it(unread):
    model, samples = unread
    exact = exact_outputs(model, samples)
    plain, refined = (outputs(model, samples, refining(on)) for on in (False, True))
    assert sqnr_db(exact, refined) > sqnr_db(exact, plain) + 15
    before, after = (scales(quantize(model, samples[:32], setting=refining(on))[0]) for on in (False, True))
    assert after["v"] < before["v"] / 20


def test_what_few_bits_do_to_weights_has_no_part_in_it(small_model, small_samples):
    found = []
    for bits in (8, 2):
        setting = refining()
        setting.quantize_parameter_setting.num_of_bits = bits
        graph, _ = quantize(small_model, small_samples, setting=setting)
        found.append([float(group.config.scale) for group in graph.groups])
    assert found[1] == pytest.approx(found[0], rel=2e-3)  # but for what keeps sums away from ties


@pytest.mark.parametrize("method", ["mse", "auto"])
def test_weights_are_in_float_meanwhile(small_model, small_samples, monkeypatch, method):
    seen = []

    def look(self, graph, samples, executor):
        seen.extend(graph.edges[node, 1].scale for node in ("conv1", "conv2", "conv3", "fc"))
        yield 1, 1

    monkeypatch.setattr(OutputRefinementPass, "layers", look)
    setting = refining()
    setting.quantize_activation_setting.calib_algorithm = method
    graph, _ = quantize(small_model, small_samples, setting=setting)
    assert seen == [None] * 4
    assert all(graph.edges[node, 1].scale is not None for node in ("conv1", "conv2", "conv3", "fc"))


def test_a_scale_that_is_worse_on_the_other_half_is_dropped(unread, monkeypatch):
    model, samples = unread
    plain = scales(quantize(model, samples[:32], setting=refining(False))[0])
    worse = lambda self: self._value.config.clone(scale=self._value.config.scale * 9)  # noqa: E731
    monkeypatch.setattr(Search, "run", worse)
    assert scales(quantize(model, samples[:32], setting=refining())[0]) == plain


def test_it_is_taken_back_where_it_makes_the_outputs_worse_on_held_out_samples(small_model, small_samples):
    plain, _ = quantize(small_model, small_samples[:32], setting=refining(False))
    refined, summary = quantize(small_model, small_samples[:32], setting=refining())
    assert "output refinement: 1 of 6 scales moved" in summary.notes
    assert any("worse on held-out samples: all is as it was before" in note for note in summary.notes)
    assert [group.config.scale for group in refined.groups] == [group.config.scale for group in plain.groups]


def test_the_same_samples_give_the_same_scales_with_a_table_too(unread):
    model, samples = unread
    one = scales(quantize(model, samples[:32], setting=refining(), threads=1)[0])
    other = scales(quantize(model, samples[:32][::-1], setting=refining(), threads=2)[0])
    table = calibrate(model, samples[:32])
    with_table = scales(quantize(model, samples[:32], setting=refining(), table=table)[0])
    assert one == other == with_table


def test_who_stops_it_keeps_what_is_done(unread):
    model, samples = unread
    plain = scales(quantize(model, samples[:32], setting=refining(False))[0])
    graph, summary = quantize(model, samples[:32], setting=refining(), on_layer=lambda name, done, total: done < 2)
    found = scales(graph)
    assert found["v"] < plain["v"] / 20
    assert found["y"] == plain["y"]
    assert any("interrupted" in note for note in summary.notes)
    Simulation(graph)


def test_only_the_values_of_interest(unread):
    model, samples = unread
    plain = scales(quantize(model, samples[:32], setting=refining(False))[0])
    found = scales(quantize(model, samples[:32], setting=refining(interested_layers=["x"]))[0])
    assert found["v"] == plain["v"]
    found = scales(quantize(model, samples[:32], setting=refining(interested_layers=["conv1"]))[0])
    assert found["v"] < plain["v"] / 20
    with pytest.raises(SettingError, match="interested_layers: unknown name or operator type 'nobody'"):
        quantize(model, samples[:32], setting=refining(interested_layers=["nobody"]))


def test_an_order_that_isotone_keeps_is_left_alone(small_model, small_samples):
    setting = refining()
    setting.quantize_activation_setting.calib_algorithm = "isotone"
    graph, _ = quantize(small_model, small_samples[:32], setting=setting)
    assert graph.config_of("logits").observer_algorithm == "isotone"
    names = [one.value.name for one in refinable(graph)]
    assert names == ["x", "r1", "r2", "c3", "sum", "pooled"]


def search(error, symmetric=False, low=-8.0, high=8.0, starts=()):
    """The range that a search finds with that error of its two ends, from [-4, 4]."""
    policy = P.PER_TENSOR | P.LINEAR | (P.SYMMETRICAL if symmetric else P.ASYMMETRICAL)
    config = TensorQuantizationConfig(policy, quant_min=-127 if symmetric else -128, scale=8 / 255, offset=0)
    if not symmetric:
        config.offset = 0
    more = [config.clone(scale=config.scale * factor) for factor in starts]
    value = Refinable(None, None, config, [], more, low, high)

    def errors(config, best=None):
        return np.array([error(*ends_of(config))])

    return config, Search(value, errors(config), errors).run()


def test_each_end_is_searched():
    _, found = search(lambda low, high: (low + 1.0) ** 2 + (high - 2.0) ** 2)
    low, high = ends_of(found)
    assert low == pytest.approx(-1, rel=0.06)
    assert high == pytest.approx(2, rel=0.06)


def test_the_best_start_is_gone_on_with():
    def only_there(low, high):
        return abs(high - 1.0) if high < 1.5 else 9.0

    assert ends_of(search(only_there, starts=[0.3])[1])[1] == pytest.approx(1.0, rel=0.06)
    config, found = search(only_there)
    assert found is config  # too far to be seen from there


def test_no_range_passes_what_was_seen():
    _, found = search(lambda low, high: -high, high=5.0)
    assert ends_of(found)[1] == pytest.approx(5.0, rel=0.02)


def test_a_symmetric_range_stays_symmetric():
    _, found = search(lambda low, high: (high - 2.0) ** 2, symmetric=True)
    low, high = ends_of(found)
    assert -low == high == pytest.approx(2, rel=0.06)


class Told(Ahead):
    """Errs as it is told, sample by sample; remembers which were looked at."""

    def __init__(self, errors):
        self.told, self.looked_at = errors, []

    def errors(self, remainder, stepping, value, form, numbers):
        self.looked_at += numbers
        return np.array([self.told[number] for number in numbers])


def test_what_is_behind_is_given_up():
    best = np.full(8, 1.0)
    for told, looked_at in (
        ([3.0, 3.0, 1.0, 1.5, 0, 0, 0, 0], 4),  # more than the best in all
        ([1.04, 1.04, 0, 0, 0, 0, 0, 0], 8),
        ([0.9, 1.0, 1, 1, 1, 1, 1, 1], 8),
    ):
        ahead = Told(told)
        found = ahead.race(None, None, None, None, range(8), best)
        assert ahead.looked_at == list(range(looked_at))
        assert found.tolist() == told[:looked_at]
        assert less(found, best) == (looked_at == 8)
    assert Told([9.0] * 8).race(None, None, None, None, range(8), None).size == 8
