"""Every form a loader may have, and every way in which a sample may be wrong."""

import itertools

import numpy as np
import pytest

from calibrant.core import DataError, SettingError
from calibrant.engines import InputSpec, iterate_samples

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
IMAGE = [InputSpec("image", F32, ("N", 3, None, 4))]
TEXT = [InputSpec("ids", I64, ("N", "L")), InputSpec("weights", F32, ("N", "L"))]
X = np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4)
IDS, WEIGHTS = np.array([[1, 2]]), np.array([[0.5, 1.5]], np.float32)


class FakeTorchTensor:
    """What torch's tensors have and we use; on a device, so that `numpy` needs `cpu` first."""

    def __init__(self, array, dtype="torch.float32", device="cuda"):
        self.array, self.dtype, self.device = array, dtype, device

    def detach(self):
        return self

    def cpu(self):
        return FakeTorchTensor(self.array, self.dtype, "cpu")

    def float(self):
        return FakeTorchTensor(self.array.astype(np.float32), "torch.float32", self.device)

    def numpy(self):
        if self.device != "cpu" or "bfloat16" in self.dtype:
            raise TypeError("can't convert")
        return self.array


class Reader:
    """onnxruntime's CalibrationDataReader."""

    def __init__(self, samples):
        self.samples = iter(samples)

    def get_next(self):
        return next(self.samples, None)


class Loader:
    """As torch's DataLoader over a TensorDataset: no length, a list for every item."""

    def __iter__(self):
        for i in range(3):
            yield [FakeTorchTensor(X + i)]


@pytest.mark.parametrize(
    "loader",
    [
        [X, X + 1, X + 2],
        (x for x in (X, X + 1, X + 2)),
        [(X,), [X + 1], {"image": X + 2}],
        [FakeTorchTensor(X), {"image": FakeTorchTensor(X + 1)}, (FakeTorchTensor(X + 2),)],
        Loader(),
        Reader([{"image": X}, {"image": X + 1}, {"image": X + 2}]),
        Reader([X, X + 1, X + 2]),
        np.stack([X, X + 1, X + 2]),
        [X.astype(np.float64), (X + 1).astype(np.float16), X + 2],
        [X.astype(">f4"), np.asfortranarray(X + 1), (X + 2)[:, :, ::-1][:, :, ::-1]],
        [FakeTorchTensor(X, "torch.bfloat16"), X + 1, X + 2],
    ],
)
def test_forms(loader):
    found = list(iterate_samples(loader, IMAGE))
    assert len(found) == 3
    for i, feed in enumerate(found):
        assert list(feed) == ["image"]
        assert feed["image"].dtype == F32
        assert feed["image"].flags.c_contiguous
        np.testing.assert_array_equal(feed["image"], X + i)


def test_several_inputs_in_order_or_by_name():
    by_order, by_name = iterate_samples([(IDS, WEIGHTS), {"weights": WEIGHTS, "ids": IDS}], TEXT)
    for feed in (by_order, by_name):
        assert feed["ids"].dtype == I64
        np.testing.assert_array_equal(feed["ids"], IDS)
        np.testing.assert_array_equal(feed["weights"], WEIGHTS)


def test_scalar_and_string_inputs_keep_their_rank():
    specs = [InputSpec("rate", F32, ()), InputSpec("text", np.dtype(object), (None,))]
    (feed,) = iterate_samples([{"rate": np.float32(2), "text": ["a", "b"]}], specs)
    assert feed["rate"].shape == ()
    assert feed["text"].tolist() == ["a", "b"]
    assert feed["text"].dtype == object


def test_unknown_rank_takes_any():
    feeds = list(iterate_samples([X, X[0]], [InputSpec("x", F32, None)]))
    assert [f["x"].ndim for f in feeds] == [4, 3]


def test_steps_are_a_limit_and_never_cycle():
    pulled = itertools.count()
    endless = (X + next(pulled) * 0 for _ in range(1000))
    assert len(list(iterate_samples(endless, IMAGE, 4))) == 4
    assert next(pulled) == 4  # the fifth was not even asked for
    assert len(list(iterate_samples([X, X], IMAGE, 5))) == 2


