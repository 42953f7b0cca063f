import numpy as np
import onnx.defs
import pytest

from calibrant.core import SettingError, TargetPlatform
from calibrant.core.platforms import WITH_TABLE
from calibrant.quantizers import TABLES, table_of
from calibrant.quantizers.fusion import PATTERNS
from calibrant.quantizers.rows import Kind, Role, Table

OPERATORS = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain and not schema.deprecated}
ALL = pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.platform.name)


def test_the_four_platforms_have_tables_and_others_are_refused_by_name():
    assert tuple(TABLES) == WITH_TABLE
    assert {p.name for p in TABLES} == {"ONNXRUNTIME", "TRT_INT8", "OPENVINO_INT8", "PPL_CUDA_INT8"}
    assert all(table.platform is platform for platform, table in TABLES.items())
    with pytest.raises(SettingError, match=r"NCNN_INT8 has no quantization table.*ONNXRUNTIME, OPENVINO_INT8"):
        table_of(TargetPlatform.NCNN_INT8)


@ALL
def test_every_operator_exists(table: Table):
    assert set(table.rows) <= OPERATORS
    assert set(table.float_because) <= OPERATORS
    for row in table.rows.values():
        assert set(row.fuses) <= OPERATORS | set(PATTERNS)


@ALL
def test_rows_fit_the_operators(table: Table):
    for op_type, row in table.rows.items():
        schema = onnx.defs.get_schema(op_type)
        variadic = bool(schema.inputs) and schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
        meant = [role for role in row.roles if role is not Role.OTHER]
        assert variadic or len(meant) <= len(schema.inputs), op_type
        assert row.role(0) is Role.DATA
        assert row.kind is Kind.COMPUTE or Role.WEIGHT not in row.roles
        for index, parameter in enumerate(schema.inputs):  # what holds shapes or indices is never data
            if row.role(index) is not Role.OTHER:
                assert "tensor(float)" in parameter.types, (op_type, parameter.name)


@ALL
def test_no_row_and_reason_contradict_each_other(table: Table):
    unused = set(table.float_because) & set(table.rows)
    assert not unused


@pytest.mark.parametrize(
    ("platform", "method", "activation", "weight"),
    [
        ("ONNXRUNTIME", "mse", (0, 255, False), (-127, 127)),
        ("TRT_INT8", "kl", (-127, 127, True), (-127, 127)),
        ("OPENVINO_INT8", "minmax", (0, 255, False), (-127, 127)),
        ("PPL_CUDA_INT8", "percentile", (-128, 127, True), (-128, 127)),
    ],
)
def test_methods_and_grids(quantized, platform, method, activation, weight):
    graph = quantized("(float[1,3,8,8] x) => (float[1,4,8,8] y) { y = Conv(x, w) }", platform, w=(4, 3, 1, 1))
    config = graph.config_of("x")
    assert (config.quant_min, config.quant_max, config.is_symmetric) == activation
    assert (config.observer_algorithm, config.is_per_channel, config.num_of_bits) == (method, False, 8)
    weights = graph.edges["Conv_0", 1]
    assert (weights.quant_min, weights.quant_max) == weight
    assert (weights.is_symmetric, weights.channel_axis) == (True, 0)
    assert weights.observer_algorithm == table_of(graph.platform).weight_method


@pytest.mark.parametrize("platform", ["TRT_INT8", "OPENVINO_INT8", "PPL_CUDA_INT8", "ONNXRUNTIME"])
def test_biases(quantized, platform):
    graph = quantized(
        "(float[1,3,8,8] x) => (float[1,4,8,8] y) { y = Conv(x, w, b) }", platform, w=(4, 3, 1, 1), b=(4,)
    )
    bias = graph.edges.get(("Conv_0", 2))
    if platform != "ONNXRUNTIME":
        assert bias is None
    else:
        assert (bias.num_of_bits, bias.quant_min, bias.quant_max) == (32, -(2**31), 2**31 - 1)
        assert (bias.state.name, bias.channel_axis, bias.is_symmetric) == ("PASSIVE_INIT", 0, True)


def test_onnxruntimes_method_depends_on_what_reads_the_value(quantized):
    text = """(float[N,4,2,2] x) => (float[N,5] y) {
        c = Conv(x, w) d = Clip(c, zero, six) e = Conv(d, w) r = Relu(e) f = Flatten(r) y = Gemm(f, v)
    }"""
    graph = quantized(text, w=(4, 4, 1, 1), v=(16, 5), zero=np.float32(0), six=np.float32(6))
    table = table_of(TargetPlatform.ONNXRUNTIME)
    methods = {name: g.config.observer_algorithm for g in [*graph.groups, *graph.float_outputs] for name in g.values}
    assert methods["x"] == table.saturated_method == "percentile"  # a Conv with a ReLU6 reads it
    assert methods["d"] == methods["r"] == table.method == "mse"
    assert methods["y"] == table.output_method == "minmax"
