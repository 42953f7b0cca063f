""".npy and .npz files, folders of them, functions, and everything that is no sample."""

from pathlib import Path

import numpy as np
import pytest

from calibrant.core import DataError, SettingError
from calibrant.data import Preprocessing, open_samples
from calibrant.engines.samples import InputSpec


def input_spec(name, shape, dtype=np.float32):
    return InputSpec(name, np.dtype(dtype), None if shape is None else tuple(shape))


X = input_spec("x", ["N", 3, 4])
IDS = input_spec("ids", ["N", "T"], np.int64)
MASK = input_spec("mask:0", ["N", "T"], np.int64)


def ramp(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def shapes(samples):
    return [{n: x.shape for n, x in s.items()} for s in samples]


def test_one_file_stacks_samples(tmp_path):
    data = ramp(5, 3, 4)
    np.save(tmp_path / "a.npy", data)
    got = list(open_samples(tmp_path / "a.npy", [X]))
    np.testing.assert_array_equal(np.concatenate([s["x"] for s in got]), data)
    assert shapes(got) == [{"x": (1, 3, 4)}] * 5
    assert shapes(open_samples(tmp_path / "a.npy", [X], batch_size=2)) == [{"x": (n, 3, 4)} for n in (2, 2, 1)]


def test_how_many_lie_in_a_file_is_said_where_they_are_several(tmp_path):
    for count, notes in ((5, ["5 samples stacked along the first axis"]), (1, [])):
        np.save(tmp_path / "a.npy", ramp(count, 3, 4))
        assert open_samples(tmp_path / "a.npy", [X]).notes == notes
    assert open_samples(tmp_path, [X]).notes == ["a file per sample, or batch of them"]


STACKS = {
    "a dimension more counts samples": ((5, 2, 3, 4), ["N", 3, 4], [(2, 3, 4)] * 5),
    "a fixed batch groups rows": ((6, 3, 4), [2, 3, 4], [(2, 3, 4)] * 3),
    "a batch of one splits": ((2, 3, 4), [1, 3, 4], [(1, 3, 4)] * 2),
    "a dimension less is one sample": ((3, 4), ["N", 3, 4], [(1, 3, 4)]),
    "no rank known: as it is": ((3, 4), None, [(3, 4)]),
}


@pytest.mark.parametrize("case", STACKS)
def test_how_a_file_is_cut_into_samples(tmp_path, case):
    given, shape, expected = STACKS[case]
    np.save(tmp_path / "a.npy", ramp(*given))
    np.savez(tmp_path / "a.npz", x=ramp(*given))
    for name in ("a.npy", "a.npz"):
        got = [s["x"] for s in open_samples(tmp_path / name, [input_spec("x", shape)])]
        assert [x.shape for x in got] == expected
        np.testing.assert_array_equal(np.concatenate([x.ravel() for x in got]), ramp(*given).ravel())


def test_a_folder_holds_a_file_per_sample(tmp_path):
    np.save(tmp_path / "b.npy", ramp(1, 3, 4))
    np.save(tmp_path / "a.npy", ramp(3, 4))  # without its batch axis
    (tmp_path / "notes.txt").touch()
    samples = open_samples(tmp_path, [X])
    assert shapes(samples) == [{"x": (1, 3, 4)}, {"x": (1, 3, 4)}]
    assert "1 file of another kind ignored" in samples.notes


def test_npz_has_a_key_per_input(tmp_path):
    for i, length in enumerate([7, 9]):
        np.savez(tmp_path / f"{i}.npz", **{"ids": np.zeros((1, length), int), "mask:0": np.ones((1, length), int)})
    assert shapes(open_samples(tmp_path, [IDS, MASK])) == [{"ids": (1, n), "mask:0": (1, n)} for n in (7, 9)]


@pytest.mark.parametrize("form", ["files", "folders", "one npz"])
def test_other_forms_for_several_inputs(tmp_path, form):
    ids, mask = np.arange(12).reshape(4, 3), np.ones((4, 3), int)
    where = tmp_path
    if form == "files":
        np.save(tmp_path / "ids.npy", ids)
        np.save(tmp_path / "mask_0.npy", mask)
    elif form == "folders":
        for name, array in (("ids", ids), ("mask_0", mask)):
            (tmp_path / name).mkdir()
            for i in range(4):
                np.save(tmp_path / name / f"{i}.npy", array[i : i + 1])
    else:
        where = tmp_path / "all.npz"
        np.savez(where, **{"ids": ids, "mask:0": mask})
    got = list(open_samples(where, [IDS, MASK]))
    assert shapes(got) == [{"ids": (1, 3), "mask:0": (1, 3)}] * 4
    np.testing.assert_array_equal(np.concatenate([s["ids"] for s in got]), ids)


def test_scalars_serve_every_sample(tmp_path):
    np.savez(tmp_path / "a.npz", x=ramp(4, 3, 4), rate=np.float32(16000))
    got = list(open_samples(tmp_path / "a.npz", [X, input_spec("rate", [])], batch_size=4))
    assert shapes(got) == [{"x": (4, 3, 4), "rate": ()}]


REFUSED = {
    "a missing key": ({"ids": ramp(1, 3), "masks:0": ramp(1, 3)}, "no key 'mask:0'; rename 'masks:0'"),
    "different lengths": ({"ids": ramp(4, 3), "mask:0": ramp(5, 3)}, "ids 4, mask:0 5"),
    "wrong rank": ({"ids": ramp(1, 2, 3, 4), "mask:0": ramp(1, 3)}, r"'ids' takes 2 dimensions.*\[1, 2, 3, 4\]"),
    "no array": ({}, "its keys: none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_npz_that_does_not_fit(tmp_path, case):
    arrays, words = REFUSED[case]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=words):
        list(open_samples(tmp_path / "a.npz", [IDS, MASK]))


def test_no_whole_number_of_batches(tmp_path):
    np.save(tmp_path / "a.npy", ramp(5, 3, 4))
    with pytest.raises(DataError, match="batches of exactly 2, and 5 rows"):
        open_samples(tmp_path / "a.npy", [input_spec("x", [2, 3, 4])])


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"evil": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy.*Python objects"):
        open_samples(tmp_path / "a.npy", [X])


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04rubbish", b"\x93NUMPY\x01\x00"])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}' cannot be read"):
        list(open_samples(tmp_path / name, [X]))


def test_damaged_files_are_skipped_when_asked(tmp_path):
    np.save(tmp_path / "a.npy", ramp(1, 3, 4))
    (tmp_path / "b.npy").write_bytes(b"garbage")
    samples = open_samples(tmp_path, [X], skip_bad=True)
    assert len(list(samples)) == 1
    assert len(samples.skipped) == 1


def test_an_npy_fills_one_input(tmp_path):
    np.save(tmp_path / "a.npy", ramp(1, 3))
    for where in (tmp_path, tmp_path / "a.npy"):
        with pytest.raises(DataError, match="2 inputs"):
            open_samples(where, [IDS, MASK])


def test_folders_per_input_must_agree(tmp_path):
    for name, files in (("ids", ["a", "b"]), ("mask_0", ["a"])):
        (tmp_path / name).mkdir()
        for f in files:
            np.save(tmp_path / name / f"{f}.npy", ramp(1, 3))
    with pytest.raises(DataError, match=r"only one of them has 'b\.npy'"):
        open_samples(tmp_path, [IDS, MASK])


def test_images_and_arrays_in_one_folder(tmp_path):
    (tmp_path / "a.npy").touch()
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match="1 image and 1 array file"):
        open_samples(tmp_path, [X])


