"""The choices of a session, and the errors they can give."""

import onnxruntime as ort
import pytest

from calibrant.core import ModelError, SettingError
from calibrant.engines import OnnxruntimeExecutor
from calibrant.engines.session import CPU, Runtime, reason, usable_processors


@pytest.mark.parametrize("providers", [None, [], "cpu", [CPU], ["cpuexecutionprovider"], ("CPU",), ("cpu", {})])
def test_the_cpu_by_any_name(providers):
    runtime = Runtime.of(providers, None)
    assert runtime.on_cpu_only
    assert runtime.threads == usable_processors() >= 1


def test_options_of_a_provider_are_kept():
    runtime = Runtime.of([("cpu", {"arena": "1"})], 3)
    assert runtime.providers == ((CPU, {"arena": "1"}),)
    assert runtime.threads == 3


def test_a_mistyped_provider(elementwise):
    with pytest.raises(SettingError, match="unknown execution provider 'cpuu'"):
        OnnxruntimeExecutor(elementwise, "cpuu")
    with pytest.raises(SettingError, match="did you mean 'CPUExecutionProvider'"):
        OnnxruntimeExecutor(elementwise, ["CPUExecutionProvidr"])


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_a_provider_that_is_not_installed_is_no_cpu(elementwise):
    with pytest.raises(SettingError, match=r"CUDAExecutionProvider is not part of .* CPUExecutionProvider"):
        OnnxruntimeExecutor(elementwise, ["cuda", "cpu"])


def test_a_provider_that_does_not_start_is_no_cpu(elementwise, monkeypatch):
    executor = OnnxruntimeExecutor(elementwise)
    monkeypatch.setattr(ort.InferenceSession, "get_providers", lambda self: [])
    with pytest.raises(SettingError, match="CPUExecutionProvider could not be started"):
        executor._runtime.open(elementwise.to_bytes())


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two", True])
def test_threads_start_at_one(elementwise, threads):
    with pytest.raises(SettingError, match="threads"):
        OnnxruntimeExecutor(elementwise, threads=threads)


def test_a_damaged_model():
    with pytest.raises(ModelError, match=r"onnxruntime .* cannot run the model: .*protobuf"):
        Runtime.of(None, 1).open(b"not a model")


def test_sessions_do_not_spin_and_use_the_threads(elementwise):
    session = Runtime.of(None, 3).open(elementwise.to_bytes())
    options = session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_the_description_says_what_computes(elementwise):
    assert OnnxruntimeExecutor(elementwise).description == f"onnxruntime {ort.__version__} {CPU}"


def test_reason_is_one_line_without_the_status():
    text = "[ONNXRuntimeError] : 10 : INVALID_GRAPH : This is an\ninvalid model : it says"
    assert reason(RuntimeError(text)) == "This is an invalid model : it says"
    assert reason(RuntimeError("plain")) == "plain"
    place = "/src/core/graph/model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&, const Options&) "
    assert reason(RuntimeError(f"Load failed:{place}Unsupported version: 99")) == "Load failed:Unsupported version: 99"
    assert reason(RuntimeError("model.cc (2) : what")) == "model.cc (2) : what"


def test_input_specs(models):
    graph = models["parse"](
        '<ir_version: 8, opset_import: ["" : 17]> g (int64[-1, 4] ids, float16[2] rate, string[S] text) '
        "=> (int64[-1, 4] out) { out = Neg(ids) }"
    )
    specs = OnnxruntimeExecutor(graph).input_specs
    assert list(map(str, specs)) == ["'ids': int64[?, 4]", "'rate': float16[2]", "'text': object[S]"]
