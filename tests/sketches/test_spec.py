"""SketchSpec: what is refused, and the union of two."""

import pytest

from calibrant.core import SettingError
from calibrant.sketches import SketchSpec


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mantissa_bits": 13}, "mantissa_bits"),
        ({"channel_mantissa_bits": 0}, "mantissa_bits"),
        ({"channel_axis": "1"}, "channel_axis must be an integer or None, got '1'"),
        ({"isotone_axis": True}, "isotone_axis must be an integer or None, got True"),
        ({"per_channel": True}, "per_channel needs to know the channels: give channel_axis"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        SketchSpec(**settings)


@pytest.mark.parametrize(
    ("one", "other", "union"),
    [
        ({}, {}, {}),
        ({"histogram": False, "mantissa_bits": 10}, {}, {}),
        ({"histogram": False}, {"mantissa_bits": 10}, {"mantissa_bits": 10}),
        ({"channel_axis": 1}, {"isotone_axis": -1}, {"channel_axis": 1, "isotone_axis": -1}),
        (
            {"channel_axis": 1, "per_channel": True, "channel_mantissa_bits": 7},
            {"histogram": False},
            {"channel_axis": 1, "per_channel": True, "channel_mantissa_bits": 7},
        ),
    ],
)
def test_union_collects_what_both_need(one, other, union):
    assert SketchSpec(**one).union(SketchSpec(**other)) == SketchSpec(**union)
    assert SketchSpec(**other).union(SketchSpec(**one)) == SketchSpec(**union)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"mantissa_bits": 8}, {"mantissa_bits": 9}),
        ({"channel_axis": 1}, {"channel_axis": 2}),
        ({"isotone_axis": 1}, {"isotone_axis": -1}),
        (
            {"channel_axis": 1, "per_channel": True, "channel_mantissa_bits": 5},
            {"channel_axis": 1, "per_channel": True, "channel_mantissa_bits": 6},
        ),
    ],
)
def test_union_of_a_conflict_is_refused(one, other):
    with pytest.raises(SettingError, match=f"two uses of one value need {list(one)[-1]}"):
        SketchSpec(**one).union(SketchSpec(**other))
