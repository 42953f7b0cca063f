"""`calibrant inspect`: what it tells is what the table holds and what the samples really give."""

import csv
import io
import json
import re

import numpy as np
import onnx
import pytest
from rich.console import Console

from calibrant import QuantizationSetting, api
from calibrant.analysis.bars import Bars
from calibrant.analysis.findings import Grid, find
from calibrant.cli.columns import Column, print_columns
from calibrant.cli.histogram import lines
from calibrant.core import QuantizationProperty, TensorQuantizationConfig
from calibrant.core.arithmetic import fake_quantize
from calibrant.sketches import TensorSketch
from calibrant.table import CalibrationTable

FAILED, USAGE = 1, 2
METHODS = ["minmax", "percentile", "mse", "kl"]
ROWS = np.random.default_rng(3).normal(size=(32, 3, 16, 16)).astype(np.float32)


@pytest.fixture
def tabled(here):
    """The folder, with model.table over ROWS."""
    np.save(here / "rows.npy", ROWS)
    result = here.run("calibrate", "model.onnx", "--data", "rows.npy", "--output", "model.table")
    assert result.exit_code == 0, result.output
    return here


def inspect(here, *args, table="model.table"):
    return here.run("inspect", table, *args)


def found(here, *args, table="model.table"):
    """What --json tells, by value."""
    result = inspect(here, "--json", *args, table=table)
    assert result.exit_code == 0, result.output
    return {value["name"]: value for value in json.loads(result.stdout)["values"]}


def test_values_kept_per_channel_are_told_as_whole_tensors(here):
    setting = QuantizationSetting()
    setting.quantize_activation_setting.per_channel = True
    tables = [api.calibrate(here / "model.onnx", [ROWS], setting=s) for s in (setting, None)]
    assert tables[0].sketches["x"].histogram is None
    per_channel, per_tensor = (find(table.sketches, ["x"], METHODS, METHODS, Grid())[0] for table in tables)
    assert per_channel.choices["minmax"].scale == per_tensor.choices["minmax"].scale
    for method in METHODS:
        choice, other = per_channel.choices[method], per_tensor.choices[method]
        assert choice.sqnr == pytest.approx(other.sqnr, abs=0.1)
        assert choice.scale == pytest.approx(other.scale, rel=0.03)


def names_in_order(here, *args, table="model.table"):
    """The first words of the table's rows."""
    result = inspect(here, *args, table=table)
    assert result.exit_code == 0, result.output
    body = result.stdout.split("VALUE", 1)[1].split("\n\n")[0].splitlines()[1:]
    return [line.split()[0] for line in body]


def test_what_was_seen_is_what_the_table_holds(tabled):
    table = CalibrationTable.load(tabled / "model.table")
    values = found(tabled)
    assert list(values) == sorted(table)
    x = values["x"]
    assert (x["elements"], x["min"], x["max"]) == (ROWS.size, float(ROWS.min()), float(ROWS.max()))
    for name, value in values.items():
        seen = table.sketches[name].extremes
        assert value["zeros"] == seen.zeros / seen.size
        assert value["nan"] == value["pos_inf"] == value["neg_inf"] == 0
    assert any(value["zeros"] > 0 for value in values.values())


@pytest.mark.parametrize(
    ("options", "symmetric", "limits"),
    [([], False, (0, 255)), (["--symmetric"], True, (-128, 127)), (["--bits", "4"], False, (0, 15))],
)
def test_choices_are_those_of_the_table(tabled, options, symmetric, limits):
    table = CalibrationTable.load(tabled / "model.table")
    kind = QuantizationProperty.SYMMETRICAL if symmetric else QuantizationProperty.ASYMMETRICAL
    policy = QuantizationProperty.PER_TENSOR | QuantizationProperty.LINEAR | kind
    bits = 4 if limits == (0, 15) else 8
    grid = {"num_of_bits": bits, "quant_min": limits[0], "quant_max": limits[1]}
    for name, value in found(tabled, *options).items():
        assert set(METHODS) <= value["methods"].keys()
        for method, choice in value["methods"].items():
            scale, offset = table.solve(name, method, policy, **grid)
            assert (choice["scale"], choice["offset"]) == (scale, offset)
            assert choice["low"] == pytest.approx(scale * (limits[0] - offset))
            assert choice["high"] == pytest.approx(scale * (limits[1] - offset))
            draft = TensorQuantizationConfig(policy, observer_algorithm=method, **grid)
            config = draft.clone(scale=None, offset=None)
            even, odd = (
                CalibrationTable.solve(_only(table, half), name, method, config)[0]
                for half in (table.sketches.even, table.sketches.odd)
            )
            assert choice["move"] == pytest.approx(abs(even - odd) / scale, rel=1e-5)


