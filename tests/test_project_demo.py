"""The demo and the benchmarks: their parts on hand-made cases, and, as a long test, the demo's model end to end."""

import pickle
import zipfile

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from benchmarks.tasks import best_path, edit_distance, images, split
from benchmarks.wordpiece import WordPiece
from calibrant.api import export_graph, quantize
from demo import data, efficientnet_lite0, measure
from demo.checkpoint import load_checkpoint
from demo.convnet import ConvNet
from tests.runtime import opened


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_checkpoint(path, pickled):
    """A zipped checkpoint with that pickle, and the storage 0 of the floats 0 to 5."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/data/0", np.arange(6, dtype=np.float32).tobytes())
    return path


def test_a_checkpoint_cannot_run_code(tmp_path):
    path = write_checkpoint(tmp_path / "evil.pth", pickle.dumps({"w": Call(eval, "1 + 1")}))
    with pytest.raises(pickle.UnpicklingError, match="asks for builtins"):
        load_checkpoint(path)


def tensor_pickle(offset, shape, strides):
    """The pickle of {"w": a float tensor of storage 0}, as PyTorch writes it."""
    numbers = [b"(%bt" % b"".join(b"K%c" % n for n in part) for part in (shape, strides)]
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\6tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(%bK%c%b\x89}tR" % (storage, offset, b"".join(numbers))
    return b"\x80\2}X\1\0\0\0w%bs." % tensor


def test_tensors_are_read_with_their_strides(tmp_path):
    path = write_checkpoint(tmp_path / "w.pth", tensor_pickle(1, (2, 2), (1, 2)))
    np.testing.assert_array_equal(load_checkpoint(path)["w"], [[1, 3], [2, 4]])


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    path = write_checkpoint(tmp_path / "w.pth", tensor_pickle(2, (2, 2), (1, 3)))
    with pytest.raises(ValueError, match="ends at 6"):
        load_checkpoint(path)


def test_folding_gives_what_batch_normalization_gives(tmp_path):
    rng = np.random.default_rng(0)
    weights = {"conv.weight": rng.normal(size=(4, 3, 1, 1)), "fc.weight": np.eye(4), "fc.bias": np.zeros(4)}
    weights |= {f"bn.{part}": rng.uniform(0.5, 2, 4) for part in ("weight", "bias", "running_mean", "running_var")}
    net = ConvNet({name: value.astype(np.float32) for name, value in weights.items()}, epsilon=1e-3)
    net.save(tmp_path / "net.onnx", net.classifier(net.conv("input", "conv", "bn"), "fc"), size=1, classes=4)
    x = rng.normal(size=(1, 3, 1, 1)).astype(np.float32)
    found = ort.InferenceSession(tmp_path / "net.onnx").run(None, {"input": x})[0][0]
    plain = weights["conv.weight"][:, :, 0, 0] @ x[0, :, 0, 0] - weights["bn.running_mean"]
    wanted = plain / np.sqrt(weights["bn.running_var"] + 1e-3) * weights["bn.weight"] + weights["bn.bias"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [(224, 3, 2, (0, 0, 1, 1)), (112, 3, 1, (1, 1, 1, 1)), (112, 5, 2, (1, 1, 2, 2)), (7, 5, 2, (2, 2, 2, 2))],
)
def test_same_padding(size, kernel, stride, pads):
    assert efficientnet_lite0.same_padding(size, kernel, stride) == pads


def test_sqnr_and_agreement():
    signal = np.array([[3.0, 4.0], [0.0, 5.0]])
    assert measure.sqnr_db(signal, signal) == np.inf
    assert measure.sqnr_db(signal, signal * 1.1) == pytest.approx(20)
    assert measure.agreement(signal, signal[:, ::-1]) == 0
    assert measure.agreement(signal, signal + np.array([[9, 0], [0, 0]])) == 0.5


def test_an_input_is_centred_and_normalized():
    photo = Image.new("RGB", (512, 256), (255, 127, 0))
    x = data.prepare(photo)
    assert (x.shape, x.dtype) == ((1, 3, 224, 224), np.float32)
    np.testing.assert_allclose(x[0, :, 0, 0], [1, 0, -127 / 128])


@pytest.mark.parametrize(("a", "b", "edits"), [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)])
def test_edit_distance(a, b, edits):
    assert edit_distance(a, b) == edit_distance(b, a) == edits


def test_best_path_joins_repeats_and_drops_blanks():
    steps = np.eye(3)[[1, 1, 0, 1, 2, 2]]
    assert best_path(steps, ["", "a", "b"]) == "aab"


def test_wordpiece(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "cafe", ",", "漢"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    words = WordPiece(tmp_path / "vocab.txt")
    found = words.inputs("Unaffable, Café 漢xyz\ufffd", 10)
    assert found["input_ids"][0].tolist() == [2, 4, 5, 6, 8, 7, 9, 1, 3, 0]
    assert found["attention_mask"][0].tolist() == [1] * 9 + [0]
    assert words.inputs("un " * 99, 5)["input_ids"][0].tolist() == [2, 4, 4, 4, 3]


def test_a_split_shares_nothing():
    calibration, measuring = split(range(50), 20)
    assert len(calibration) == 20
    assert sorted(calibration + measuring) == list(range(50))
    assert len(split(range(10), 64)[0]) == 5


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        images(tmp_path)


@pytest.mark.long
def test_the_demo_model_end_to_end(tmp_path):
    float_model, int8_model = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    try:
        checkpoint = efficientnet_lite0.installed_checkpoint()
        photos, labelled = data.calibration_photos(), data.labelled_photos()
    except ModuleNotFoundError as missing:
        pytest.skip(f"{missing}; `make test-all` installs it")
    efficientnet_lite0.build(checkpoint, float_model)
    assert not {path.name for path in photos} & {photo.path.name for photo in labelled}
    graph, summary = quantize(float_model, data.calibration_samples(photos))
    assert not summary.left_in_float
    export_graph(graph, "ONNXRUNTIME", int8_model)
    inputs = data.measuring_samples(labelled)
    sessions = [measure.session(float_model, 2), opened(int8_model), measure.session(int8_model, 2, optimized=False)]
    exact, integer, simulated = (run.outputs for run in measure.run_in_turn(sessions, inputs, rounds=0))
    right = np.mean([int(best) in photo.classes for best, photo in zip(exact.argmax(-1), labelled, strict=True)])
    assert right >= 0.85
    assert measure.sqnr_db(exact, integer) >= 16
    assert measure.agreement(exact, integer) >= 0.9
    assert measure.sqnr_db(simulated, integer) >= measure.sqnr_db(exact, integer) + 8
    assert int8_model.stat().st_size < 0.3 * float_model.stat().st_size
