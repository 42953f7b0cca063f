"""`calibrant quantize` on a tiny model: what comes out runs, and what is printed is true."""

import json
import re
from unittest import mock

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from calibrant.cli.app import app
from calibrant.settings import QuantizationSetting
from tests.runtime import opened


def outputs(path, x):
    session = opened(path)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def provenance(path):
    return {p.key: p.value for p in onnx.load(path).metadata_props}


def recorded_setting(path):
    [text] = [v for k, v in provenance(path).items() if "setting" in k]
    return QuantizationSetting.from_json(text)


def test_photos_to_a_model_that_runs(here):
    result = here.quantize("--method", "minmax")
    assert result.exit_code == 0, result.output
    x = np.random.default_rng(7).random((2, 3, 16, 16), np.float32)
    expected, got = outputs(here / "model.onnx", x), outputs(here / "out.onnx", x)
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
    assert "QuantizeLinear" in {n.op_type for n in onnx.load(here / "out.onnx").graph.node}


def test_the_summary_says_what_was_done(here):
    (here / "photos" / "notes.txt").touch()
    text = here.quantize("--samples", "16", "--method", "MinMax", "--activation-type", "uint8").stdout
    for words in (
        "model.onnx, quantized for ONNXRUNTIME",
        "16 from 'photos'",
        "resized to cover 16x16, centre 16x16, RGB, NCHW, pixels 0..1",
        "1 file of another kind ignored",
        "calibrated by minmax: uint8 asymmetric",
        "2 in int8 symmetric per channel",
        "2 biases in int32",
        "calibrate",
        "written to   out.onnx",
        "say so with --mean and --std",
    ):
        assert words in text
    sizes = [(here / name).stat().st_size for name in ("model.onnx", "out.onnx")]
    assert f"{sizes[0] / 1000:.1f} kB -> {sizes[1] / 1000:.1f} kB" in text


def test_few_samples_are_warned_about_and_more_is_the_next_step(here):
    text = here.quantize("--samples", "4", "--mean", "127", "--std", "128").stdout
    assert "4 of the 16 in 'photos', evenly spread" in text
    assert "minus 127, over 128" in text
    assert "warning" in text
    assert "few samples to calibrate on: 4" in text.split("warning")[1]
    assert "next         give more samples" in text


def test_the_next_step_is_a_line_to_type(here):
    np.save(here / "many.npy", np.random.default_rng(0).normal(size=(64, 3, 16, 16)).astype(np.float32))
    result = here.run("quantize", "model.onnx", "-d", "many.npy", "--samples", "40", "-o", "q.onnx")
    assert result.exit_code == 0, result.output
    line = next(line for line in result.stdout.splitlines() if line.strip().startswith("next"))
    assert line.endswith("calibrant compare model.onnx q.onnx --data OTHER_SAMPLES")


@pytest.mark.parametrize("mean", [["0.5", "0.4", "0.3"], ["0.5,0.4,0.3"], ["0.5, 0.4, 0.3"]])
def test_three_numbers_with_spaces_or_commas(here, mean):
    result = here.quantize("--mean", *mean, "--std", "0.5", "--samples", "2")
    assert "minus 0.5 0.4 0.3, over 0.5" in result.stdout


def test_quiet_says_nothing(here):
    result = here.quantize("--quiet", "--samples", "2")
    assert result.exit_code == 0
    assert result.output == ""
    assert (here / "out.onnx").exists()


def test_verbose_logs_while_it_works(here):
    result = here.quantize("--verbose", "--samples", "2")
    assert "warning: few samples to calibrate on: 2" in result.stderr


def test_existing_output_is_replaced_with_force_only(here):
    (here / "out.onnx").write_text("precious")
    assert here.quantize().exit_code == 1
    assert (here / "out.onnx").read_text() == "precious"
    assert here.quantize("--force").exit_code == 0
    assert onnx.load(here / "out.onnx").graph.node