def _only(table, half):
    """The table of one half of the samples."""
    empty = {name: TensorSketch.empty(sketch.spec) for name, sketch in half.items()}
    return CalibrationTable(type(table.sketches)(half, empty), table.fingerprint, 0, table.engine, table.settings)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("method", METHODS)
def test_the_estimated_sqnr_is_what_the_samples_give(tabled, method, bits):
    value = found(tabled, "--bits", str(bits), "--method", method)["x"]
    choice = value["methods"][method]
    config = TensorQuantizationConfig(
        QuantizationProperty.PER_TENSOR | QuantizationProperty.LINEAR | QuantizationProperty.ASYMMETRICAL,
        num_of_bits=bits,
        quant_min=0,
        quant_max=2**bits - 1,
        scale=choice["scale"],
        offset=choice["offset"],
    )
    error = np.mean((fake_quantize(ROWS, config).astype(np.float64) - ROWS) ** 2)
    assert choice["squared_error"] == pytest.approx(error, rel=0.02)
    assert choice["sqnr_db"] == pytest.approx(10 * np.log10(np.mean(ROWS.astype(np.float64) ** 2) / error), abs=0.1)


def test_isotone_is_told_where_there_are_margins(tabled):
    values = found(tabled)
    assert [name for name, value in values.items() if "isotone" in value["methods"]] == ["y"]
    assert "margins" in values["x"]["refused"]["isotone"]
    text = inspect(tabled).stdout
    assert "ISOTONE" in text


def test_csv_has_a_row_for_each_value_and_method(tabled):
    values = found(tabled)
    rows = list(csv.DictReader(io.StringIO(inspect(tabled, "--csv").stdout)))
    assert len(rows) == sum(len(value["methods"]) for value in values.values())
    for row in rows:
        value = values[row["name"]]
        assert int(row["elements"]) == value["elements"]
        assert float(row["max"]) == value["max"]
        choice = value["methods"][row["method"]]
        assert {key: float(row[key]) for key in choice} == choice


def test_the_keys_stay_as_they_are(tabled):
    data = json.loads(inspect(tabled, "--json", "--method", "mse").stdout)
    assert list(data) == ["samples", "fingerprint", "engine", "settings", "grid", "values"]
    assert data["samples"] == 32
    assert data["grid"] == {"bits": 8, "symmetric": False, "percentile": None}
    value = data["values"][0]
    seen = ["name", "elements", "min", "max", "zeros", "nan", "pos_inf", "neg_inf"]
    chosen = ["scale", "offset", "low", "high", "squared_error", "sqnr_db", "move"]
    assert list(value) == [*seen, "methods", "refused"]
    assert list(value["methods"]["mse"]) == chosen
    header = inspect(tabled, "--csv").stdout.splitlines()[0]
    assert header == ",".join([*seen, "method", *chosen])


def test_sorted_by_what_needs_a_look(tabled):
    values = found(tabled)
    mse = {name: value["methods"]["mse"] for name, value in values.items()}
    keys = {
        "sqnr": lambda name: mse[name]["sqnr_db"],
        "move": lambda name: -mse[name]["move"],
        "scale": lambda name: -mse[name]["scale"],
        "elements": lambda name: -values[name]["elements"],
        "range": lambda name: values[name]["min"] - values[name]["max"],
        "zeros": lambda name: -values[name]["zeros"],
    }
    assert names_in_order(tabled) == sorted(values)
    for key, by in keys.items():
        assert names_in_order(tabled, "--sort", key) == sorted(sorted(values), key=by), key
    assert names_in_order(tabled, "--sort", "move", "--reverse") == sorted(mse, key=lambda name: mse[name]["move"])
    assert names_in_order(tabled, "--reverse") == sorted(values, reverse=True)
    kl = {name: value["methods"]["kl"]["sqnr_db"] for name, value in values.items()}
    assert names_in_order(tabled, "--sort", "sqnr", "--method", "kl") == sorted(kl, key=kl.__getitem__)


