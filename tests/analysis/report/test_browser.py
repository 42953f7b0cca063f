"""The page in a real browser: it opens from disk without a complaint, and does what it says."""

import numpy as np
import onnx
import pytest

from calibrant import QuantizationSetting, api
from calibrant.analysis import analyse
from calibrant.analysis.report import Subject, collect
from calibrant.table.collecting import METHODS
from tests.analysis.report.conftest import KINDS, NARROW, WIDE, halves_of, report_on
from tests.analysis.report.hostile import hostile_model
from tests.analysis.report.test_outline import rounded

LEFT = "\ue012"  # the key
ROWS = 9  # seven operations, and two values that enter quantized ones
ESTIMATES = """
const [number, ranges] = arguments;
const outline = decode(report.values[number].outline);
return ranges.map(([low, high]) => {
  const {scale, below} = affine(low, high, report.values[number].grid);
  return squaredError(outline, report.values[number].grid, scale, below).error;
});
"""


@pytest.fixture(scope="module")
def model_report(tmp_path_factory):
    """A report on the small classifier, with a layer in float, measured."""
    from tests.conftest import small_classifier

    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(small_classifier(), path)
    rng = np.random.default_rng(11)
    samples = [rng.normal(0, 1, (1, 3, 16, 16)).astype(np.float32) for _ in range(16)]
    setting = QuantizationSetting()
    setting.leave_in_float = ["conv3"]
    graph, summary = api.quantize(path, samples, setting=setting, keep=True)
    analysis = analyse(graph, samples[:4], at_outputs=True)
    return collect(
        Subject("small.onnx", summary.table.sketches, METHODS, [("samples", "16")], graph, analysis=analysis)
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_it_opens_without_a_complaint_and_fits(page_of, model_report, width, scheme):
    page = page_of(model_report, width=width, scheme=scheme)
    assert page.errors() == []
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run("return document.documentElement.dataset.theme") == scheme
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    for chart in page.all(".chart"):
        assert chart.size["height"] > 40
        assert page.run("return arguments[0].scrollWidth", chart) <= width
    assert len(page.all("#rows > li")) == ROWS
    assert page.one("#title").text == "small.onnx"


CONTRAST = """
const light = (text) => {
  const [r, g, b] = text.match(/\\w\\w/g).map((part) => parseInt(part, 16) / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
return arguments[0].map(([one, other]) => {
  const [a, b] = [light(colour(one)), light(colour(other))].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
});
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(page_of, model_report, scheme):
    page = page_of(model_report, scheme=scheme)
    pairs = [
        [text, ground] for text in ("--text", "--quiet", "--link") for ground in ("--ground", "--panel", "--chosen")
    ]
    assert min(page.run(CONTRAST, pairs)) >= 4.5  # WCAG 2, AA
    marks = [[mark, "--ground"] for mark in ("--bar", "--bad", "--focus")]
    assert min(page.run(CONTRAST, marks)) >= 3


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_live_estimate_is_the_error_of_the_raw_values(page_of, symmetric):
    page = page_of(report_on(KINDS, symmetric, methods=("minmax",), method="minmax"))
    names = page.run("return report.values.map((value) => value.name)")
    for number, name in enumerate(names):
        values = KINDS[name].astype(np.float64)
        most = np.abs(values).max()
        ranges = [(-t, t) for t in np.geomspace(max(np.median(np.abs(values)), most / 1000), most, 25)]
        if not symmetric:
            ranges = [(max(low, min(values.min(), 0)), min(high, max(values.max(), 0))) for low, high in ranges]
        true = [np.mean((values - rounded(values, *ends, symmetric)) ** 2) for ends in ranges]
        told = page.run(ESTIMATES, number, [[float(low), float(high)] for low, high in ranges])
        assert told == pytest.approx(true, rel=0.03 if name in ("relu6", "pixels") else 0.01), name


def test_the_scripts_estimate_is_the_observers(page_of):
    """To 2 to 16 bits, against the errors that the methods' scales have by the sketch."""
    from calibrant.analysis.findings import Grid

    for bits in (2, 4, 8, 10, 16):
        report = collect(Subject("t", halves_of(KINDS), ["minmax", "percentile"], grid=Grid(bits), method="minmax"), 2)
        page = page_of(report)
        for number, value in enumerate(report.values):
            for choice in value.finding.choices.values():
                (told,) = page.run(ESTIMATES, number, [[choice.low, choice.high]])
                if bits <= 10 or value.name not in ("pixels", "relu6"):  # beyond, steps are finer than atoms are placed
                    assert told == pytest.approx(choice.squared_error, rel=0.02), (value.name, bits)


COUNTS = """
const [number, edges] = arguments;
return countsBetween(decode(report.values[number].outline), edges);
"""


def test_the_histogram_is_that_of_the_raw_values(page_of):
    page = page_of(report_on({"student": KINDS["student"], "relu6": KINDS["relu6"]}))
    for number, edges in enumerate([np.arange(0.0, 7.0), np.linspace(-6, 6, 13)]):  # relu6 comes first, by name
        values = KINDS[("relu6", "student")[number]]
        told = page.run(COUNTS, number, edges.tolist())
        assert told == pytest.approx(np.histogram(values, edges)[0].tolist(), rel=0.02, abs=30)


def live(page):
    return page.one("#live").text, float(page.one("#live").get_attribute("data-error"))


def test_the_slider_moves_the_number(page_of):
    values = KINDS["gelu"]
    page = page_of(report_on({"gelu": values}), "#value=gelu")
    before, error = live(page)
    assert page.one("#live strong").text.endswith(" dB")
    page.one("#slide-high").send_keys(LEFT * 60)
    after, moved = live(page)
    assert (after, moved) != (before, error)
    ends = [float(page.one(f"#exact-{end}").get_attribute("value")) for end in ("low", "high")]
    true = np.mean((values.astype(np.float64) - rounded(values.astype(np.float64), *ends, False)) ** 2)
    assert moved == pytest.approx(true, rel=0.01)
    exact = page.one("#exact-high")
    exact.clear()
    exact.send_keys("2.5")
    assert live(page)[1] > 10 * moved
    page.one("#presets button").click()  # as by minmax
    assert page.run("return view.charts.ends[1].location") == pytest.approx(values.max(), rel=1e-2)
    assert page.errors() == []


def test_bits_change_the_estimate(page_of):
    page = page_of(report_on({"normal": KINDS["normal"]}, symmetric=True))
    eight = float(page.one("#live").get_attribute("data-sqnr"))
    page.one("#bits option[value='4']").click()
    assert eight - float(page.one("#live").get_attribute("data-sqnr")) == pytest.approx(24, abs=4)
    assert "int4 symmetric" in page.one("#live").text
    assert not page.one("#slide-low").is_displayed()


def shown(page):
    return [row.text for row in page.all("#rows > li") if row.is_displayed()]


def test_search_finds(page_of, model_report):
    page = page_of(model_report)
    search = page.one("#search")
    search.send_keys("Conv conv2")
    assert len(shown(page)) == 1
    assert "conv2" in shown(page)[0]
    assert page.one("#found").text == f"1 of {ROWS}"
    search.send_keys("\ue00c")  # Escape
    assert len(shown(page)) == ROWS
    page.one("body").send_keys("/")
    page.browser.switch_to.active_element.send_keys("left in float")
    assert [row.splitlines()[1] for row in shown(page)] == ["Conv conv3"]


def test_it_sorts(page_of, model_report):
    page = page_of(model_report)
    page.one("#sort option[value='worst']").click()
    names = page.run("return rows.map((row) => row.item.name)")
    known = {o.name: o.worst for o in model_report.operations if o.worst is not None}
    known |= {v.name: v.sqnr for v in model_report.values if v.name in ("x", "flat")}
    assert names[: len(known)] == sorted(known, key=lambda name: known[name])
    page.one("#sort option[value='name']").click()
    assert page.run("return rows.map((row) => row.item.name)") == sorted(names)


def test_an_address_leads_to_a_value(page_of, model_report):
    page = page_of(model_report, "#value=r2")
    assert page.one("#value-name").text == "r2"
    assert "made by Conv conv2" in page.one("#value-words").text
    page.one("#rows a[href='#value=r1']").click()
    assert page.one("#value-name").text == "r1"
    assert page.run("return location.hash") == "#value=r1"
    page.browser.back()
    page.run("return new Promise((done) => setTimeout(done, 50))")
    assert page.one("#value-name").text == "r2"
    page.open("#value=nothing%20of%20that%20name")
    assert page.one("#value-missing").text == "No value is called 'nothing of that name'."
    assert page.errors() == []


def test_the_keyboard_is_enough(page_of, model_report):
    page = page_of(model_report)
    body = page.one("body")
    body.send_keys("kkkkkkkkk")  # up to the first
    names = [page.one("#value-name").text]
    for _ in range(5):
        body.send_keys("j")
        names.append(page.one("#value-name").text)
    assert names == ["x", "r1", "r2", "flat", "flat", "logits"]  # flat: made in float, then read quantized
    assert page.run("return location.hash") == "#value=logits"
    body.send_keys("t")
    assert page.run("return document.documentElement.dataset.theme") == "dark"
    page.open()
    assert page.run("return document.documentElement.dataset.theme") == "dark"  # kept
    page.one("body").send_keys("t")
    assert page.run("return document.documentElement.dataset.theme") == "light"


def test_the_worst_and_what_is_in_float_are_told(page_of, model_report):
    page = page_of(model_report)
    cards = page.all("#suspects > li")
    assert len(cards) == len(model_report.suspects)
    first = model_report.suspects[0]
    assert first.operation in cards[0].text
    assert first.steps[-1].option in cards[0].text
    assert "1 × left in float by the user" in page.one("#reasons").text
    assert "conv3" in page.one("#reasons").text


def test_channels_tell_their_range(page_of, model_report):
    page = page_of(model_report, "#value=r1")
    value = next(v for v in model_report.values if v.name == "r1")
    channel = page.one("#channel")
    channel.clear()
    channel.send_keys("3")
    assert page.one("#channel-words").text.startswith(f"{value.extremes.lo[3]:.4g} to {value.extremes.hi[3]:.4g}")
    assert page.run("return view.charts.stripes.data.left.length") == 8


def test_a_hostile_model_does_nothing(page_of, tmp_path):
    onnx.save(hostile_model(), tmp_path / "hostile.onnx")
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(4)]
    graph, summary = api.quantize(tmp_path / "hostile.onnx", samples, keep=True)
    page = page_of(
        collect(Subject("hostile", summary.table.sketches, METHODS, [("a", "<b>b</b>")], graph)), width=NARROW
    )
    for number in range(len(graph.groups)):
        page.run("select(arguments[0], true)", number)
    assert page.run("return document.documentElement.dataset.hacked") is None
    assert page.run("return document.querySelectorAll('#rows img, #suspects img, #value img, b').length") == 0
    assert page.run("return document.scripts.length") == 7
    assert page.run("return document.documentElement.scrollWidth") <= NARROW
    link = page.run("return [...document.querySelectorAll('#rows a')].map((a) => a.hash)[1]")
    page.open(link)
    assert "<script>" in page.one("#value-name").text
    assert page.errors() == []


def test_odd_values_are_shown(page_of):
    values = {
        "zeros": np.zeros(9, np.float32),
        "constant": np.full(9, 3.5, np.float32),
        "one": np.float32([-2]),
        "subnormal": np.float32([1e-42, 0]),
        "huge": np.float32([3e38, -3e38, 1]),
        "nan": np.float32([np.nan, 1, np.inf]),
    }
    report = report_on(values)
    page = page_of(report)
    for number in range(len(values)):
        page.run("select(arguments[0], false)", number)
        assert page.one("#value-name").text == report.values[number].name
    assert page.errors() == []


def test_a_report_on_nothing_opens(page_of, model_report):
    page = page_of(collect(Subject("nothing", halves_of({}), [])))
    assert page.errors() == []
    assert page.one("#title").text == "nothing"
