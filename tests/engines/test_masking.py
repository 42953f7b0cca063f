"""Padded positions do not count: what is left is what each sample has alone, without padding."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from calibrant import OnnxruntimeExecutor, load_onnx_graph
from calibrant.core import DataError, ObservationError, SettingError
from calibrant.engines import masking
from calibrant.engines.masking import Masking
from calibrant.graph.mask import name_mask
from calibrant.sketches import SketchSpec, TensorSketch
from tests.engines.transformers import AXES, HEADS, WIDTH, chosen, encoder, padded

PLAIN = SketchSpec()
BATCHES = [padded((5, 3, 1, 4)), padded((2, 7), seed=1), padded((6, 6, 2), longest=9, seed=2)]


def graph_of(model, mask="mask"):
    graph = load_onnx_graph(model, simplify=False)
    name_mask(graph, mask)
    return graph


def collect(model, samples, wanted, raw=None, **settings):
    executor = OnnxruntimeExecutor(graph_of(model), threads=2, **settings)
    return executor.collect(samples, wanted, raw)


def values_of(model, names, feed):
    """These values in plain onnxruntime, as the engine runs it: on one thread, as outputs of the model."""
    model = onnx.load_from_string(load_onnx_graph(model, simplify=False).to_bytes())
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, feed), strict=True))


def by_hand(model, axes, samples, specs=None):
    """The sketches of the raw values that the mask chooses."""
    found = {name: TensorSketch.empty((specs or {}).get(name, PLAIN)) for name in axes}
    for feed in samples:
        made = values_of(model, [name for name in axes if name not in feed], feed)
        for name, x in {**made, **{name: feed[name] for name in axes if name in feed}}.items():
            for part in chosen(x, axes[name], feed["mask"]):
                found[name] = found[name].merge(TensorSketch.of(part, found[name].spec))
    return found


@pytest.mark.parametrize("layout", AXES)
def test_what_is_counted_is_what_the_mask_chooses(layout):
    model, axes = encoder(layout), AXES[layout]
    assert collect(model, BATCHES, dict.fromkeys(axes, PLAIN)) == by_hand(model, axes, BATCHES)


ANY_MASKS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(0, 2**32 - 1)), min_size=1, max_size=3)


@settings(max_examples=20, deadline=None)
@given(layout=st.sampled_from(sorted(AXES)), shapes=ANY_MASKS)
def test_any_positions_of_any_batches(layout, shapes):
    """Holes, padding on the left, lengths of 1: whatever the mask says."""
    samples = []
    for batch, length, seed in shapes:
        rng = np.random.default_rng(seed)
        mask = rng.integers(0, 2, (batch, length))
        mask[np.arange(batch), rng.integers(0, length, batch)] = 1
        samples.append({"ids": rng.integers(0, 11, mask.shape), "mask": mask})
    model, axes = encoder(layout, masked_with=-1e4), AXES[layout]
    assert collect(model, samples, dict.fromkeys(axes, PLAIN)) == by_hand(model, axes, samples)


def rows_of(samples):
    """Each sample alone, without its padding."""
    for feed in samples:
        for number, counts in enumerate(feed["mask"] == 1):
            yield {name: array[number : number + 1, counts] for name, array in feed.items()}


@pytest.mark.parametrize("layout", AXES)
@pytest.mark.parametrize("masked_with", [-np.inf, -3.4e38, -1e4])
def test_the_same_bytes_as_each_sample_alone(layout, masked_with):
    model, wanted = encoder(layout, masked_with=masked_with), dict.fromkeys(AXES[layout], PLAIN)
    alone = collect(model, rows_of(BATCHES), wanted)
    assert collect(model, BATCHES, wanted) == alone
    assert collect(model, [padded((5,), 8), *BATCHES[::-1]], wanted) == collect(
        model, [*rows_of([padded((5,), 8)]), *rows_of(BATCHES)], wanted
    )
    for name, sketch in alone.items():
        assert collect(model, BATCHES, {name: PLAIN})[name].to_bytes() == sketch.to_bytes()
    unmasked = OnnxruntimeExecutor(load_onnx_graph(model, simplify=False), threads=1).collect(BATCHES, wanted)
    assert all(unmasked[name] != alone[name] for name in wanted if "s" in AXES[layout][name])


def test_channels_and_rows_stay_where_they_are():
    model = encoder()
    wanted = {
        "p": SketchSpec(channel_axis=1, per_channel=True, isotone_axis=-1),
        "states": SketchSpec(channel_axis=2, per_channel=True),
        "first": SketchSpec(channel_axis=-1),
        "q": SketchSpec(isotone_axis=1),
    }
    axes = {name: AXES["heads"][name] for name in wanted}
    found = collect(model, BATCHES, wanted)
    assert found == by_hand(model, axes, BATCHES, wanted)
    assert found["p"].extremes.lo.shape == (HEADS,)
    assert found["p"].margins.rows == HEADS * sum(int(feed["mask"].sum()) for feed in BATCHES)


def spectrogram_net():
    """`x` [batch, time, 8] as an image through two convolutions, which onnxruntime computes in blocks."""
    rng, last, nodes, weights = np.random.default_rng(4), "image", [], {"one": np.int64([1])}
    nodes.append(helper.make_node("Unsqueeze", ["x", "one"], ["image"]))
    for number, (before, after) in enumerate([(1, 16), (16, 20)], 1):
        weights[f"w{number}"] = rng.normal(0, 0.3, (after, before, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        last = f"r{number}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["b", "t", 8]), ("r2", None))]
    mask = helper.make_tensor_value_info("mask", TensorProto.BOOL, ["b", "t"])
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", [ends[0], mask], [ends[1]], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_values_of_convolutions():
    model, axes, rng = spectrogram_net(), {"r1": "b c s w", "r2": "b c s w", "x": "b s w"}, np.random.default_rng(6)
    samples = [{"x": rng.normal(size=(3, 7, 8)).astype(np.float32), "mask": rng.random((3, 7)) < 0.7} for _ in range(3)]
    specs = {"r1": SketchSpec(channel_axis=1), "r2": SketchSpec(channel_axis=1, per_channel=True), "x": PLAIN}
    assert collect(model, samples, specs) == by_hand(model, axes, samples, specs)


def test_batches_in_parts():
    model, wanted = encoder(), dict.fromkeys(AXES["heads"], PLAIN)
    executor = OnnxruntimeExecutor(graph_of(model), threads=1, memory_budget=6000)
    assert executor.collect(BATCHES, wanted) == collect(model, BATCHES, wanted)
    assert "batches are run in parts" in executor.report[0]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_a_fixed_length_is_told_by_its_size(batch, left):
    model = encoder(length=7, batch=batch)
    lengths = [(3,), (7,), (1,)] if batch == 1 else [(3, 7, 1), (2, 2, 5)]
    samples = [padded(each, 7, seed=i, left=left) for i, each in enumerate(lengths)]
    axes = {name: axes for name, axes in AXES["heads"].items() if batch != 3 or "b" in axes}
    assert collect(model, samples, dict.fromkeys(axes, PLAIN)) == by_hand(model, axes, samples)


@pytest.mark.parametrize(("length", "operation"), [(WIDTH, "Gather"), (WIDTH // HEADS, "Reshape"), (3, "MatMul")])
def test_a_fixed_length_that_something_else_has_is_refused(length, operation):
    with pytest.raises(ObservationError, match=rf"always {length} long, and so is .*{operation}.*free length"):
        collect(encoder(length=length), [padded((2, 3), length)], {"q": PLAIN})


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ("float[B, 6, 3] x, bool[B, 6] mask", "no axis of their own behind operation 'Flatten"),
        ("float[B, T, 3] x, bool[B, T] mask", "'n' .*axis 1 is 18, 18"),
    ],
)
def test_positions_that_are_merged_with_features_are_refused(inputs, words):
    model = parse("f = Flatten(x) n = Neg(f) y = ReduceSum <keepdims = 0> (n)", inputs)
    with pytest.raises(ObservationError, match=words):
        collect(model, [{"x": np.ones((2, 6, 3), np.float32), "mask": np.ones((2, 6), bool)}], {"n": PLAIN})


def test_positions_that_are_merged_with_samples_and_features_are_refused():
    model = parse(
        "s = Constant <value_ints = [-1, 2]> () f = Reshape(x, s) n = Neg(f) y = ReduceSum <keepdims = 0> (n)",
        "float[B, 5, 6] x, bool[B, 5] mask",
    )
    with pytest.raises(ObservationError, match="no axis of their own behind operation 'Reshape"):
        collect(model, [{"x": np.ones((2, 5, 6), np.float32), "mask": np.ones((2, 5), bool)}], {"n": PLAIN})


def test_a_fixed_batch_that_something_shares_is_refused():
    with pytest.raises(ObservationError, match=r"'scores' .*several axes are as large as the batch"):
        collect(encoder(batch=HEADS), [padded((2, 3))], {"scores": PLAIN, "q": PLAIN})


def test_inputs_whose_dimensions_share_no_names():
    model = encoder(batch="ids_0", length="ids_1", mask=["mask_0", "mask_1"])
    axes = AXES["heads"]
    assert collect(model, BATCHES, dict.fromkeys(axes, PLAIN)) == by_hand(model, axes, BATCHES)


def parse(body, inputs="float[B, T] x, float[B, T] mask"):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float y) {{ {body} }}')


SHORTER = (
    "two = Constant <value_ints = [2]> () zero = Constant <value_ints = [0]> () one = Constant <value_ints = [1]> () "
)


def test_an_axis_that_follows_something_else_is_refused():
    model = parse(
        SHORTER + "end = Constant <value_ints = [-1]> () less = Slice(x, zero, end, one) half = Neg(less) "
        "y = ReduceSum <keepdims = 0> (half)"
    )
    sample = {"x": np.ones((2, 6), np.float32), "mask": np.ones((2, 6), np.float32)}
    with pytest.raises(ObservationError, match=r"'half' \[2, 5\]: axis 1 is 5, 5, \.\.\..*Leave the operations"):
        collect(model, [sample], {"half": PLAIN, "x": PLAIN})
    assert collect(model, [sample], {"x": PLAIN})["x"].extremes.size == 12


def test_sizes_that_change_behind_a_first_sample_are_refused():
    """Longer sequences are padded by the model itself: at the first one that was not seen."""
    model = parse(
        SHORTER + "c = Shape(x) n = Slice(c, one, two) most = Constant <value_ints = [4]> () some = Min(n, most) "
        "s = Slice(x, zero, some, one) h = Neg(s) y = ReduceSum <keepdims = 0> (h)"
    )
    short, long = ({"x": np.ones((2, n), np.float32), "mask": np.ones((2, n), np.float32)} for n in (4, 6))
    with pytest.raises(DataError, match=r"value 'h', shape \[2, 4\]: got 4 positions on axis 1, the mask has 6"):
        collect(model, [short, long], {"h": PLAIN})


def test_functions_are_given_what_counts():
    model, kept = encoder(), []
    collect(model, BATCHES, {}, {"scores": kept.append})
    wanted = [part for f in BATCHES for part in chosen(values_of(model, ["scores"], f)["scores"], "b h s s", f["mask"])]
    assert len(kept) == len(wanted)
    for one, other in zip(kept, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_a_mask_nothing_is_found_out(monkeypatch):
    monkeypatch.setattr(masking, "find_axes", None)
    executor = OnnxruntimeExecutor(graph_of(encoder(), None), threads=1)
    assert executor.collect(BATCHES, {"q": PLAIN})["q"].extremes.size == sum(f["mask"].size for f in BATCHES) * WIDTH


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, bool, np.float32, np.float16])
def test_masks_of_any_type(dtype):
    feed = {"mask": np.array([[1, 1, 0, 0], [1, 0, 0, 1]], dtype)}
    one, other = Masking(graph_of(encoder()), "mask", [], None).kept(feed)
    assert one.positions == slice(0, 2)
    assert other.positions.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.int64([[1, 1], [1, 2]]), "sample 2, mask 'mask': expected 1 .* got 2"),
        (np.float32([[0, -1e4], [0, 0]]), "sample 2, mask 'mask': expected 1 .* got -10000"),
        (np.float32([[1, np.nan]]), "sample 2, mask 'mask': expected 1 .* got nan"),
        (np.int64([[1, 1], [0, 0]]), "nothing is left of row 1 of 2, where every position is padding: leave the row"),
        (np.zeros((1, 0), np.int64), "nothing is left of row 0 of 1"),
        (np.int64([1, 1]), r"expected the shape \[batch, sequence\], got \[2\]"),
    ],
)
def test_what_is_no_mask_is_refused(mask, words):
    with pytest.raises(DataError, match=words):
        Masking(graph_of(encoder()), "mask", [], None).kept({"mask": mask}, 2)


def test_a_bad_mask_among_the_samples_is_told_by_its_number():
    bad = padded((3, 2))
    bad["mask"][1] = 0
    for samples, number in (([bad], 1), ([BATCHES[0], BATCHES[1], bad], 3)):
        with pytest.raises(DataError, match=f"sample {number}, mask 'mask': nothing is left of row 1"):
            collect(encoder(), samples, {"q": PLAIN})


def test_what_cannot_be_a_mask_is_refused_at_once():
    graph = graph_of(encoder(), None)
    with pytest.raises(SettingError, match=r"unknown input 'masc'; did you mean 'mask'\?"):
        name_mask(graph, "masc")
    with pytest.raises(SettingError, match="unknown input 'scores'; known: ids, mask"):
        name_mask(graph, "scores")
    flat = load_onnx_graph(parse("y = ReduceSum <keepdims = 0> (x)", "float[B, T, 3] x"), simplify=False)
    with pytest.raises(SettingError, match=r"'x' is float \[B, T, 3\]; expected an input of numbers"):
        name_mask(flat, "x")