@pytest.mark.parametrize(
    ("times", "least", "most", "methods"),
    [(20, 0.2, np.inf, ("mse", "minmax")), (1.2, 0.1, 0.2, ("minmax",))],  # far beyond what is marked, and just
)
def test_values_that_would_profit_from_more_samples_are_marked(here, times, least, most, methods):
    rows = ROWS[:20].copy()
    rows[0] *= times  # in one half alone
    np.save(here / "rows.npy", rows)
    assert here.run("calibrate", "model.onnx", "-d", "rows.npy", "-o", "model.table").exit_code == 0
    values = found(here)
    moves = [value["methods"]["minmax"]["move"] for value in values.values()]
    assert any(least < move < most for move in moves)
    for method in methods:
        far = [name for name, value in values.items() if value["methods"][method]["move"] > 0.1]
        assert far
        text = inspect(here, *([] if method == "mse" else ["--method", method])).stdout
        marked = [line.split()[0] for line in text.splitlines() if line.rstrip().endswith("!")]
        assert marked == sorted(far)
        number = f"{len(far)} value{'s' * (len(far) > 1)} would profit from more samples"
        assert number in text
        assert f"by {method} moves by more than 10 %" in text


def test_steady_scales_are_not_marked(here):
    row = ROWS[:1]
    np.save(here / "rows.npy", np.concatenate([row * (1 + i / 1e5) for i in range(20)]))
    assert here.run("calibrate", "model.onnx", "-d", "rows.npy", "-o", "model.table").exit_code == 0
    text = inspect(here).stdout
    assert "would profit" not in text
    assert "No scale by mse moves by more than 10 %" in text
    assert "!" not in text


def test_one_method_in_full(tabled):
    text = inspect(tabled, "--method", "KL").stdout
    for heading in ("SCALE", "OFFSET", "COVERS", "dB", "MOVES"):
        assert heading in text
    assert "MINMAX" not in text
    assert all(list(value["methods"]) == ["kl"] for value in found(tabled, "--method", "kl").values())


def test_one_value_in_detail(tabled):
    text = inspect(tabled, "--value", "x").stdout
    choice = found(tabled, "--value", "x")["x"]["methods"]["mse"]
    assert f"{ROWS.size:,} in 32 samples" in text
    assert f"{choice['scale']:.6g}" in text
    bars = [line for line in text.splitlines() if "█" in line]
    counts = [int(re.search(r"█\S* +([\d,]+)", line)[1].replace(",", "")) for line in bars]
    expected = np.histogram(ROWS, bins=24)[0]
    assert sum(counts) == ROWS.size
    np.testing.assert_allclose(counts, expected, atol=0.01 * ROWS.size)
    assert "from here" in bars[0]
    assert "to here" in bars[-1]
    assert "minmax" in bars[-1]


def test_values_with_nan_and_inf_are_told_and_solved_by_the_others(here):
    here.save("log.onnx", "log")
    rows = np.random.default_rng(0).uniform(0.5, 2, (20, 4)).astype(np.float32)
    rows.flat[:5], rows.flat[5:8] = -1, 0
    np.save(here / "rows.npy", rows)
    assert here.run("calibrate", "log.onnx", "-d", "rows.npy", "-o", "log.table").exit_code == 0
    value = found(here, table="log.table")["logs"]
    assert (value["nan"], value["neg_inf"], value["pos_inf"]) == (5, 3, 0)
    with np.errstate(all="ignore"):
        logs = np.log(rows)
    assert value["max"] == pytest.approx(logs[np.isfinite(logs)].max())
    span = np.ptp(np.append(logs[np.isfinite(logs)], 0))
    assert value["methods"]["minmax"]["scale"] == pytest.approx(span / 255)
    text = inspect(here, table="log.table").stdout
    assert "NAN/INF" in text
    assert "with NaN or Inf" in text
    assert "5 NaN, 0 +Inf, 3 -Inf" in inspect(here, "--value", "logs", table="log.table").stdout


def test_a_table_of_ranges_alone(here):
    assert here.run("calibrate", "model.onnx", "-d", "photos", "-o", "r.table", "--methods", "minmax").exit_code == 0
    for value in found(here, table="r.table").values():
        assert list(value["methods"]) == ["minmax"]
        assert value["methods"]["minmax"]["sqnr_db"] is None
        assert value["methods"]["minmax"]["move"] is not None
    text = inspect(here, table="r.table").stdout
    assert "MINMAX" in text
    assert "KL" not in text
    here.check_refused(
        inspect(here, "--method", "mse", table="r.table"), FAILED, "r.table", "does not hold its histogram"
    )
    assert inspect(here, "--value", "x", table="r.table").exit_code == 0


