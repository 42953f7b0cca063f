"""The command as a process: interrupts, start-up, streams."""

import os
import signal
import subprocess
import sys
import time

import pytest

from calibrant.cli.console import COMPILING

COMMAND = [sys.executable, "-m", "calibrant"]

SLOW = """
import pathlib, time
import numpy as np

def samples():
    for i in range(1000):
        yield np.full((1, 3, 16, 16), i, np.float32)
        pathlib.Path("started").touch()
        time.sleep(0.05)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals to one process are POSIX")
@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGINT, 130, ["error: interrupted; nothing was written"]), (signal.SIGTERM, 143, [])],
)
def test_an_interrupt_leaves_nothing(here, sent, code, said):
    (here / "slow.py").write_text(SLOW)
    (here / "tmp").mkdir()
    before = {*here.files(), "started"}
    environment = {**os.environ, "TMPDIR": str(here / "tmp")}
    process = subprocess.Popen(
        [*COMMAND, "quantize", "model.onnx", "--data", "slow:samples", "--output", "out.onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # What a shell puts into the background ignores interrupts, and so would this process, as its child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 60
        while not (here / "started").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(sent)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, err
    assert [line for line in err.splitlines() if COMPILING not in line] == said
    assert out == ""
    assert set(here.files()) == before
    assert not list((here / "tmp").glob("*calibrant*"))


OPTIONS = {
    "quantize": ("--data", "--table", "--leave-in-float", "--dry-run", "Samples", "Images"),
    "calibrate": ("--data", "--methods", "--checkpoint", "--every", "--only", "Samples", "Images"),
    "merge": ("--output", "--force"),
    "inspect": ("--sort", "--value", "--json", "--csv", "--bits"),
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_starts_without_the_heavy_imports(command):
    code = (
        f"import sys; sys.argv = ['calibrant', '{command}', '--help']\n"
        "from calibrant.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'onnxruntime', 'numba', 'onnx', 'onnx_ir', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for words in OPTIONS[command]:
        assert words in result.stdout


def test_version_and_exit_codes_of_the_process():
    from calibrant import __version__

    good = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=60)
    assert (good.returncode, good.stdout.strip()) == (0, f"calibrant {__version__}")
    bad = subprocess.run([*COMMAND, "--verion"], capture_output=True, text=True, timeout=60)
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert "did you mean '--version'?" in bad.stderr


def test_an_interrupt_while_the_command_is_imported(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=60, env=environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
