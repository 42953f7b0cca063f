"""Files appear whole or not at all."""

import os

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant.core import ExportError, TargetPlatform
from calibrant.core.files import whole_files
from calibrant.exporters import EXPORTERS, files
from calibrant.exporters.files import external_name, save_model


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_text("old")

    def interrupted():
        with whole_files(tmp_path / "a", tmp_path / "b") as (a, b):
            a.write_text("new")
            b.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_files_appear_together_the_first_one_last(tmp_path, monkeypatch):
    order = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda src, dst: (order.append(dst.name), replace(src, dst)))
    (tmp_path / "sub").mkdir()
    with whole_files(tmp_path / "a", tmp_path / "sub" / "b", tmp_path / "skipped") as (a, b, _):
        a.write_text("1")
        b.write_text("2")
        assert [p.name for p in tmp_path.glob("[!.]*")] == ["sub"]
    assert order == ["b", "a"]
    assert names(tmp_path) == ["a", "sub"]


@pytest.mark.parametrize("platform", EXPORTERS)
@pytest.mark.parametrize("where", ["missing/q.onnx", "folder", "file/q.onnx"])
def test_a_path_that_cannot_be_written_is_named(where, platform, kit, small_graph, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    graph = small_graph(lambda: kit.activation(symmetric=True))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match=f"{tmp_path.name}.*(does not exist|is a folder)"):
        EXPORTERS[platform](graph, tmp_path / where)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("platform", EXPORTERS)
def test_a_full_disk_leaves_nothing(platform, kit, small_graph, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    folder.mkdir()

    def fail(model, place, **_):
        place.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.ir, "save", fail)
    graph = small_graph(lambda: kit.activation(symmetric=True))
    with pytest.raises(ExportError, match=r"q\.onnx.*No space left"):
        EXPORTERS[platform](graph, folder / "q.onnx")
    assert names(folder) == []


def test_a_large_model_puts_its_tensors_beside_it(small_graph, small_model, samples, tmp_path, monkeypatch, kit):
    monkeypatch.setattr(files, "PROTOBUF_LIMIT", 500)
    export, graph = EXPORTERS[TargetPlatform.ONNXRUNTIME], small_graph()
    export(graph, tmp_path / "big.onnx")
    assert external_name(tmp_path / "big.onnx").exists()
    monkeypatch.undo()
    export(graph, tmp_path / "one.onnx")
    assert not external_name(tmp_path / "one.onnx").exists()
    (tmp_path / "moved").mkdir()
    for name in ("big.onnx", "big.onnx.data"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    one, other = (kit.outputs(tmp_path / p, samples[:3]) for p in ("one.onnx", "moved/big.onnx"))
    np.testing.assert_array_equal(one, other)


def test_tensors_in_files_of_the_source_are_taken_along(tmp_path):
    (tmp_path / "source").mkdir()
    source = tmp_path / "source" / "m.onnx"
    w = np.arange(600, dtype=np.float32)
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    infos = [onnx.helper.make_tensor_value_info(n, 1, [600]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", infos[:1], infos[1:], [onnx.numpy_helper.from_array(w, "w")])
    onnx.save(onnx.helper.make_model(graph), source, save_as_external_data=True, location="m.bin", size_threshold=0)
    model = ir.load(source)
    save_model(model, tmp_path / "new.onnx")
    source.with_name("m.bin").unlink()
    np.testing.assert_array_equal(ir.load(tmp_path / "new.onnx").graph.initializers["w"].const_value.numpy(), w)


def test_the_name_of_a_configuration_file_is_checked_too(kit, small_graph, tmp_path):
    graph = small_graph(lambda: kit.activation(symmetric=True))
    with pytest.raises(ExportError, match="nowhere"):
        EXPORTERS[TargetPlatform.PPL_CUDA_INT8](graph, tmp_path / "q.onnx", tmp_path / "nowhere" / "q.json")
    assert not (tmp_path / "q.onnx").exists()