WRONG = {
    "value": (["--value", "xx"], USAGE, "model.table: unknown value 'xx'; did you mean 'x'?"),
    "method": (["--method", "percentil"], USAGE, "did you mean 'percentile'?"),
    "key": (["--sort", "mov"], USAGE, "did you mean 'move'?"),
    "two forms": (["--json", "--csv"], USAGE, "--json contradicts --csv"),
    "kl": (["--method", "kl", "--bits", "12"], FAILED, "got 12 bits"),
    "module": (["--import", "no_such_module"], FAILED, "no_such_module"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused(tabled, case):
    options, code, words = WRONG[case]
    tabled.check_refused(inspect(tabled, *options), code, words)


def test_what_is_no_table(tabled):
    whole = (tabled / "model.table").read_bytes()
    (tabled / "cut.table").write_bytes(whole[:1000])
    tabled.check_refused(inspect(tabled, table="cut.table"), FAILED, "cut.table", "damaged")
    tabled.check_refused(inspect(tabled, table="modle.table"), FAILED, "did you mean 'model.table'?")
    tabled.check_refused(
        inspect(tabled, table="model.onnx"), FAILED, "model.onnx is not a calibration table but a model"
    )


def test_names_cannot_reach_the_terminal(tabled):
    model = onnx.load(tabled / "model.onnx")
    model.graph.input[0].name = model.graph.node[0].input[0] = "x\x1b[2J"
    onnx.save(model, tabled / "evil.onnx")
    assert tabled.run("calibrate", "evil.onnx", "-d", "rows.npy", "-o", "evil.table").exit_code == 0
    for options in ([], ["--value", "x\x1b[2J"]):
        result = inspect(tabled, *options, table="evil.table")
        assert result.exit_code == 0, result.output
        assert "\x1b" not in result.stdout
        assert "x?[2J" in result.stdout
    assert "x\x1b[2J" in found(tabled, table="evil.table")  # machines get it as it is, escaped


def printed(columns, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_columns(console, columns)
    return console.file.getvalue().splitlines()


def test_what_does_not_fit_is_left_out_by_rank_and_names_keep_their_ends():
    names = [f"model/backbone/a_very_long_stage_name/block_{i}/conv" for i in range(3)]
    columns = [
        Column("VALUE", names, name=True),
        Column("ELEMENTS", ["12.3M"] * 3, rank=3),
        Column("RANGE", ["-123..456"] * 3, rank=2),
        *(Column(f"{m}\ndB", ["12.3"] * 3) for m in ("MINMAX", "PCTILE", "MSE", "KL")),
        *(Column(f"{m}\nSCALE", ["0.001234"] * 3, rank=6) for m in ("MINMAX", "PCTILE", "MSE", "KL")),
    ]
    for width in (70, 80, 140, 500):
        out = printed(columns, width)
        assert max(map(len, out)) <= width
        assert all(out[2 + i].split()[0].endswith(f"block_{i}/conv") for i in range(3))
        assert all(len(line.split()) == len(out[2].split()) for line in out[2:])
    assert "SCALE" not in "\n".join(printed(columns, 80))
    assert "RANGE" in "\n".join(printed(columns, 80))
    assert "SCALE" in "\n".join(printed(columns, 140))
    assert names[0] in printed(columns, 500)[2]


def test_a_histogram_counts_what_is_there():
    sketch = TensorSketch.of(np.float32([0, 0.1, 0.2, 0.9, 0.9, 1.1, 3.9, 4]))
    assert Bars.of(sketch, 4) == Bars([0.0, 1.0, 2.0, 3.0, 4.0], [5, 1, 0, 2])
    assert Bars.of(TensorSketch.of(np.float32([7, 7]))) == Bars([7.0, 7.0], [2])
    assert Bars.of(TensorSketch.of(np.float32([np.nan]))) is None
    out = lines(Bars([-1.0, 0.0, 1.0], [1000, 1]), {}, 30, ascii_only=True)
    assert [line.count("#") for line in out] == [18, 2]
    assert lines(Bars([7.0, 7.0], [2]), {}, 30)[0].split() == ["7", "█" * 23, "2"]
