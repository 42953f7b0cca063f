"""Checkpoints: a run that is killed goes on, and ends with the bytes of a run never interrupted."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from calibrant import CalibrationTable, QuantizationSetting
from calibrant.api import calibrate
from calibrant.core import DataError, ExportError, IncompatibleSketches, SettingError
from calibrant.graph import load_onnx_graph
from calibrant.table.container import read, write

KILLED = """
import json, os, random, signal, sys, time
import numpy as np
from calibrant.api import calibrate

kills, seed = map(int, sys.argv[1:])
rng = random.Random(seed)

def run():
    calibrate("model.onnx", np.load("samples.npy"), checkpoint="run", every=1, threads=2).save("killed.table")

def stamp():
    return os.path.exists("run") and os.stat("run").st_mtime_ns

def ended(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)

killed = halfway = 0
while not os.path.exists("killed.table"):
    before = stamp()
    child = os.fork()  # sooner there than a new interpreter
    if not child:
        run()
        os._exit(0)
    if killed < kills:
        moment = rng.choice(["any", "after some progress", "after some progress", "while it writes"])
        while moment != "any" and stamp() == before and not ended(child):
            time.sleep(0.001)
        while moment == "while it writes" and not os.path.exists("run.part") and not ended(child):
            pass
        if moment != "while it writes":
            time.sleep(rng.uniform(0, 0.3))
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    killed += status != 0
    halfway += os.path.exists("run.part")
