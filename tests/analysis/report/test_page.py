"""The page as a file: small, alone, and whatever a model calls itself is text in it."""

import base64
import hashlib
import json
import re
import sys

import numpy as np
import pytest

from calibrant import api
from calibrant.analysis.report import Subject, collect, require_bokeh, write_report
from calibrant.analysis.report.page import SCRIPTS, as_json, library, page, read
from calibrant.analysis.report.plain import legible, plain_report
from calibrant.core import ExportError, SettingError
from calibrant.sketches import Halves, SketchSpec, TensorSketch
from tests.analysis.report.conftest import report_on
from tests.analysis.report.hostile import IMAGE, LONG, SCRIPT, TURNED, hostile_model

needs_bokeh = pytest.importorskip("bokeh", reason="Bokeh (the extra report) is not installed")
ELSEWHERE = r"https?:|\bsrc=|@import|url\(|innerHTML|insertAdjacent|document\.write|\beval\b"
SCRIPT_ELEMENT = re.compile(r"<script([^>]*)>(.*?)</script>", re.DOTALL)


@pytest.fixture(scope="module")
def small_page():
    rng = np.random.default_rng(0)
    return page(report_on({"v": rng.normal(size=2000).astype(np.float32)}))


def data_of(text):
    (data,) = [body for attributes, body in SCRIPT_ELEMENT.findall(text) if "application/json" in attributes]
    return json.loads(data)


def test_only_its_own_scripts_may_run_and_nothing_is_loaded(small_page):
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', small_page)
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == ["'none'"]
    assert rules["img-src"] == ["data:"]
    assert "connect-src" not in rules  # so that of default-src holds
    scripts = [body for attributes, body in SCRIPT_ELEMENT.findall(small_page) if not attributes]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert rules["script-src"] == [f"'sha256-{digest}'" for digest in digests]
    assert len(scripts) == len(SCRIPTS) + len(library())


def test_nothing_of_ours_names_another_place():
    for name in (*SCRIPTS, "page.html", "page.css"):
        text = read(name)
        assert not re.search(r"https?:|\bsrc=|@import|url\(|innerHTML|insertAdjacent|document\.write|\beval\b", text), (
            name
        )


def test_the_same_report_is_the_same_page(small_page):
    rng = np.random.default_rng(0)
    assert page(report_on({"v": rng.normal(size=2000).astype(np.float32)})) == small_page


def test_names_are_text(tmp_path):
    import onnx

    path = tmp_path / "hostile.onnx"
    onnx.save(hostile_model(), path)
    rng = np.random.default_rng(0)
    graph, summary = api.quantize(path, [rng.normal(size=(1, 3, 8, 8)).astype(np.float32)] * 4, keep=True)
    report = collect(Subject(SCRIPT + IMAGE, summary.table.sketches, ["minmax"], [(IMAGE, SCRIPT)], graph))
    text = page(report)
    assert len(SCRIPT_ELEMENT.findall(text)) == 1 + len(SCRIPTS) + len(library())
    assert text.count("<title>") == 1
    assert IMAGE not in text.replace(read("page.js"), "")
    assert SCRIPT not in text
    data = data_of(text)
    assert data["title"] == SCRIPT + IMAGE
    names = [value["name"] for value in data["values"]]
    assert names[:2] == ["x" + IMAGE, "v" + SCRIPT]
    assert names[2] == TURNED.replace("\u202e", "\\u202e").replace("\u200f", "\\u200f")
    assert len(names[3]) <= 300
    assert names[3].startswith("long<b>")
    options = [step[1] for suspect in data["suspects"] for step in suspect["steps"]]
    assert not any(LONG[:400] in option or "\u202e" in option for option in options)  # nothing that can be typed


def test_what_cannot_be_seen_is_spelled_out():
    assert legible("a\x00b\u2028c\ud800") == "a\\u0000b\\u2028c\\ud800"
    assert legible("größe/層 1") == "größe/層 1"
    assert "<" not in as_json({"a": "</script><!--"})


def wide_values(count):
    """Sketches as large as they come: heavy tails on both sides, thousands of channels; under so many names."""
    rng = np.random.default_rng(0)
    x = (rng.standard_t(1.2, (40, 2048)) * 10 ** rng.uniform(-3, 3, 2048)).astype(np.float32)
    sketch = TensorSketch.of(x, SketchSpec(channel_axis=1))
    names = [f"/model/encoder/layer.{i}/attention/self/query/MatMul_output_{i}" for i in range(count)]
    return Halves(dict.fromkeys(names, sketch), dict.fromkeys(names, sketch))


def test_three_hundred_values_are_less_than_five_megabytes(tmp_path):
    report = collect(Subject("large", wide_values(300), ["minmax"], method="minmax"), threads=2)
    write_report(report, tmp_path / "large.html")
    assert (tmp_path / "large.html").stat().st_size < 5e6
    assert sum(len(script.encode()) for script in library()) <= 1.5e6
    values = plain_report(report)["values"]
    assert len(values) == 300
    assert max(len(json.dumps(value, separators=(",", ":"))) for value in values) <= 10_000
    assert min(len(value["outline"]["data"]) for value in values) > 3000  # these are large


def test_without_bokeh_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"pip install 'calibrant\[report\]'"):
        require_bokeh()
    with pytest.raises(SettingError):
        write_report(report_on({"v": np.ones(3, np.float32)}), tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_it_appears_whole_or_not_at_all(monkeypatch, tmp_path):
    report = report_on({"v": np.ones(3, np.float32)})
    with pytest.raises(ExportError, match="does not exist"):
        write_report(report, tmp_path / "no folder" / "r.html")
    (tmp_path / "r.html").write_text("before")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ExportError, match="No space left"):
        write_report(report, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_bokeh_is_read_not_imported(tmp_path):
    write_report(report_on({"v": np.ones(3, np.float32)}), tmp_path / "r.html")
    assert "bokeh.plotting" not in sys.modules
