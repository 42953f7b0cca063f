"""Parquet files as samples: a row per sample, a column per input."""

import numpy as np
import pytest

from calibrant.core import DataError
from calibrant.data import open_samples
from calibrant.engines.samples import InputSpec

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

X = InputSpec("x", np.dtype(np.float32), ("N", 2, 3))
IDS = InputSpec("ids", np.dtype(np.int64), ("N", "T"))
SHARE = InputSpec("share", np.dtype(np.float32), ("N",))


def ramp(count):
    return np.arange(count * 6, dtype=np.float32).reshape(count, 2, 3)


def write(path, columns, rows_in_a_group=2):
    parquet.write_table(pa.table(columns), path, row_group_size=rows_in_a_group)
    return path


def values(path, inputs, **options):
    """All samples, as one array per input."""
    samples = list(open_samples(path, inputs, **options))
    return {i.name: np.concatenate([s[i.name] for s in samples]) for i in inputs}


CELLS = {
    "flat lists": lambda x: pa.array([row.ravel().tolist() for row in x], pa.list_(pa.float32())),
    "lists of lists": lambda x: pa.array([row.tolist() for row in x], pa.list_(pa.list_(pa.float32()))),
    "doubles": lambda x: pa.array([row.ravel().tolist() for row in x], pa.list_(pa.float64())),
    "lists of a fixed size": lambda x: pa.array([row.ravel().tolist() for row in x], pa.list_(pa.float32(), 6)),
    "tensors": pa.FixedShapeTensorArray.from_numpy_ndarray,
}


@pytest.mark.parametrize("cells", CELLS)
def test_a_row_is_a_sample_however_its_cells_are_written(tmp_path, cells):
    write(tmp_path / "a.parquet", {"x": CELLS[cells](ramp(5))})
    np.testing.assert_array_equal(values(tmp_path / "a.parquet", [X])["x"], ramp(5))


def test_a_column_for_each_input_and_others_are_not_read(tmp_path):
    ids = [[1, 2, 3], [4, 5, 6]]
    path = write(
        tmp_path / "a.parquet",
        {
            "label": pa.array(["a cat", "a dog"]),
            "ids": pa.array(ids, pa.list_(pa.int32())),
            "share": pa.array([0.5, 0.25]),
            "x": CELLS["flat lists"](ramp(2)),
        },
    )
    got = values(path, [X, IDS, SHARE])
    np.testing.assert_array_equal(got["x"], ramp(2))
    np.testing.assert_array_equal(got["ids"], ids)
    assert got["ids"].dtype == np.int64
    np.testing.assert_array_equal(got["share"], np.array([0.5, 0.25], np.float32))


def test_a_single_column_fills_a_single_input_whatever_its_name(tmp_path):
    path = write(tmp_path / "a.parquet", {"pixels": CELLS["flat lists"](ramp(3))})
    np.testing.assert_array_equal(values(path, [X])["x"], ramp(3))


def test_the_rows_of_a_folder_are_taken_in_the_order_of_its_files(tmp_path):
    for name, rows in (("b", ramp(7)[4:]), ("a", ramp(7)[:4])):
        write(tmp_path / f"{name}.parquet", {"x": CELLS["flat lists"](rows)})
    np.testing.assert_array_equal(values(tmp_path, [X], batch_size=3)["x"], ramp(7))
    few = open_samples(tmp_path, [X], samples=4)
    assert [float(s["x"][0, 0, 0]) / 6 for s in few] == [0, 1, 3, 5]
    assert few.notes == ["a row per sample, in 2 Parquet files"]


def test_a_file_without_rows_gives_no_samples(tmp_path):
    write(tmp_path / "a.parquet", {"x": CELLS["flat lists"](ramp(0))})
    with pytest.raises(DataError, match="holds no samples"):
        open_samples(tmp_path / "a.parquet", [X])


BROKEN = {
    "no Parquet": (lambda path: path.write_bytes(b"PAR1 no more"), "cannot be read as Parquet"),
    "another column": (
        lambda path: write(path, {"y": CELLS["doubles"](ramp(2)), "z": pa.array([1, 2])}),
        r"row 0 of '.*a\.parquet' has no column 'x'",
    ),
    "too few numbers": (
        lambda path: write(path, {"x": pa.array([[1.0, 2.0]])}),
        "row 0 of .*input 'x': it does not fit",
    ),
    "text": (lambda path: write(path, {"x": pa.array(["a", "b"])}), "row 0 of .*input 'x'"),
    "rows of unequal length": (lambda path: write(path, {"x": pa.array([[[1.0], [1.0, 2.0]]])}), "row 0 of .*'x'"),
    "nothing in a cell": (lambda path: write(path, {"x": pa.array([None], pa.list_(pa.float32()))}), "row 0 of .*'x'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_an_error_that_says_where(tmp_path, case):
    make, words = BROKEN[case]
    make(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=words):
        list(open_samples(tmp_path / "a.parquet", [X]))


def test_integers_that_do_not_fit_the_model_s_type_are_not_wrapped(tmp_path):
    small = InputSpec("ids", np.dtype(np.int32), ("N", "T"))
    path = write(tmp_path / "a.parquet", {"ids": pa.array([[1 << 40]], pa.list_(pa.int64()))})
    with pytest.raises(DataError, match=r"row 0 of '.*a.parquet', input 'ids': got int64, expected int32"):
        next(iter(open_samples(path, [small])))
