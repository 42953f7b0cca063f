"""In which order, what is alive when, and what runs on the host."""

import weakref

import numpy as np
import onnx
import pytest
import torch

from calibrant import TorchExecutor
from calibrant.core import SettingError
from calibrant.engines.torch.interpreter import Interpreter
from calibrant.engines.torch.placement import Placement
from calibrant.sketches import SketchSpec

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
BRANCHES = f"""{HEADER} g (float[4] x) => (float[4] out) {{
    a = Neg(x)
    b = Exp(a)
    aside = Abs(a)
    c = Add(b, x)
    d = Tanh(c)
    out = Mul(d, b)
}}"""
# The shape of x, through what exporters make of it, to a Reshape and an Expand; positions that go to a Gather.
SHAPES = f"""{HEADER} g (float[N, C, H, W] x, int64[2] numbers, int64[N] ids, float[10, 3] table)
    => (float[A, B] flat, float[D, E] grown, float[K, L] taken)
    <int64 zero = {{0}}, int64[1] one = {{1}}, int64[1] rest = {{-1}}, int64[1] first = {{0}}, int64 step = {{1}}> {{
    s = Shape(x)
    n = Gather(s, zero)
    u = Unsqueeze(n, first)
    target = Concat<axis = 0>(u, rest)
    flat = Reshape(x, target)
    doubled = Add(numbers, numbers)
    grown = Expand(one_number, doubled)
    one_number = Cast<to = 1>(u)
    places = Range(zero, n, step)
    both = Add(places, ids)
    taken = Gather(table, both)
}}"""


def interpreter_of(graph, device="cpu", notes=None):
    return Interpreter(graph.model, torch.device(device), torch.float32, 1, (notes or []).append)


def values(graph, *names):
    return [graph.value(name) for name in names]


def made_by(plan):
    return [step.makes[0].name for step in plan.steps]


def test_only_what_is_needed_runs(parsed):
    graph = parsed(BRANCHES)
    interpreter = interpreter_of(graph)
    assert made_by(interpreter.plan(values(graph, "b"))) == ["a", "b"]
    assert made_by(interpreter.plan([], values(graph, "aside"))) == ["a", "aside"]
    assert made_by(interpreter.plan(values(graph, "out"))) == ["a", "b", "c", "d", "out"]


def test_each_value_goes_after_its_last_use(parsed):
    graph = parsed(BRANCHES)
    plan = interpreter_of(graph).plan(values(graph, "out"), values(graph, "aside"))
    gone = {step.makes[0].name: {slot.name for slot in step.frees} for step in plan.steps}
    assert gone == {"a": set(), "b": set(), "aside": {"a", "aside"}, "c": {"x"}, "d": {"c"}, "out": {"d", "b"}}


def test_memory_holds_no_more_than_that(parsed):
    """With an inner value seen, the tensors that are alive are counted, not those that a plan names."""
    graph = parsed(f"{HEADER} g (float[4] x) => (float[4] out) {{ a = Neg(x) b = Exp(a) c = Tanh(b) out = Abs(c) }}")
    alive, most = [], []

    def look(x):
        alive.append(weakref.ref(x))
        most.append(sum(reference() is not None for reference in alive))

    interpreter = interpreter_of(graph)
    plan = interpreter.plan([], values(graph, "a", "b", "c", "out"))
    with torch.no_grad():
        interpreter.run(
            plan, {graph.value("x"): torch.ones(4)}, dict.fromkeys(values(graph, "a", "b", "c", "out"), look)
        )
    assert most == [1, 2, 2, 2]


def test_constants_are_made_once(parsed):
    graph = parsed(f"{HEADER} g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{ y = Mul(x, w) }}")
    interpreter = interpreter_of(graph)
    constants = interpreter._constants
    plan = interpreter.plan(values(graph, "y"))
    interpreter.run(plan, {graph.value("x"): torch.ones(2)})
    first = constants.on_device(graph.value("w"))
    interpreter.run(plan, {graph.value("x"): torch.ones(2)})
    assert constants.on_device(graph.value("w")) is first


def test_shapes_are_computed_on_the_host(parsed):
    graph = parsed(SHAPES)
    graph.model.graph.sort()
    plan = interpreter_of(graph).plan(values(graph, "flat", "grown", "taken"))
    assert {value.name for value in plan.hosts} == {"s", "n", "u", "target", "numbers", "doubled", "one_number"}
    on_host = {step.makes[0].name for step in plan.steps if step.on_host}
    assert on_host == {"n", "u", "target", "doubled", "one_number"}


def test_nothing_waits_for_the_device(parsed):
    """On torch's meta device there are shapes and no numbers: whoever wants to see one fails."""
    graph = parsed(SHAPES)
    graph.model.graph.sort()
    interpreter = interpreter_of(graph, "meta")
    plan = interpreter.plan(values(graph, "flat", "grown", "taken"))
    fed = {
        "x": torch.empty(2, 3, 4, 5, device="meta"),
        "numbers": torch.tensor([2, 1]),
        "ids": torch.empty(2, dtype=torch.int64, device="meta"),
        "table": torch.empty(10, 3, device="meta"),
    }
    found = interpreter.run(plan, {graph.value(name): x for name, x in fed.items()})
    assert [tuple(x.shape) for x in found] == [(2, 60), (4, 2), (2, 3)]
    assert {x.device.type for x in found} == {"meta"}