@pytest.mark.parametrize("data", ["photos", "photos/cats", "x.npy"])
def test_what_is_missing_gets_the_nearest_name(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fotos").mkdir()
    (tmp_path / "xx.npy").touch()
    near = "xx.npy" if data == "x.npy" else "fotos"
    with pytest.raises(DataError, match=f"'{data}' does not exist.*did you mean '{near}'"):
        open_samples(data, [X])


def test_folders_without_samples_say_so(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        open_samples(tmp_path, [X])
    (tmp_path / "class_a").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        open_samples(tmp_path, [X])
    (tmp_path / "class_a" / "1.jpg").touch()
    with pytest.raises(DataError, match="its folder 'class_a' does"):
        open_samples(tmp_path, [X])


def test_options_of_images_are_refused_elsewhere(tmp_path):
    np.save(tmp_path / "a.npy", ramp(1, 3, 4))
    with pytest.raises(SettingError, match="are for images"):
        open_samples(tmp_path, [X], preprocessing=Preprocessing(mean=(0.5,)))


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "calib.py").touch()
    with pytest.raises(DataError, match="--data calib:FUNCTION"):
        open_samples(tmp_path / "calib.py", [X])


CODE = """
import numpy as np
def good():
    for i in range(3): yield {"x": np.zeros((1, 3, 4), np.float32)}
class reader:
    def __init__(self): self.left = 2
    def get_next(self):
        self.left -= 1
        return np.zeros((1, 3, 4)) if self.left >= 0 else None
def bad():
    yield {"x": 0}
    raise ValueError("disk on fire")
def number(): return 3
def none(): return []
def fails(): return 1 / 0
constant = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    name = f"calib_{abs(hash(request.node.name))}"
    Path(f"{name}.py").write_text(CODE)
    return name


@pytest.mark.parametrize(("name", "length"), [("good", 3), ("reader", 2)])
def test_a_function_is_called_for_every_iteration(module, name, length):
    samples = open_samples(f"{module}:{name}", [X])
    assert [len(list(samples)) for _ in range(2)] == [length, length]
    assert samples.available is None


FAILURES = {
    "bad": r"raised, at sample 2, ValueError: disk on fire \(calib_\d+\.py, line 12\)",
    "fails": "raised ZeroDivisionError",
    "number": "must return something to iterate over .*got int",
    "none": "gave no samples",
    "constant": "is of type int, expected a function",
    "god": "did you mean 'good'",
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_a_function_does_wrong_is_said(module, name):
    with pytest.raises(DataError, match=FAILURES[name]):
        list(open_samples(f"{module}:{name}", [X]))


def test_a_module_that_is_missing_or_fails(module):
    with pytest.raises(DataError, match=f"did you mean '{module}'"):
        open_samples(f"{module}x:good", [X])
    Path(f"{module}_2.py").write_text("import no_such_package_of_ours")
    with pytest.raises(DataError, match=r"fails when imported: ModuleNotFoundError.*no_such_package_of_ours.*line 1"):
        open_samples(f"{module}_2:good", [X])
    with pytest.raises(DataError, match=f"write '{module}:good'"):
        open_samples(f"{module}.py:good", [X])


def test_options_that_a_function_has_no_use_for(module):
    with pytest.raises(SettingError, match="--batch-size"):
        open_samples(f"{module}:good", [X], batch_size=4)
