"""The benchmarks of costs, of `auto` and of few bits: their parts on hand-made cases, one contestant in its process."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

from benchmarks import resnet
from benchmarks.auto import Split, best_single, powers_of, row
from benchmarks.costs import memory_table, time_table
from benchmarks.growth import fitted, growth_table, with_samples, with_threads
from benchmarks.low_bits import Photos, judged, setting
from benchmarks.markdown import table
from benchmarks.once import Failed, Found, Job, measure
from benchmarks.pages import page, page_input
from benchmarks.peers import CONTESTANTS, PEERS, Contestant, activations, most_samples
from benchmarks.speech import RATE, resonance, utterance
from benchmarks.subjects import Turned, turned_line_input
from benchmarks.varied import Varied
from demo.convnet import ConvNet


@pytest.fixture
def tiny_job(tmp_path):
    """A network of one convolution, and two photos of noise."""
    rng = np.random.default_rng(0)
    weights = {"conv.weight": rng.normal(size=(4, 3, 3, 3)), "fc.weight": np.eye(4), "fc.bias": np.zeros(4)}
    weights |= {f"bn.{part}": rng.uniform(0.5, 2, 4) for part in ("weight", "bias", "running_mean", "running_var")}
    net = ConvNet({name: value.astype(np.float32) for name, value in weights.items()}, epsilon=1e-3)
    logits = net.classifier(net.relu(net.conv("input", "conv", "bn")), "fc")
    net.save(tmp_path / "tiny.onnx", logits, size=8, classes=4)
    np.save(tmp_path / "inputs.npy", rng.normal(size=(2, 3, 8, 8)).astype(np.float32))
    return Job("calibrant", tmp_path / "tiny.onnx", tmp_path / "inputs.npy", samples=6, threads=1)


def test_a_contestant_is_timed_in_a_process_of_its_own(tiny_job):
    found = measure(tiny_job)
    assert found.seconds > found.bare > 0
    assert found.cpu > 0 < found.bare_cpu
    assert sum(found.parts.values()) == pytest.approx(found.seconds, rel=0.2)


def test_a_contestant_that_fails_says_why(tiny_job, tmp_path):
    with pytest.raises(Failed, match=r"nothing\.onnx"):
        measure(replace(tiny_job, model=tmp_path / "nothing.onnx", contestant="bare", purpose="memory"))


def test_a_peer_that_is_not_installed_says_so(tiny_job, monkeypatch):
    monkeypatch.setitem(CONTESTANTS, "other", Contestant("Other", print, ("nowhere_to_be_found",)))
    with pytest.raises(Failed, match="not installed: nowhere_to_be_found"):
        measure(replace(tiny_job, contestant="other"))


def found_by(job, environment=None):
    """As if bare inference took 1 s a sample and 1 s before the first, Calibrant twice that, a peer 30 times."""
    if job.contestant == "nncf-onnx":
        raise Failed("not installed: nncf")
    bare = 1 / job.threads + job.samples
    times = {"calibrant": 2, "unequalized": 1.5}.get(job.contestant, 30)
    return Found(times * bare, times * bare, bare, bare, peak_mb=job.samples, parts={"solve": bare})


def cells_of(lines):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_the_table_of_times_has_a_row_for_everyone(tiny_job):
    asked = []
    lines = time_table(
        tiny_job, ["onnxruntime-minmax", "nncf-onnx"], 3, 1, lambda job: asked.append(job.contestant) or found_by(job)
    ).split("\n")
    cells = cells_of(lines[2:])
    assert cells[0][:5] == ["bare onnxruntime inference", "6", "7", "7.00", "1.00"]
    assert cells[1][1:6] == ["6", "3", "14.00", "2.00", "2.00 .. 2.00"]
    assert cells[3][:5] == ["- without the statistics of equalization", "6", "3", "10.50", "1.50"]
    assert cells[2][0] == cells[4][0] == "- solve"
    assert cells[5][:5] == ["onnxruntime.quantization, MinMax", "6", "1", "210.00", "30.00"]
    assert cells[7][0] == "NNCF on ONNX, ranges alone: not installed: nncf"
    assert asked.count("nncf-onnx") == asked.count("onnxruntime-minmax") == 1


def test_the_table_of_memory_has_a_row_for_everyone(tiny_job):
    lines = memory_table(tiny_job, ["onnxruntime-minmax", "nncf-onnx"], [4, 12], 1, found_by).split("\n")
    assert cells_of(lines[3:]) == [
        ["Calibrant, five methods at once", "4", "12", "+200.0 %"],
        ["onnxruntime.quantization, MinMax", "4", "6 at 6", "+50.0 %"],
        ["NNCF on ONNX, ranges alone: not installed: nncf", "–", "–", "–"],
    ]


def test_growth_is_a_line_through_what_was_measured(tiny_job):
    line = fitted([1, 2, 4], [3.0, 5.0, 9.0])
    assert (line.at_zero, line.slope, line.off) == pytest.approx((1, 2, 0))
    assert fitted([1, 2, 3], [1.0, 2.0, 6.0]).off > 0.1
    with pytest.raises(ValueError, match="two different places"):
        fitted([2, 2], [1.0, 1.0])
    many = replace(tiny_job, threads=3)
    axis = with_threads(many)
    assert [job.threads for job in axis.jobs] == [1, 2, 3]
    assert axis.x == pytest.approx([1, 1 / 2, 1 / 3])
    lines = growth_table([with_samples(tiny_job, [4, 8])], ["calibrant", "nncf-onnx"], 2, found_by).split("\n")
    assert cells_of(lines)[3][1:] == [
        "samples",
        "4  8",
        "10.00  18.00",
        "2.00",
        "2",
        "2.00",
        "0.0%",
    ]
    assert "not installed" in lines[4]


def test_a_table_is_aligned():
    assert table(["model", "dB"], [["a", "17.1"]]).split("\n") == [
        "| model |   dB |",
        "|:------|-----:|",
        "| a     | 17.1 |",
    ]


def test_samples_are_different_and_the_same_again(tiny_job):
    samples = Varied(tiny_job.inputs, 9)
    contents = [x.tobytes() for x in samples]
    assert len(samples) == len(set(contents)) == 9
    assert contents == [x.tobytes() for x in samples]
    np.testing.assert_array_equal(samples[1][0], np.load(tiny_job.inputs)[1])


def test_a_peer_that_keeps_activations_gets_what_fits(tiny_job):
    numbers = 2 * 4 * 6 * 6 + 2 * 4 + 4  # Conv and Relu; pooled, flattened; Gemm
    assert activations(tiny_job.model) == numbers
    keeping, flat = PEERS["onnxruntime-entropy"], PEERS["onnxruntime-minmax"]
    assert most_samples(keeping, tiny_job.model, 100, 10 * 5 * numbers / 1e9) == 10
    assert most_samples(keeping, tiny_job.model, 100, 1) == 100
    assert most_samples(flat, tiny_job.model, 100, 1e-9) == 100


def test_a_random_resnet_stays_in_bounds(tmp_path):
    """Nothing that it computes grows beyond bounds or dies out, however deep it is."""
    path = tmp_path / "resnet.onnx"
    resnet.build(path, blocks=(1, 1, 2, 1))
    model = onnx.load(path)
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        for node in model.graph.node
        if node.op_type == "Relu"
    )
    x = np.random.default_rng(1).normal(size=(1, 3, 224, 224)).astype(np.float32)
    for value in ort.InferenceSession(model.SerializeToString()).run(None, {"input": x}):
        assert 0.2 < value.std() < 20


def test_speech_is_the_same_again_and_has_pauses():
    sound = utterance(3)
    np.testing.assert_array_equal(sound, utterance(3))
    assert not np.array_equal(sound, utterance(4))
    assert sound.shape == (2 * RATE,)
    loudness = np.sqrt((sound.reshape(-1, RATE // 50) ** 2).mean(axis=1))
    assert loudness.max() > 10 * np.quantile(loudness, 0.1)


def test_a_resonance_rings_at_its_frequency():
    click = np.zeros(RATE)
    click[0] = 1
    spectrum = np.abs(np.fft.rfft(resonance(click, 1000, 50)))
    assert abs(int(spectrum.argmax()) - 1000) <= 2  # one bin is 1 Hz
    assert spectrum[1000] > 1.3 * spectrum[1025] > 1.2 * spectrum[1060]


def test_a_page_is_turned_by_its_number():
    upright, turned = page(8), page(9)
    assert np.array_equal(np.asarray(upright), np.asarray(page(8)))
    ink = [np.asarray(sheet, np.float32).std(axis=1).std() for sheet in (upright, turned)]
    assert ink[0] > ink[1]  # lines of text and the gaps between them lie along the rows of the upright one alone
    assert page_input(upright).shape == page_input(turned).shape == (1, 3, 224, 224)


def test_a_line_upside_down_ends_where_it_began(tmp_path):
    pixels = np.zeros((24, 48, 3), np.uint8)
    pixels[:, :8] = 255
    Image.fromarray(pixels).save(tmp_path / "line.png")
    whole, half = (0.0, 1.0), (0.0, 0.5)
    cases = [(whole, False, [1, -1, -1, 0]), (whole, True, [-1, -1, 1, 0]), (half, True, [-1, 1, 0, 0])]
    for part, down, wanted in cases:
        x = turned_line_input(Turned(tmp_path / "line.png", part, down))
        assert x.shape == (1, 3, 48, 192)
        assert x[0, 0, 20, [0, 40, 90, 191]].tolist() == wanted


def test_how_far_auto_is_behind_the_best():
    """In the first split kl is the best, in the second mse, and in the mean."""
    noise = {"mse": (0.02, 0.01), "kl": (0.01, 0.04), "auto": (0.02, 0.02)}
    even, other = np.ones(8), 1 + np.tile([0.1, -0.1], 4)
    splits = [
        Split(
            4,
            8,
            {m: np.stack([even, n[i] * (other if m == "auto" else even)], -1)[:, None] for m, n in noise.items()},
            f"{i}",
            5,
        )
        for i in (0, 1)
    ]
    assert best_single(splits[0].db) == "kl"
    assert splits[1].db["mse"] == pytest.approx(20)
    *_, behind, worst, chosen, _ = row("model", splits)
    error = 10 / np.log(10) * 0.1 / np.sqrt(7) / np.sqrt(2)  # of a mean of 8, and of two splits
    assert behind == f"1.51 ± {error:.2f}"
    assert (worst, chosen) == ("3.01", "0, 1")
    assert row("model", [splits[1], *splits])[-2] == "1 2, 0"


def test_powers_are_of_floating_outputs():
    exact = [[np.array([3.0, 4.0], np.float32), np.array([2])]]
    powers = powers_of(exact, [[np.array([3.0, 4.5], np.float32), np.array([9])]])
    np.testing.assert_array_equal(powers, [[[25.0, 0.25]]])


def test_what_few_bits_lose_is_told_with_its_standard_error():
    """Of four labelled photos float has three right, the other model as many, but not the same; two more agree."""
    exact, found = np.eye(3)[[0, 1, 2, 2, 1, 1]], np.eye(3)[[0, 1, 0, 0, 1, 1]]
    photos = Photos([], [np.zeros(1)] * 4, [np.zeros(1)] * 2, [{0}, {1, 2}, {2}, {0, 1}])
    top_1, lost, same, sqnr = judged(photos, exact, found)
    assert (top_1, same) == ("0.750 ± 0.250", "0.667 ± 0.211")
    assert lost == f"0.0 ± {100 * np.std([0, 0, 1, -1], ddof=1) / 2:.1f}"
    assert sqnr == f"{10 * np.log10(6 / 4):.1f}"


def test_plain_rounding_is_nothing_but_rounding():
    asked = setting("plain rounding", "W4A8").quantize_parameter_setting
    assert (asked.num_of_bits, asked.per_channel, asked.calib_algorithm) == (4, True, "minmax")
    assert not asked.balanced_rounding
    high = setting("high effort", "per-tensor")
    assert (high.effort, high.quantize_parameter_setting.per_channel) == ("high", False)