def test_the_meta_device_would_notice(parsed):
    graph = parsed(f"{HEADER} g (float[N] x) => (float[M] y) {{ y = Compress<axis = 0>(x, c) c = Cast<to = 9>(x) }}")
    graph.model.graph.sort()
    interpreter = interpreter_of(graph, "meta")
    plan = interpreter.plan(values(graph, "y"))
    with pytest.raises(Exception, match=r"[Mm]eta"):
        interpreter.run(plan, {graph.value("x"): torch.empty(3, device="meta")})


def test_what_is_on_the_host_is_uploaded_when_it_changes(parsed):
    """A number computed from a shape, read by the device: once for each shape, also if shapes take turns."""
    graph = parsed(f"{HEADER} g (float[N] x) => (float[N] y) {{ s = Shape(x) f = Cast<to = 1>(s) y = Div(x, f) }}")
    interpreter = interpreter_of(graph, "meta")
    plan = interpreter.plan(values(graph, "y"))
    counts = []
    for size in (3, 3, 4, 3):
        interpreter.run(plan, {graph.value("x"): torch.empty(size, device="meta")})
        counts.append(len(interpreter.uploads()))
    assert counts == [1, 1, 2, 2]


def test_on_the_host_float_is_float32():
    placement = Placement(torch.device("cpu"), torch.float16)
    x = torch.tensor([1.5, 3.0])
    there = placement.on_device(None, x)
    assert (there.dtype, placement.on_host(there).dtype) == (torch.float16, torch.float32)
    assert placement.on_host(torch.tensor([1])).dtype == torch.int64


def test_branches_and_loops_see_what_is_around_them(parsed):
    graph = parsed(f"""{HEADER} g (float[2] x, bool flag, int64 turns) => (float[2] y, float[T, 2] each) {{
        scale = Neg(x)
        chosen = If (flag) <
            then_branch = yes () => (float[2] p) {{ p = Mul(x, scale) }},
            else_branch = no () => (float[2] q) {{ q = Add(x, scale) }}>
        y, each = Loop (turns, , chosen) <body = turn (int64 i, bool go, float[2] before)
            => (bool on, float[2] after, float[2] kept) {{
                on = Identity(go)
                after = Add(before, scale)
                kept = Identity(before)
            }}>
    }}""")
    executor = TorchExecutor(graph, "cpu", threads=1)
    x = np.float32([1, 2])
    y, each = executor.forward({"x": x, "flag": np.array(True), "turns": np.array(3)})
    np.testing.assert_array_equal(y, -x * x - 3 * x)
    np.testing.assert_array_equal(each, [-x * x, -x * x - x, -x * x - 2 * x])
    y, each = executor.forward({"x": x, "flag": np.array(False), "turns": np.array(0)})
    assert (y.tolist(), each.shape) == ([0, 0], (0, 2))


def test_memory_does_not_grow_with_samples(parsed):
    graph = parsed(BRANCHES)
    executor = TorchExecutor(graph, "cpu", threads=1)
    alive = []

    def samples():
        for _ in range(5):
            alive.append(sum(isinstance(item, weakref.ref) and item() is not None for item in references))
            yield {"x": np.ones(4, np.float32)}

    references = []
    executor.collect(samples(), {"d": SketchSpec()}, {"d": lambda array: references.append(weakref.ref(array))})
    assert alive == [0] * 5


def test_a_name_inside_of_a_branch_cannot_be_taken(parsed):
    graph = parsed(f"""{HEADER} g (float[2] x, bool flag) => (float[2] y) {{
        y = If (flag) <
            then_branch = yes () => (float[2] p) {{ p = Neg(x) }},
            else_branch = no () => (float[2] q) {{ q = Abs(x) }}>
    }}""")
    with pytest.raises(SettingError, match="no value 'p'"):
        TorchExecutor(graph, "cpu", threads=1).forward({"x": np.ones(2, np.float32), "flag": np.array(True)}, ["p"])


OLDER = {  # the same operator as an older opset has it
    "ReduceMean<axes = [1], keepdims = 0>(x)": lambda x: x.mean(1),
    "Softmax(x)": lambda x: np.exp(x) / np.exp(x).sum((1, 2), keepdims=True),
    "Clip<min = -0.5, max = 0.5>(x)": lambda x: np.clip(x, -0.5, 0.5),
    "Unsqueeze<axes = [0]>(x)": lambda x: x[None],
    "Pad<pads = [0, 0, 1, 0, 0, 1], value = 2.0>(x)": lambda x: np.pad(x, ((0, 0), (0, 0), (1, 1)), constant_values=2),
    "Slice<starts = [1], ends = [-1], axes = [2]>(x)": lambda x: x[:, :, 1:-1],
    "Dropout<ratio = 0.5>(x)": lambda x: x,
}


@pytest.mark.parametrize("text", OLDER)
def test_older_opsets(parsed, text):
    versions = {"Clip": 10, "Pad": 10, "Slice": 9, "Dropout": 10}
    version = versions.get(text.split("<")[0], 12)
    header = f'<ir_version: 6, opset_import: ["" : {version}]>'
    graph = parsed(f"{header} g (float[2, 3, 4] x) => (float y) {{ y = {text} }}")
    executor = TorchExecutor(graph, "cpu", threads=1)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(executor.forward(x)[0], OLDER[text](x), rtol=1e-5)
    assert not executor.report


def test_the_table_holds_operators_of_onnx():
    from calibrant.engines.torch.ops import TABLE

    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    names = {name.split(":")[0] for domain, name in TABLE if domain == ""}
    assert names <= known
    assert len(names) >= 130