def test_dry_run_names_who_reads_a_value_inside_of_an_if(here):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x, bool k) => (float[1,3] y, float[1,4] z) {
        y = MatMul(x, w)
        z = If (k) <
            then_branch = t () => (float[1,4] a) { [inside] a = Neg(x) },
            else_branch = e () => (float[1,4] b) { b = Abs(x) }
        >
    }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    onnx.save(model, here / "if.onnx")
    result = here.run("quantize", "if.onnx", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "Neg inside" in result.output


@pytest.mark.parametrize(("method", "told"), [("mse", True), ("isotone", False)])
def test_that_an_output_stays_in_float_is_told_where_it_does(here, method, told):
    result = here.quantize("--method", method)
    assert ("output 'y' stays in float" in result.output) is told


def test_dry_run_shows_the_plan_and_writes_nothing(here):
    before = here.files()
    result = here.run("quantize", "model.onnx", "--dry-run", "--leave-in-float", "fc", "--method", "kl", "--bits", "4")
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert re.fullmatch(r"x +the input +u?int4 asymmetric +kl +conv *", lines["x"])
    assert "Relu" in lines["r"]
    assert "Gemm (fc)" in result.stdout  # left in float, with the reason
    assert "nothing was written" in result.stdout
    assert here.files() == before


def setting_of(*options):
    """What the command makes of these options, caught before the work."""
    with mock.patch("calibrant.cli.job.Job.run", autospec=True) as run:
        result = CliRunner().invoke(app, ["quantize", "m.onnx", *options])
    assert result.exit_code == 0, result.output
    return run.call_args.args[0].choices.to_setting()


OPTIONS = {
    ("--method", "percentile", "--percentile", "0.99"): {"calib_algorithm": "percentile", "percentile": 0.99},
    ("--bits", "16"): {"num_of_bits": 16},
    ("--symmetric",): {"symmetric": True},
    ("--asymmetric",): {"symmetric": False},
    ("--activation-type", "INT8"): {"activation_type": "int8"},
    ("--reduce-range",): {"reduce_range": True},
    ("--power-of-2",): {"power_of_2": True},
    ("--ignore-nonfinite",): {"ignore_nonfinite": True},
    ("--per-channel-activations",): {"per_channel": True},
}


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_options_reach_the_activation_setting(options):
    found = setting_of(*options).quantize_activation_setting.to_dict()
    default = QuantizationSetting().quantize_activation_setting.to_dict()
    assert {key: value for key, value in found.items() if value != default[key]} == OPTIONS[options]


def test_weight_options_reach_the_setting():
    weights = setting_of("--weight-bits", "4", "--per-tensor", "--weight-method", "mse")
    assert weights.quantize_parameter_setting.num_of_bits == 4
    assert weights.quantize_parameter_setting.per_channel is False
    assert weights.quantize_parameter_setting.calib_algorithm == "mse"
    assert setting_of("--weights-only").quantize_activation is False


def test_options_come_before_the_setting_file_and_add_to_its_lists(here):
    file = QuantizationSetting()
    file.quantize_activation_setting.calib_algorithm = "kl"
    file.quantize_activation_setting.percentile = 0.5
    file.leave_in_float = ["a"]
    file.overrides = {"u": {"num_of_bits": 4}, "v": {"num_of_bits": 4, "symmetric": True}}
    (here / "setting.json").write_text(file.to_json())
    options = ["--method", "minmax", "--leave-in-float", "b", "--override", "v:bits=8", "--override", "w:method=mse"]
    setting = setting_of("--setting", "setting.json", *options)
    assert setting.quantize_activation_setting.calib_algorithm == "minmax"
    assert setting.quantize_activation_setting.percentile == 0.5
    assert setting.leave_in_float == ["a", "b"]
    assert setting.overrides == {"u": {"num_of_bits": 4}, "v": {"num_of_bits": 8}, "w": {"calib_algorithm": "mse"}}


def test_the_setting_is_recorded_in_the_file(here):
    assert here.quantize("--method", "minmax", "--weight-bits", "7", "--samples", "2").exit_code == 0
    setting = recorded_setting(here / "out.onnx")
    assert setting.quantize_activation_setting.calib_algorithm == "minmax"
    assert setting.quantize_parameter_setting.num_of_bits == 7


def test_leave_in_float_only_and_override_change_the_model(here):
    def quantized(*options):
        assert here.quantize("--force", "--samples", "2", *options).exit_code == 0
        return [n.op_type for n in onnx.load(here / "out.onnx").graph.node].count("DequantizeLinear")

    everything = quantized()
    assert quantized("--leave-in-float", "Gemm") < everything
    assert quantized("--only", "fc") < everything
    result = here.run("quantize", "model.onnx", "--dry-run", "--override", "x:bits=16,symmetric=true")
    assert "int16 symmetric" in result.stdout


def test_weights_only_needs_no_samples(here):
    result = here.run("quantize", "model.onnx", "--output", "out.onnx", "--weights-only")
    assert result.exit_code == 0, result.output
    assert "activations  in float" in result.stdout
    kinds = [n.op_type for n in onnx.load(here / "out.onnx").graph.node]
    assert "DequantizeLinear" in kinds
    assert "QuantizeLinear" not in kinds


SOLVES = """
class Wide(BaseTensorObserver):
    sketches = (Extremes,)
    def solve(self, sketch):
        return np.float32(2.0), np.float32(0.0)
"""
LOOKS_AT_VALUES = """
class Wide(BaseTensorObserver):
    def observe(self, value):
        self.seen = True
    def render_quantization_config(self):
        assert self.seen
        self._quant_cfg.scale, self._quant_cfg.offset = 2.0, 0.0
        self._quant_cfg.state = QuantizationStates.ACTIVATED
"""
IMPORTS = """
import numpy as np
from calibrant import BaseTensorObserver, QuantizationStates, register_calibration_observer
from calibrant.sketches import Extremes
"""


@pytest.mark.parametrize("form", [SOLVES, LOOKS_AT_VALUES])
def test_a_method_of_your_own(here, form):
    name = f"my_observer_{form is SOLVES}".lower()
    (here / f"{name}.py").write_text(f"{IMPORTS}{form}\nregister_calibration_observer('Wide', Wide)\n")
    result = here.quantize("--import", name, "--method", "wide")
    assert result.exit_code == 0, result.output
    scales = [onnx.numpy_helper.to_array(t) for t in onnx.load(here / "out.onnx").graph.initializer]
    assert any(s.size == 1 and s == np.float32(2) for s in scales)
    assert "calibrated by wide" in result.stdout


def test_every_file_that_was_written_is_named(here):
    result = here.quantize("--platform", "ppl_cuda")
    assert result.exit_code == 0, result.output
    assert "written to   out.onnx, out.json" in result.stdout
    assert here.files() == ["model.onnx", "out.json", "out.onnx", "photos"]


def test_the_size_counts_external_data(here):
    model = onnx.load(here / "model.onnx")
    onnx.save(model, here / "big.onnx", save_as_external_data=True, location="big.weights", size_threshold=0)
    total = sum((here / name).stat().st_size for name in ("big.onnx", "big.weights"))
    result = here.quantize("--samples", "2", model="big.onnx")
    assert result.exit_code == 0, result.output
    assert f"{total / 1000:.1f} kB -> " in result.stdout


def test_data_that_is_not_needed_is_mentioned(here):
    assert "--data was not read" in here.quantize("--weights-only").stdout


def test_two_inputs_from_npz(here):
    here.save("two.onnx", "two")
    rng = np.random.default_rng(0)
    arrays = {"ids": rng.integers(0, 10, (20, 6)), "mask": np.ones((20, 6), np.int64)}
    np.savez(here / "tokens.npz", **arrays)
    result = here.quantize("--batch-size", "4", model="two.onnx", data="tokens.npz")
    assert result.exit_code == 0, result.output
    assert "20 from 'tokens.npz'" in result.stdout
    assert "QuantizeLinear" in {n.op_type for n in onnx.load(here / "out.onnx").graph.node}


def test_samples_from_a_function(here):
    code = "import numpy as np\ndef samples():\n    for i in range(99): yield np.full((1, 3, 16, 16), i, np.float32)\n"
    (here / "my_samples_for_the_command.py").write_text(code)
    result = here.quantize("--samples", "20", data="my_samples_for_the_command:samples")
    assert result.exit_code == 0, result.output
    assert "20 from 'my_samples_for_the_command:samples'" in result.stdout


def test_json_of_a_setting_is_what_the_option_takes(here):
    (here / "s.json").write_text(json.dumps({"leave_in_float": ["Gemm"]}))
    assert here.quantize("--setting", "s.json", "--samples", "2").exit_code == 0
    assert recorded_setting(here / "out.onnx").leave_in_float == ["Gemm"]
