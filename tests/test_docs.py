"""The pages run: every Python block, every `calibrant` command, every JSON setting of the README and of docs/.

How a page is read, in this order from top to bottom, in a folder that has `model.onnx`, `efficientnet_lite0.onnx`,
`photos/` and `samples/*.npy`:

    ```python     is run, all blocks of a page in one namespace; a first line `# file: NAME` writes it to NAME instead
    ```sh         lines that start with `calibrant` are run (joined at a trailing backslash) and must exit with 0
    ```console    the same for lines that start with `$ calibrant`; what they print is not compared
    ```json       is read as a setting
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import calibrant
from calibrant import core
from calibrant.observers.registry import known
from calibrant.quantizers.rows import Grid
from calibrant.quantizers.tables import TABLES
from calibrant.settings import OVERRIDE_KEYS, QuantizationSetting, QuantizeActivationSetting, QuantizeParameterSetting

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRELUDE = """
import shlex
from typer.testing import CliRunner
from calibrant.cli.app import app
def _run(line):
    done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
    assert done.exit_code == 0, (line, done.exit_code, done.output, done.exception)
"""


def program(page: str) -> str:
    """A page as one Python program."""
    parts = [PRELUDE]
    for language, text in BLOCK.findall(page):
        if language == "python" and (name := re.match(r"# file: (\S+)\n", text)):
            parts.append(f"open({name[1]!r}, 'w').write({text!r})\n")
        elif language == "python":
            parts.append(text)
        elif language in ("sh", "console"):
            prompt = "$ " if language == "console" else ""
            lines = text.replace("\\\n", " ").splitlines()
            parts += [
                f"_run({line.removeprefix(prompt)!r})\n" for line in lines if line.startswith(f"{prompt}calibrant ")
            ]
        elif language == "json":
            parts.append(f"from calibrant import QuantizationSetting\nQuantizationSetting.from_json({text!r})\n")
    return "\n".join(parts)


@pytest.fixture
def folder(tmp_path, small_model, small_samples):
    """What the pages take for granted."""
    for name in ("model.onnx", "efficientnet_lite0.onnx"):
        (tmp_path / name).write_bytes(small_model.read_bytes())
    (tmp_path / "samples").mkdir()
    (tmp_path / "photos").mkdir()
    for number, sample in enumerate(small_samples[:16]):
        np.save(tmp_path / "samples" / f"{number:02}.npy", sample)
        pixels = np.clip(127 + 60 * sample[0].transpose(1, 2, 0), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).resize((20, 18)).save(tmp_path / "photos" / f"{number:02}.png")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_page_shows_runs(page, folder):
    for extra in re.findall(r"^(?:import|from) (torch\w*)", page.read_text(encoding="utf-8"), re.MULTILINE):
        pytest.importorskip(extra, reason=f"{extra} is not installed")
    for extra, shown in (("bokeh", r"^calibrant .*report|write_report\("), ("matplotlib", r"\.plot\(")):
        if re.search(shown, page.read_text(encoding="utf-8"), re.MULTILINE):
            pytest.importorskip(extra, reason=f"{extra} (the extra report) is not installed")
    script = folder / "page.py"
    script.write_text(program(page.read_text(encoding="utf-8")), encoding="utf-8")
    strict = ["-W", "error", "-W", "ignore::DeprecationWarning:ray.data.context"]  # Ray warns of its own defaults
    done = subprocess.run([sys.executable, *strict, script.name], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.parametrize("notebook", sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    script = tmp_path / "notebook.py"
    script.write_text(
        "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"), encoding="utf-8"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # the demo is no part of the package
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def test_a_broken_block_fails(folder):
    page = "```sh\ncalibrant quantize nothing.onnx --dry-run\n```\n"
    script = folder / "page.py"
    script.write_text(program(page), encoding="utf-8")
    assert subprocess.run([sys.executable, script], cwd=folder, capture_output=True).returncode != 0


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_every_page_is_in_the_contents_of_the_site():
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"- (\S+\.md)$", contents, re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:])


def test_every_key_of_a_setting_is_explained():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    keys = [
        f.name for c in (QuantizationSetting, QuantizeActivationSetting, QuantizeParameterSetting) for f in fields(c)
    ]
    missing = [key for key in [*keys, *OVERRIDE_KEYS] if f"`{key}`" not in page]
    assert not missing


def test_every_error_is_explained():
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    errors = [name for name in core.__all__ if isinstance(getattr(core, name), type)]
    missing = [name for name in errors if issubclass(getattr(core, name), Exception) and f"`{name}`" not in page]
    assert not missing


def test_the_readme_knows_the_platforms_and_methods():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {cells[0].strip(" `"): cells for line in page.splitlines() if (cells := line.strip("|").split("|"))}
    for platform, table in TABLES.items():
        cells = rows[platform.name]
        for method in (table.method, table.saturated_method, table.output_method):
            assert method is None or method in cells[1]
        assert table.weight_method in cells[3]
        assert grid_in_words(table.activation) == cells[2].strip()
        assert ("int32" in cells[4]) == table.integer_bias
    assert {"minmax", "percentile", "mse", "kl", "isotone"} <= {name for name in known() if name in rows}


def grid_in_words(grid: Grid) -> str:
    low, high = grid.limits(8)
    return f"{'int8' if grid.signed else 'uint8'} {'symmetric' if grid.symmetric else 'asymmetric'}, {low}..{high}"


FIXED_NAMES = """
from calibrant import (
    TargetPlatform, QuantizationSetting, QuantizationSettingFactory,
    QuantizationProperty, QuantizationPolicy, QuantizationStates, RoundingPolicy, TensorQuantizationConfig,
    RuntimeCalibrationPass, IsotoneCalibrationPass, ParameterQuantizePass, PassiveParameterQuantizePass,
    BaseTensorObserver, build_observer, register_calibration_observer,
    load_onnx_graph, OnnxruntimeExecutor, TorchExecutor,
    quantize_onnx_model, quantize_torch_model, export_graph, export_ppq_graph, calibrate, CalibrationTable)
from calibrant.api import (
    load_onnx_graph, quantize_onnx_model, quantize_torch_model, export_graph, export_ppq_graph, calibrate,
    register_calibration_observer, QuantizationSettingFactory, TargetPlatform)
"""


def test_the_fixed_names_can_be_imported():
    names: dict[str, object] = {}
    exec(FIXED_NAMES, names)
    assert names.keys() - {"__builtins__"} <= set(calibrant.__all__)
