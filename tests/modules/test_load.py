"""From a module to its graph: numbers, names, free batch, and a module that is left as it was."""

import contextlib
import copy
import warnings
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from calibrant.core import ExportError, ModelError
from calibrant.exporters import files
from calibrant.graph import load_onnx_graph
from calibrant.modules import example_of, load_torch_module

torch = pytest.importorskip("torch", reason="the extra calibrant[torch] is not installed")
from torch import nn  # noqa: E402


def load(module, inputs, **options):
    example, _ = example_of(module, inputs)
    return load_torch_module(module, example, **options)


def run(graph, *inputs):
    session = ort.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    feeds = {spec.name: tensor.numpy() for spec, tensor in zip(session.get_inputs(), inputs, strict=True)}
    return session.run(None, feeds)


def computes_the_same(graph, module, *inputs):
    """Whether the graph gives what the module gives when it infers."""
    with torch.no_grad():
        expected = copy.deepcopy(module).eval()(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for got, want in zip(run(graph, *inputs), expected, strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)
    return True


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class Net(nn.Module):
    """A small ResNet, with a Linear over three axes, a Dropout, and a Block that runs twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(Block(), Block())
        self.mix = nn.Linear(36, 6)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 5)

    def forward(self, image):
        x = self.layer1(self.stem(image))
        x = self.layer1[0](x)
        mixed = self.mix(x.flatten(2))
        return self.fc(self.drop(x.mean((2, 3)))), mixed


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    module = Net()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias)
    module.layer1[1].eval()  # half of it in training, half not
    return module


def state_of(module):
    """Everything that an export might change."""
    parts = dict(module.named_modules())
    return {
        "modes": {name: part.training for name, part in parts.items()},
        "attributes": {name: sorted(vars(part)) for name, part in parts.items()},
        "hooks": {name: len(part._forward_hooks) for name, part in parts.items()},
        "numbers": {name: tensor.tolist() for name, tensor in module.state_dict().items()},
        "gradients": {name: tensor.requires_grad for name, tensor in module.named_parameters()},
    }


@pytest.fixture(scope="module")
def loaded(net, tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("empty"), state_of(net)
    with contextlib.chdir(folder):
        graph = load(net, torch.randn(1, 3, 8, 8))
    assert list(folder.iterdir()) == []
    assert state_of(net) == before
    assert len(set(before["modes"].values())) == 2
    return graph


IMAGES = torch.linspace(-1, 1, 5 * 3 * 64).reshape(5, 3, 8, 8)


def test_a_network_computes_the_same_for_any_batch(net, loaded):
    assert computes_the_same(loaded, net, IMAGES)
    assert computes_the_same(loaded, net, IMAGES[:1])
    assert loaded.shape_of("image") == ["batch", 3, 8, 8]
    assert loaded.shape_of("layer1.0.relu") == ["batch", 4, 6, 6]


def test_a_network_s_names_are_those_of_its_modules(loaded):
    nodes = {n.name: (n.op_type, n.outputs[0].name) for n in loaded.model.graph}
    assert nodes["stem"] == ("Conv", "stem")
    assert nodes["layer1.0.conv1"] == ("Conv", "layer1.0.bn1")  # the BatchNormalization is folded into it
    assert nodes["layer1.1.conv2"] == ("Conv", "layer1.1.bn2")
    assert nodes["layer1.1.relu"] == ("Relu", "layer1.1.relu")
    assert nodes["layer1.1.Add"] == ("Add", "layer1.1.Add")
    assert nodes["layer1.1.relu_1"] == ("Relu", "layer1.1.relu_1")
    assert nodes["layer1.0.conv1_1"] == ("Conv", "layer1.0.bn1_1")  # it runs twice
    assert nodes["mix"][0] == "MatMul"
    assert nodes["mix.Add"] == ("Add", "output_1")
    assert nodes["fc"] == ("Gemm", "output_0")
    for name in ("layer1.1.conv1", "layer1.1.conv2", "stem", "fc"):
        assert loaded.input_of(name, 1) == f"{name}.weight"
        assert loaded.input_of(name, 2) == f"{name}.bias"
    assert loaded.input_of("mix", 1) == "mix.weight"


def test_batch_normalization_is_folded_and_the_mean_is_a_pool(loaded):
    assert {"BatchNormalization", "ReduceMean", "Dropout"}.isdisjoint(n.op_type for n in loaded.model.graph)
    assert len(loaded.outputs_of_type("GlobalAveragePool")) == 1


class Raises(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else x + 1


def test_a_module_that_cannot_be_traced_is_an_error_in_one_line_and_left_as_it_was(capfd):
    module = Raises()
    with pytest.raises(
        ModelError, match=r"Raises cannot be exported to ONNX: Could not guard on data-dependent"
    ) as caught:
        load(module, torch.ones(2, 3))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert module.training
    assert not module._forward_hooks


class Merging(nn.Linear):
    """As LoRA layers do it: the update is part of the weight while the module is in evaluation mode."""

    def train(self, mode=True):
        if mode != self.training:
            self.weight.data += -1 if mode else 1
        return super().train(mode)

    def get_extra_state(self):
        return {"merged": not self.training}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize("outer", [True, False])
def test_what_a_module_does_when_it_changes_its_mode_is_undone(outer):
    module = nn.Sequential(Merging(4, 4), nn.Linear(4, 4))
    module.training = outer
    weight = module[0].weight.detach().clone()
    load(module, torch.ones(2, 4))
    torch.testing.assert_close(module[0].weight.detach(), weight)
    assert [part.training for part in module.modules()] == [outer, True, True]


class NoOnnx(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x).S


def test_an_operator_without_onnx_form_is_named():
    with pytest.raises(ModelError, match=r"NoOnnx cannot be exported to ONNX: No (ONNX function|decompositions).*svd"):
        load(NoOnnx(), torch.ones(2, 3))


def test_a_scripted_module_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has deprecated what makes it
        scripted = torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3))
    with pytest.raises(ModelError, match="scripted"):
        example_of(scripted, torch.ones(1, 3))


class FixesItsBatch(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1) * 2 if x.shape[0] == 2 else x.relu()


@pytest.mark.parametrize("batch", [2, 1])
def test_a_batch_that_cannot_be_free_is_fixed_and_reported(batch, caplog):
    module = FixesItsBatch()
    graph = load(module, torch.ones(batch, 3))
    assert graph.shape_of("x") == [batch, 3]
    (note,) = graph.report
    assert note.startswith(f"the batch is fixed at {batch}: You marked L['x'].size()[0] as dynamic but your code")
    assert note in caplog.messages
    assert computes_the_same(graph, module, -torch.ones(batch, 3))


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]
    loss: torch.Tensor | None = None


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, ids, pair=None, *, mask=None, scale=1.0):
        x = self.fc(ids) * scale
        if mask is not None:
            x = x + mask
        if pair is not None:
            x = x + pair[0] - pair[1]["k"]
        return Answer(logits=x, hidden=(x.relu(), ids))


def test_inputs_and_outputs_have_the_names_that_the_module_gives_them_and_weights_are_copied():
    x, y = torch.randn(2, 4), torch.randn(2, 3)
    graph = load(Named(), {"ids": x, "pair": (y, {"k": y}), "mask": y, "scale": 0.5})
    assert graph.input_names == ["ids", "pair_0", "pair_1_k", "mask"]
    assert graph.output_names == ["logits", "hidden_0", "hidden_1"]
    assert [graph.shape_of(name)[0] for name in graph.input_names] == ["batch"] * 4
    module = Named()
    graph = load(module, {"mask": y, "ids": x})  # out of forward's order
    assert graph.input_names == ["ids", "mask"]
    expected = module(x, mask=y)
    assert isinstance(expected, Answer)
    with torch.no_grad():
        module.fc.weight.zero_()  # what it learns afterwards is not the graph's
    np.testing.assert_allclose(run(graph, x, y)[0], expected.logits.detach(), rtol=1e-5, atol=1e-6)


class Echo(nn.Module):
    def forward(self, x, unused):
        return {"x": x, "y": x * 2, "twice": [x, x]}


def test_outputs_that_are_inputs_do_not_take_their_names():
    graph = load(Echo(), (torch.randn(2, 4), torch.randn(2, 4)))
    assert graph.input_names == ["x", "unused"]
    assert graph.output_names == ["x_1", "y", "twice_0", "twice_1"]
    x = torch.randn(3, 4)
    assert all(np.array_equal(got, x) for got in run(graph, x, x)[2:])


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 6, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


def test_recurrent_modules_whose_decompositions_warn():
    module = Recurrent()
    graph = load(module, torch.randn(2, 5, 4))
    assert computes_the_same(graph, module, torch.randn(3, 5, 4))
    assert isinstance(module.rnn._flat_weights[0], nn.Parameter)


def test_a_transformer_layer_under_no_grad():
    torch.manual_seed(1)
    module = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with torch.no_grad():
        graph = load(module, torch.randn(1, 5, 8))
    assert computes_the_same(graph, module, torch.randn(3, 5, 8))
    kinds = {n.name: n.op_type for n in graph.model.graph}
    assert kinds["self_attn.in_proj"] == "MatMul"
    assert kinds["linear1"] == "MatMul"
    assert graph.input_of("linear1", 1) == "linear1.weight"


def test_the_file_is_kept_where_asked_and_loads_as_the_same_graph(net, loaded, tmp_path):
    graph = load(net, torch.randn(4, 3, 8, 8), keep=tmp_path / "net.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    onnx.checker.check_model(tmp_path / "net.onnx", full_check=True)
    again = load_onnx_graph(tmp_path / "net.onnx")
    assert again.fingerprint == graph.fingerprint == loaded.fingerprint
    assert again.to_bytes() == graph.to_bytes() == loaded.to_bytes()
    assert b"test_load.py" not in (tmp_path / "net.onnx").read_bytes()  # nothing of where it was made


def test_nothing_is_left_of_an_export_that_fails(tmp_path):
    with pytest.raises(ModelError):
        load(Raises(), torch.ones(2, 3), keep=tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ExportError, match=r"folder .* does not exist"):
        load(nn.Linear(3, 2), torch.ones(2, 3), keep=tmp_path / "nowhere" / "net.onnx")


def test_models_too_large_for_one_file_have_their_weights_beside(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "PROTOBUF_LIMIT", 1000)
    module = nn.Linear(64, 32)
    graph = load(module, torch.ones(2, 64), keep=tmp_path / "net.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert load_onnx_graph(tmp_path / "net.onnx").fingerprint == graph.fingerprint
    assert computes_the_same(graph, module, torch.randn(2, 64))
