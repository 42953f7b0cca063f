"""The file around a table: the same bytes for the same content, and a reason for every file that is none."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from calibrant import CalibrationTable
from calibrant.core import DataError, ExportError
from calibrant.sketches import Halves, SketchSpec, TensorSketch
from calibrant.table.container import read, write, write_to

HEADER = {"b": 1, "a": [None, "é\0\U0001f600"]}
ARRAYS = {"one": np.arange(5, dtype=np.uint8), "none": np.zeros(0, np.float32), "é\0": np.int32([-1])}


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "t", HEADER, ARRAYS)
    header, arrays = read(tmp_path / "t")
    assert header == HEADER | {"schema": 1}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    write(tmp_path / "one", HEADER, ARRAYS)
    write(tmp_path / "other", dict(reversed(HEADER.items())), dict(reversed(ARRAYS.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    write(tmp_path / "t", HEADER, ARRAYS)
    before = (tmp_path / "t").read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        write(tmp_path / "t", {"a": np.int64(1)}, ARRAYS)
    assert (tmp_path / "t").read_bytes() == before
    with pytest.raises(ExportError, match="it is a folder"):
        write(tmp_path, HEADER, ARRAYS)
    with pytest.raises(ExportError, match="does not exist; create it first"):
        write(tmp_path / "nowhere" / "t", HEADER, ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("change", ["one more", "renamed", "as another dtype", "in the header"])
def test_the_digest_is_of_everything(tmp_path, change):
    write(tmp_path / "t", HEADER, ARRAYS)
    arrays, metadata = dict(ARRAYS), metadata_of(tmp_path / "t")
    if change == "one more":
        arrays["more"] = arrays["none"]
    elif change == "renamed":
        arrays["two"] = arrays.pop("one")
    elif change == "as another dtype":
        arrays["one"] = arrays["one"].astype(np.uint16)
    else:
        metadata["calibrant"] = metadata["calibrant"].replace('"b": 1', '"b": 2')
    save_file(arrays, tmp_path / "changed", metadata)
    with pytest.raises(DataError, match="changed: it is damaged: its content is not what was written"):
        read(tmp_path / "changed")


def metadata_of(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (2, "its schema is 2, and this version of calibrant reads 1: take the version that wrote it, or a newer one"),
        (0, "its schema is 0"),
        (True, "no schema number"),
        (1.0, "no schema number"),
        (None, "no schema number"),
    ],
)
def test_another_schema(tmp_path, schema, reason):
    write_to(tmp_path / "t", {"schema": schema}, {})
    with pytest.raises(DataError, match=f"t: {reason}|t: .*{reason}"):
        read(tmp_path / "t")


DTYPES = [("BF16", 2), ("F8_E4M3", 1), ("F8_E8M0", 1), ("F4", 0.5), ("C64", 8), ("BOOL", 1), ("F16", 2), ("I64", 8)]


@pytest.mark.parametrize(("dtype", "size"), DTYPES)
def test_dtypes_that_no_table_has(tmp_path, dtype, size):
    bytes_of_8 = int(8 * size)
    entry = {"dtype": dtype, "shape": [8], "data_offsets": [0, bytes_of_8]}
    (tmp_path / "t").write_bytes(safetensors_of({"a": entry}, bytes(bytes_of_8)))
    with pytest.raises(DataError, match=f"t: array 'a' is {dtype} of rank 1"):
        read(tmp_path / "t")


@pytest.mark.parametrize("shape", [[], [1, 8], [0, 2**62], [1] * 100])
def test_ranks_that_no_table_has(tmp_path, shape):
    size = int(np.prod(shape, dtype=object))
    entry = {"dtype": "U8", "shape": shape, "data_offsets": [0, size]}
    (tmp_path / "t").write_bytes(safetensors_of({"a": entry}, bytes(size)))
    with pytest.raises(DataError, match=f"t: array 'a' is U8 of rank {len(shape)}"):
        read(tmp_path / "t")


def safetensors_of(header, data=b"", calibrant='0 {"schema": 1}'):
    """A file with that header (as JSON, or as it is), all by hand."""
    if not isinstance(header, bytes):
        header = json.dumps({"__metadata__": {"calibrant": calibrant}} | header).encode()
    return len(header).to_bytes(8, "little") + header + data


def array(length, end, dtype="U8", start=0):
    return {"dtype": dtype, "shape": [length], "data_offsets": [start, end]}


def entries(count):
    """So many arrays of one byte each."""
    return ",".join(f'"{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{i + 1}]}}' for i in range(count))


NASTY = {  # name of the file: its content, and why it is refused
    "empty": (lambda: b"", "header too small"),
    "short": (lambda: b"\1\2", "header too small"),
    "text": (lambda: b"calibration table\n" * 99, "header too large"),
    "pickle": (lambda: pickle.dumps({"a": print}), "header"),
    "giant header": (lambda: (1 << 63).to_bytes(8, "little") + b"{}", "header too large"),
    "header beyond the file": (lambda: (10**6).to_bytes(8, "little") + b"{}", "invalid header length|too large"),
    "nested header": (lambda: safetensors_of(b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}"), "recursion limit"),
    "nested text": (lambda: safetensors_of({}, b"", "0 " + "[" * 10**6 + "]" * 10**6), "recursion"),
    "no json": (lambda: safetensors_of({}, b"", "0 {"), "Expecting property name"),
    "no text": (lambda: safetensors_of({}, b"", ""), "Expecting value"),
    "endless number": (lambda: safetensors_of({}, b"", "0 " + "9" * 10**6), "integer string conversion"),
    "of another program": (lambda: safetensors_of(b'{"__metadata__":{"format":"pt"}}'), "calibrant did not write it"),
    "without metadata": (lambda: safetensors_of(b"{}"), "calibrant did not write it"),
    "a number for metadata": (lambda: safetensors_of(b'{"__metadata__":{"calibrant":3}}'), "expected a string"),
    "metadata twice": (lambda: safetensors_of(b'{"__metadata__":{},"__metadata__":{}}'), "duplicate field"),
    "a lone surrogate": (lambda: safetensors_of(b'{"\\ud800":' + b"0}"), "hex escape"),
    "an array twice": (lambda: safetensors_of(b"{%s,%s}" % (b'"a":1', b'"a":1')), "invalid type"),
    "giant array": (lambda: safetensors_of({"a": array(1 << 40, 1 << 40)}), "invalid|incomplete"),
    "overflow": (lambda: safetensors_of({"a": array(1 << 61, 8, "U64")}, bytes(8)), "[Oo]verflow|invalid"),
    "two on one place": (lambda: safetensors_of({"a": array(8, 8), "b": array(8, 8)}, bytes(8)), "invalid offset"),
    "a hole": (lambda: safetensors_of({"a": array(1, 2, start=1)}, bytes(2)), "invalid offset"),
    "a tail": (lambda: safetensors_of({"a": array(1, 1)}, bytes(9)), "not entirely covered|incomplete"),
    "many arrays": (lambda: safetensors_of(b"{%s}" % entries(20_000).encode(), bytes(20_000)), "did not write it"),
    "many arrays of ours": (
        lambda: safetensors_of(
            b'{"__metadata__":{"calibrant":"0 {\\"schema\\":1}"},%s}' % entries(20_000).encode(), bytes(20_000)
        ),
        "its content is not what was written",
    ),
    "a large array": (lambda: safetensors_of({"a": array(1 << 24, 1 << 24)}, bytes(1 << 24)), "not what was written"),
    "a long name": (lambda: safetensors_of({"a" * 10**6: array(1, 1, "BF16")}, bytes(2)), "invalid|BF16"),
    **{
        f"a bomb of {what}": (lambda one=one: safetensors_of({}, b"", f"0 [{','.join([one] * 200_000)}]"), "no schema")
        for what, one in {"lists": "[]", "dicts": '{"":0}', "emoji": '"\U0001f600"', "floats": "0.1"}.items()
    },
}

MEASURED = """
import json, os, resource, signal, sys
from calibrant import CalibrationTable
from calibrant.core import DataError