def test_collate_fn_makes_the_sample():
    loader = [(X, "label"), (X + 1, "label")]
    feeds = list(iterate_samples(loader, IMAGE, collate_fn=lambda item: item[0]))
    np.testing.assert_array_equal(feeds[1]["image"], X + 1)


def test_an_input_of_length_zero_beside_others_is_fine():
    (feed,) = iterate_samples([(IDS, np.zeros((1, 0), np.float32))], TEXT)
    assert feed["weights"].shape == (1, 0)


def bad(x, where, value):
    x = x.copy()
    x.flat[where] = value
    return x


@pytest.mark.parametrize(
    ("loader", "inputs", "words"),
    [
        ([], IMAGE, ["no samples", "new one"]),
        (iter([]), IMAGE, ["no samples"]),
        (None, IMAGE, ["iterable", "NoneType"]),
        ("photos/", IMAGE, ["iterable", "str", "np.load(path) for path in Path('photos/')"]),
        ({"image": X}, IMAGE, ["the loader is a dict", "list"]),
        ([X, None], IMAGE, ["sample 2 is None", "'image': float32[N, 3, ?, 4]"]),
        ([X, X[0]], IMAGE, ["sample 2, input 'image'", "rank 3", "(3, 2, 4)", "float32[N, 3, ?, 4]", "x[None]"]),
        ([X[:, :2]], IMAGE, ["sample 1, input 'image'", "got 2 on axis 1", "float32[N, 3, ?, 4]"]),
        ([X.transpose(0, 2, 3, 1)], IMAGE, ["got 2 on axis 1", "its channels come last: give x.transpose(0, 3, 1, 2)"]),
        ([X.astype(np.uint8)], IMAGE, ["got uint8, expected float32", "scaling"]),
        ([X[:0]], IMAGE, ["sample 1 is empty", "(0, 3, 2, 4)"]),
        ([bad(X, [3, 5, 7], np.nan)], IMAGE, ["sample 1, input 'image'", "3 of 24", "3 NaN, 0 Inf"]),
        ([X, bad(X, 3, -np.inf)], IMAGE, ["sample 2", "1 of 24", "0 NaN, 1 Inf"]),
        ([{"imgae": X}], IMAGE, ["unknown input 'imgae'; did you mean 'image'?"]),
        ([{"image": X, "label": X}], IMAGE, ["unknown input 'label'", "the model's inputs: image"]),
        ([{}], IMAGE, ["sample 1 lacks input 'image': float32[N, 3, ?, 4]", "it has nothing"]),
        ([{"ids": IDS}], TEXT, ["sample 1 lacks input 'weights': float32[N, L]", "it has ids"]),
        ([(X, 3)], IMAGE, ["2 array(s), the model 1 input(s)", "collate_fn", "labels"]),
        ([IDS], TEXT, ["1 array(s), the model 2 input(s)", "'ids': int64[N, L]"]),
        ([(IDS.astype(np.int32), WEIGHTS)], TEXT, ["input 'ids': got int32, expected int64"]),
        ([(IDS * 1.0, WEIGHTS)], TEXT, ["input 'ids': got float64, expected int64"]),
        ([[[[1.0], [1.0, 2.0]]]], IMAGE, ["sample 1, input 'image': not an array"]),
        ([{"image": object()}], IMAGE, ["expected an array, got object"]),
    ],
)
def test_refused(loader, inputs, words):
    with pytest.raises(DataError) as caught:
        list(iterate_samples(loader, inputs))
    for word in words:
        assert word in str(caught.value)


def test_what_overflows_when_cast_is_refused():
    with pytest.raises(DataError, match=r"cast to float16: 1 of 2 values are not finite"):
        list(iterate_samples([np.array([1.0, 1e6])], [InputSpec("x", np.dtype(np.float16), (None,))]))


@pytest.mark.parametrize("steps", [0, -1, 2.0, "2"])
def test_steps_start_at_one(steps):
    with pytest.raises(SettingError, match=f"a whole number of at least 1, got {steps!r}"):
        list(iterate_samples([X], IMAGE, steps))


def test_errors_of_the_loader_come_through():
    def broken():
        yield X
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        list(iterate_samples(broken(), IMAGE))
