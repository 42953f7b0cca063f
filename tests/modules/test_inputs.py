"""What a module is traced with."""

import numpy as np
import pytest

from calibrant.core import DataError, ModelError, SettingError
from calibrant.modules import example_of

torch = pytest.importorskip("torch", reason="the extra calibrant[torch] is not installed")
from torch import nn  # noqa: E402


class Two(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.fc = nn.Linear(4, 2, dtype=dtype)

    def forward(self, image, mask=None, *, gain=1.0):
        return self.fc(image) * gain


def values(example):
    return dict(example.arguments.arguments)


X = torch.ones(3, 4)


@pytest.mark.parametrize("inputs", [X, (X,), [X], {"image": X}, X.numpy()])
def test_every_form_of_one_input(inputs):
    example, _ = example_of(Two(), inputs)
    assert torch.equal(values(example)["image"], X)
    assert example.batch == 3


def test_several_inputs_by_position_and_by_name():
    example, _ = example_of(Two(), (X, X[:, :1]))
    assert list(values(example)) == ["image", "mask"]
    example, _ = example_of(Two(), {"gain": X[:, :1], "image": X})
    assert (len(example.arguments.args), list(example.arguments.kwargs)) == (1, ["gain"])
    example, _ = example_of(Two(), {"image": X, "gain": 2.5})
    assert values(example)["gain"] == 2.5  # a constant of the model


def test_a_shape_makes_zeros_of_the_module_s_dtype_or_the_one_asked_for():
    (image,) = values(example_of(Two(torch.float16), shape=[2, 4])[0]).values()
    assert (tuple(image.shape), image.dtype, image.any()) == ((2, 4), torch.float16, False)
    for dtype in (torch.int64, np.int64, np.dtype("int64"), "int64", "torch.int64"):
        assert values(example_of(Two(), shape=(2, 4), dtype=dtype)[0])["image"].dtype == torch.int64
    both = values(example_of(Two(), shape=[[2, 4], [2, 1]])[0])
    assert [tuple(tensor.shape) for tensor in both.values()] == [(2, 4), (2, 1)]


@pytest.mark.parametrize("make", [list, iter, lambda items: (item for item in items)])
def test_without_both_the_first_sample_serves_and_is_not_lost(make):
    samples = [{"image": X * k, "label": k} for k in range(3)]

    def without_label(item):
        item.pop("label")  # an error if it is done twice
        return item

    example, loader = example_of(Two(), loader=make(samples), collate_fn=without_label)
    assert torch.equal(values(example)["image"], X * 0)
    assert [float(sample["image"].max() / X.max()) for sample in loader] == [0, 1, 2]


def test_a_loader_that_is_not_needed_is_not_touched():
    def never():
        raise AssertionError
        yield

    loader = never()
    assert example_of(Two(), X, loader=loader)[1] is loader
    example_of(Two(), X, loader=loader, collate_fn=lambda item: item)


def test_a_batch_of_one_becomes_two_in_every_tensor_that_has_it():
    nested = {"image": X[:1], "mask": [X[:1], {"k": X, "n": 7}], "gain": torch.tensor(2.0)}
    two = example_of(Two(), nested)[0].of_two()
    assert tuple(values(two)["image"].shape) == (2, 4)
    assert tuple(values(two)["mask"][0].shape) == (2, 4)
    assert tuple(values(two)["mask"][1]["k"].shape) == (3, 4)
    assert values(two)["mask"][1]["n"] == 7
    assert values(two)["gain"].ndim == 0
    assert two.batch == 2
    three = example_of(Two(), X)[0]
    assert three.of_two() is three


@pytest.mark.parametrize("number", [torch.tensor(1.0), np.float32(1), np.array(1.0)])
def test_numbers_without_axes_have_no_batch(number):
    example = example_of(Two(), number)[0]
    assert example.batch is None
    assert values(example)["image"].ndim == 0


def test_arrays_of_any_byte_order_and_such_as_can_only_be_read():
    array = np.arange(12).reshape(3, 4).astype(">f4")[::-1]
    array.flags.writeable = False
    found = values(example_of(Two(), array)[0])["image"]
    assert found.tolist() == array.tolist()


def test_gradients_are_left_behind():
    assert not values(example_of(Two(), X.clone().requires_grad_())[0])["image"].requires_grad


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inputs": (X, X, X, X)}, DataError, r"inputs does not fit the module: .*; Two.forward takes \(image"),
        ({"inputs": {"imag": X}}, DataError, "inputs does not fit the module"),
        ({"loader": [(X, 1, 2, 3)]}, DataError, "the first sample does not fit .* let collate_fn drop"),
        ({"inputs": (3,)}, DataError, "no tensor in it; Two.forward takes"),
        ({"inputs": X[:0]}, DataError, r"empty tensor in it: \(0, 4\)"),
        ({"loader": []}, DataError, "nothing to trace the module with"),
        ({"loader": None}, DataError, "nothing to trace the module with"),
        ({"loader": 3}, DataError, "loader must be an iterable"),
        ({"loader": [np.array(["cat"])]}, DataError, "the first sample has an array of <U3"),
        ({"shape": [1, -1]}, SettingError, r"input_shape takes whole numbers from 1.*got \[1, -1\]"),
        ({"shape": [1, 2.5]}, SettingError, "input_shape takes whole numbers"),
        ({"shape": 4}, SettingError, "input_shape takes whole numbers .* got 4"),
        ({"shape": np.array([1, 4])}, SettingError, "input_shape takes whole numbers"),
        ({"shape": [1, 4], "dtype": "flot"}, SettingError, "input_dtype 'flot' is no dtype of torch"),
        ({"shape": [1, 4], "dtype": [torch.float32]}, SettingError, r"input_dtype \[torch.float32\] is no dtype"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        example_of(Two(), **arguments)


@pytest.mark.parametrize("model", [None, "model.pt", Two])
def test_only_modules_are_taken(model):
    with pytest.raises(ModelError, match=r"expected a torch\.nn\.Module, got"):
        example_of(model, X)