folder, good = sys.argv[1:]
CalibrationTable.load(good)  # what is imported late is there now

def memory(which):
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(which))

def measure(path, out):
    signal.alarm(30)  # a hang ends here
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = memory("VmRSS")
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + (6 << 30),) * 2)
    try:
        CalibrationTable.load(path)
        said = ""
    except DataError as error:
        said = str(error)
    os.write(out, json.dumps([said, memory("VmHWM") - before]).encode())

for name in sorted(os.listdir(folder)):
    for_reading, for_writing = os.pipe()
    child = os.fork()
    if not child:
        measure(os.path.join(folder, name), for_writing)
        os._exit(0)
    os.close(for_writing)
    _, status = os.waitpid(child, 0)
    said = os.read(for_reading, 1 << 16).decode()
    os.close(for_reading)
    print(json.dumps([name, status, json.loads(said) if said else None]), flush=True)
"""


def measured(folder, good):
    """By name of each file in the folder: what the DataError said, or "", and the peak of memory that loading took."""
    command = [sys.executable, "-W", "ignore", "-c", MEASURED, str(folder), str(good)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        name, status, result = json.loads(line)
        assert status == 0, (name, status, done.stderr)
        found[name] = result
    return found


def bound(size):
    """What the docstring of `CalibrationTable.load` promises."""
    return 64_000_000 + 64 * size


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="measures memory as Linux does")
def test_nasty_files_are_refused_and_take_little_memory(tmp_path, real_file):
    folder = tmp_path / "nasty"
    folder.mkdir()
    for name, (content, _) in NASTY.items():
        (folder / name).write_bytes(content())
    reasons = {name: reason for name, (_, reason) in NASTY.items()}
    (folder / "sparse").touch()
    os.truncate(folder / "sparse", 5 << 30)
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "endless").symlink_to("/dev/zero")
    (folder / "nowhere").symlink_to("not there")
    (folder / "itself").symlink_to("itself")
    reasons |= {"sparse": "it has 5368709120 bytes, a calibration table at most 4294967296", "fifo": "is not a file"}
    reasons |= {"folder": "is not a file", "endless": "is not a file", "nowhere": "no such file", "itself": "no such"}
    found = measured(folder, real_file)
    assert found.keys() == reasons.keys()
    for name, (said, peak) in found.items():
        assert said.startswith(str(folder / name)), name
        check_says(said, reasons[name])
        assert len(said) < len(str(folder)) + 500, name
        size = (folder / name).stat().st_size if (folder / name).is_file() and name != "sparse" else 0
        assert peak < bound(size), (name, peak, size)


def check_says(said, reason):
    with pytest.raises(DataError, match=reason):
        raise DataError(said)


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="measures memory as Linux does")
def test_tables_take_the_memory_that_is_stated(tmp_path, real_file, varied_file):
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "real").symlink_to(real_file)
    (folder / "varied").symlink_to(varied_file)
    table_of(many_values()).save(folder / "many values")
    table_of({"x": every_bin()}).save(folder / "every bin")
    for name, (said, peak) in measured(folder, real_file).items():
        assert said == ""
        assert peak < bound((folder / name).stat().st_size), (name, peak)


def table_of(sketches):
    empty = {name: TensorSketch.empty(sketch.spec) for name, sketch in sketches.items()}
    return CalibrationTable(Halves(sketches, empty), "f", 1, "hand", {})


def many_values():
    """Where the header is nearly all of the file."""
    spec = SketchSpec(channel_axis=0, per_channel=True, isotone_axis=-1)
    return dict.fromkeys(map(str, range(400)), TensorSketch.of(np.float32([[1, 2], [3, 4]]), spec))


def every_bin():
    """Where the arrays are: a value in each of many fine bins."""
    bits = np.arange(255 << 10, dtype=np.int32) << 13
    return TensorSketch.of(np.concatenate([bits.view("f4"), -bits[1:].view("f4")]), SketchSpec(mantissa_bits=10))


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "no/such/folder", ""])
def test_paths_that_are_none(tmp_path, name):
    with pytest.raises(DataError, match=r"no such file|is not a file"):
        CalibrationTable.load(f"{tmp_path}/{name}")


def test_a_header_with_half_a_character_is_refused(tmp_path):
    write(tmp_path / "half", HEADER | {"engine": "\ud800"}, {})
    with pytest.raises(DataError, match=r"half is not a calibration table, or is damaged: .*\\ud800.* surrogates"):
        read(tmp_path / "half")
