"""The integers that are stored."""

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.core import StateError
from calibrant.exporters.storage import fills_type, integers, scale_and_zero_point, storage_type


@pytest.mark.parametrize(
    ("grid", "kind", "fills"),
    [
        ({}, "UINT8", True),
        ({"signed": True}, "INT8", True),
        ({"symmetric": True, "quant_min": -127}, "INT8", False),
        ({"bits": 7}, "UINT8", False),
        ({"bits": 2, "signed": True}, "INT8", False),
        ({"bits": 9}, "UINT16", False),
        ({"bits": 16}, "UINT16", True),
        ({"bits": 16, "symmetric": True}, "INT16", True),
    ],
)
def test_the_smallest_type_that_holds_the_grid(grid, kind, fills, kit):
    config = kit.activation(**grid)
    assert storage_type(config) is ir.DataType[kind]
    assert fills_type(config) is fills


def test_a_bias_keeps_more_digits_than_float32_has(kit):
    config = kit.bias()
    config.scale, config.offset = np.float32([1e-7, 1e-3]), np.zeros(2)
    bias = np.float32([90.000001, -1.5])
    exact = np.rint(bias.astype(np.float64) / config.scale.astype(np.float64))
    assert exact[0] > 2**29
    assert np.float32(bias[0] / config.scale[0]) != exact[0]  # the trap is real
    stored = integers(bias, config)
    assert stored.dtype == np.int32
    np.testing.assert_array_equal(stored, exact)


def test_a_config_without_scale_is_refused(kit):
    with pytest.raises(StateError, match="calibrate first"):
        scale_and_zero_point(kit.activation())