print(json.dumps([killed, halfway]))
"""


def check_kills(folder, model, kills, seed, count):
    """Runs that are killed so many times, and one that is not, give the same file. Returns how many kills came while
    the checkpoint was being written."""
    samples = np.random.default_rng(seed).normal(0, 1, (count, 1, 3, 16, 16)).astype(np.float32)
    room = folder / "room"
    (room / "tmp").mkdir(parents=True)
    np.save(room / "samples.npy", samples)
    (room / "model.onnx").write_bytes(model.read_bytes())
    command = [sys.executable, "-c", KILLED, str(kills), str(seed)]
    environment = os.environ | {"TMPDIR": str(room / "tmp")}
    done = subprocess.run(command, cwd=room, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    killed, halfway = json.loads(done.stdout)
    assert killed == kills
    calibrate(model, samples).save(folder / "whole.table")
    assert (room / "killed.table").read_bytes() == (folder / "whole.table").read_bytes()
    assert {path.name for path in room.iterdir()} == {"tmp", "samples.npy", "model.onnx", "run", "killed.table"}
    return halfway


needs_kills = pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX kills without a word")


@needs_kills
def test_five_kills_make_no_difference(small_model, tmp_path):
    check_kills(tmp_path, small_model, kills=5, seed=3, count=110)


@needs_kills
@pytest.mark.long
def test_fifty_kills_make_no_difference(small_model, tmp_path):
    assert check_kills(tmp_path, small_model, kills=50, seed=4, count=1200) > 0


def interrupted(model, samples, checkpoint, at, every=4):
    """A run that ends with an error at sample `at`."""

    def broken():
        yield from samples[:at]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(model, broken(), checkpoint=checkpoint, every=every)


def test_it_goes_on_without_computing_again(small_model, small_samples, tmp_path):
    interrupted(small_model, small_samples, tmp_path / "c", at=18)
    steps = []
    table = calibrate(small_model, small_samples, checkpoint=tmp_path / "c", every=7, on_step=steps.append)
    assert steps == list(range(17, 41))
    assert table.samples == 40
    table.save(tmp_path / "on")
    calibrate(small_model, small_samples).save(tmp_path / "whole")
    assert (tmp_path / "on").read_bytes() == (tmp_path / "whole").read_bytes()


def same(one, other):
    return (one.sketches.even, one.sketches.odd, one.samples) == (
        other.sketches.even,
        other.sketches.odd,
        other.samples,
    )


def test_a_run_that_is_done_is_done_at_once(small_model, small_samples, tmp_path):
    first = calibrate(small_model, small_samples, checkpoint=tmp_path / "c")
    steps = []
    again = calibrate(small_model, small_samples, checkpoint=tmp_path / "c", on_step=steps.append)
    assert steps == []
    assert same(again, first)


def test_a_run_that_is_done_goes_on_with_more_samples(small_model, small_samples, tmp_path):
    calibrate(small_model, small_samples, steps=8, checkpoint=tmp_path / "c")
    more = calibrate(small_model, small_samples, steps=20, checkpoint=tmp_path / "c")
    assert same(more, calibrate(small_model, small_samples, steps=20))


def test_it_is_written_before_the_first_sample_and_after_each_block(small_model, small_samples, tmp_path):
    seen = []

    def watched():
        for sample in small_samples[:10]:
            seen.append(read(tmp_path / "c")[0]["checkpoint"]["items"])
            yield sample

    calibrate(small_model, watched(), checkpoint=tmp_path / "c", every=4)
    assert seen[0] == 0
    assert set(seen) == {0, 4, 8}
    assert read(tmp_path / "c")[0]["checkpoint"]["items"] == 10


def swap_channels(samples):
    """The same numbers, at other places: as from a photo whose colours are in another order."""
    return [np.ascontiguousarray(sample[:, ::-1]) for sample in samples]


@pytest.mark.parametrize(
    "change",
    [
        lambda samples: samples[::-1],
        lambda samples: [samples[1], samples[0], *samples[2:]],
        lambda samples: samples[:9],
        lambda samples: samples[1:],
        lambda samples: [*samples[:15], samples[15] + np.float32(1e-6), *samples[16:]],
        lambda samples: [np.concatenate(samples[:2]), *samples[2:]],
        swap_channels,
    ],
)
def test_other_samples_are_refused(small_model, small_samples, tmp_path, change):
    interrupted(small_model, small_samples, tmp_path / "c", at=18)
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(DataError, match=r"first 16 samples are not those of the checkpoint .*c: go on .* --mean"):
        calibrate(small_model, change(small_samples), checkpoint=tmp_path / "c")
    with pytest.raises(DataError, match="no samples"):
        calibrate(small_model, [], checkpoint=tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before


def test_another_run_is_refused_by_what_differs(small_model, small_samples, tmp_path):
    interrupted(small_model, small_samples, tmp_path / "c", at=18)
    before = (tmp_path / "c").read_bytes()

    def check_refused(words, model=small_model, **changes):
        with pytest.raises(IncompatibleSketches, match=f"c is the checkpoint of another run .*{words}.*: delete it"):
            calibrate(model, small_samples, checkpoint=tmp_path / "c", **changes)

    check_refused("different methods isotone,.* and mse", methods=["mse"])
    check_refused("platform ONNXRUNTIME and TRT_INT8", platform="TRT_INT8")
    setting = QuantizationSetting()
    setting.leave_in_float = ["fc"]
    check_refused("only one of them has", setting=setting)
    graph = load_onnx_graph(small_model)
    graph.fingerprint = "0" * 64
    check_refused("model [0-9a-f]{8} and 00000000\\)", model=graph)
    assert (tmp_path / "c").read_bytes() == before


def test_the_engine_is_part_of_the_run(small_model, small_samples, tmp_path):
    interrupted(small_model, small_samples, tmp_path / "c", at=18)
    header, arrays = read(tmp_path / "c")
    write(tmp_path / "c", header | {"engine": "onnxruntime 0.1"}, arrays)
    with pytest.raises(IncompatibleSketches, match=r"different engine onnxruntime 0\.1 and onnxruntime "):
        calibrate(small_model, small_samples, checkpoint=tmp_path / "c")


def test_what_is_no_checkpoint(small_model, small_samples, tmp_path):
    (tmp_path / "text").write_text("no checkpoint")
    with pytest.raises(DataError, match="text is not a calibration table, or is damaged"):
        calibrate(small_model, small_samples, checkpoint=tmp_path / "text")
    with pytest.raises(DataError, match="is not a file"):
        calibrate(small_model, small_samples, checkpoint=tmp_path)
    table = calibrate(small_model, small_samples[:3])
    table.save(tmp_path / "table")
    with pytest.raises(DataError, match="table is a calibration table, not a checkpoint of an unfinished run"):
        calibrate(small_model, small_samples, checkpoint=tmp_path / "table")
    for state in (None, 3, {}, {"items": -1}, {"items": 1 << 63}, {"items": True}, {"items": "1"}):
        header, arrays = table.parts()
        write(tmp_path / "odd", header | {"checkpoint": state}, arrays)
        with pytest.raises(DataError, match="not a checkpoint of an unfinished run: name another file"):
            calibrate(small_model, small_samples, checkpoint=tmp_path / "odd")


def unread():
    """Samples that nobody may ask for."""
    raise AssertionError
    yield


@pytest.mark.parametrize("every", [0, -1])
def test_a_block_has_samples(small_model, tmp_path, every):
    with pytest.raises(SettingError, match=f"every 1 or more samples, got {every}"):
        calibrate(small_model, unread(), checkpoint=tmp_path / "c", every=every)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("place", ["nowhere/c", "file/c", "x" * 252])
def test_a_place_that_cannot_be_written_is_found_before_the_work(small_model, tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot write the checkpoint .*" + place):
        calibrate(small_model, unread(), checkpoint=tmp_path / place)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(small_model, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ExportError, match=r"cannot write the checkpoint .*locked"):
        calibrate(small_model, unread(), checkpoint=tmp_path / "locked" / "c")


def test_a_checkpoint_is_read_as_the_table_so_far(small_model, small_samples, tmp_path):
    interrupted(small_model, small_samples, tmp_path / "c", at=18)
    assert same(CalibrationTable.load(tmp_path / "c"), calibrate(small_model, small_samples[:16]))


@pytest.mark.parametrize("cut", [0, 2000, -1])
def test_a_damaged_checkpoint_is_refused_and_left(small_model, small_samples, tmp_path, cut):
    interrupted(small_model, small_samples, tmp_path / "c", at=18)
    damaged = (tmp_path / "c").read_bytes()[:cut]
    (tmp_path / "c").write_bytes(damaged)
    with pytest.raises(DataError, match="c is not a calibration table, or is damaged"):
        calibrate(small_model, small_samples, checkpoint=tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == damaged
