"""Settings: typed, validated, and back from JSON unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.core import SettingError, TargetPlatform
from calibrant.settings import QuantizationSetting, QuantizationSettingFactory


@given(
    method=st.sampled_from([None, "kl", "mse", "my_own"]),
    bits=st.integers(2, 16),
    percentile=st.floats(0.5, 1),
    names=st.lists(st.text(max_size=8), max_size=3),
    fusion=st.booleans(),
)
def test_json_round_trip(method, bits, percentile, names, fusion):
    setting = QuantizationSettingFactory.default_setting()
    setting.quantize_activation_setting.calib_algorithm = method
    setting.quantize_activation_setting.num_of_bits = bits
    setting.quantize_activation_setting.percentile = percentile
    setting.leave_in_float = names
    setting.fusion = fusion
    setting.dispatching_table.append("Conv_3", TargetPlatform.FP32)
    setting.overrides = {"x": {"num_of_bits": bits, "symmetric": fusion}}
    again = QuantizationSetting.from_json(setting.to_json())
    assert again == setting
    assert list(again.dispatching_table) == [("Conv_3", TargetPlatform.FP32)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"fussion": true}', "did you mean 'fusion'"),
        ('{"quantize_activation_setting": {"calib_algoritm": "kl"}}', "did you mean 'calib_algorithm'"),
        ('{"fusion": "yes"}', "fusion takes bool, got 'yes'"),
        ('{"quantize_activation_setting": {"num_of_bits": 40}}', "num_of_bits takes one of 2, 3"),
        ('{"quantize_activation_setting": {"num_of_bits": true}}', "takes int, got True"),
        ('{"quantize_activation_setting": 3}', "takes a mapping"),
        ('{"quantize_activation_setting": {"activation_type": "int9"}}', "int8, uint8"),
        ('{"overrides": {"a": {"bits": 8}}}', "unknown key in the override of 'a' 'bits'"),
        ('{"overrides": {"a": {"num_of_bits": "8"}}}', "num_of_bits takes int"),
        ("[1]", "a setting is a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_what_is_wrong_is_said(text, words):
    with pytest.raises(SettingError, match=words):
        QuantizationSetting.from_json(text)


def test_assignment_is_checked_as_well():
    setting = QuantizationSetting()
    with pytest.raises(SettingError, match="did you mean 'quantize_activation'"):
        setting.quantise_activation = False
    with pytest.raises(SettingError, match="did you mean 'TRT_INT8'"):
        setting.dispatching_table.append("Conv_0", "TRT_INT")
    assert setting == QuantizationSetting()


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SettingError, match=r"nowhere\.json"):
        QuantizationSetting.from_file(tmp_path / "nowhere.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"fussion": true}')
    with pytest.raises(SettingError, match=r"broken\.json: unknown key"):
        QuantizationSetting.from_file(broken)
