from onnx import parser

from calibrant.core import TargetPlatform
from calibrant.graph import load_onnx_graph
from calibrant.quantizers import quantize_graph
from calibrant.settings import QuantizationSetting


def test_conv_and_clip_share_one_config():
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        cnn (float[N,1,8,8] x) => (float[N,1,8,8] y) <float[1,1,1,1] w = {2.0}, float[1] b = {1.0}, float lo = {0.0}, float hi = {6.0}> {
          c = Conv(x, w, b)
          y = Clip(c, lo, hi)
        }"""  # noqa: E501
    )
    graph = load_onnx_graph(model)
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME, QuantizationSetting())
    assert [g.values for g in graph.groups] == [["x"], ["y"]]
    assert graph.config_of("c") is None
    assert [graph.edges["Conv_0", i].num_of_bits for i in (1, 2)] == [8, 32]
