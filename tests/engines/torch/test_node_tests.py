"""The ONNX project's own tests of single operators, run by the torch engine on the CPU.

`node_tests.txt` lists those that pass, with `onnxruntime` behind a name where that ran a node of it;
`node_tests_failing.txt` those that do not, each with a reason. Both are written by

    python tests/engines/torch/test_node_tests.py
"""

import re
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from calibrant.core import ModelError
from calibrant.engines.torch.interpreter import Interpreter
from calibrant.engines.torch.ops import TABLE
from calibrant.engines.torch.precision import arithmetic
from calibrant.engines.torch.tensors import to_array, to_tensor

FOLDER = Path(__file__).parent
PASSING, FAILING = FOLDER / "node_tests.txt", FOLDER / "node_tests_failing.txt"
VERSIONS = f"# onnx {onnx.__version__}, onnxruntime {ort.__version__}, torch {torch.__version__.split('+')[0]}"
ASIDE = {  # tests whose outcome is not ours, or not the same on every machine: they count as failing
    "bernoulli|training_dropout(?!_zero)": "the output is random",
    "attention.*(bf16|fp16)": "16 bits are rounded in another order, and the test allows less than one unit of them",
    "test_(dft|stft)_?(inverse|irfft|with_window|$)": "what is 0 in exact arithmetic is compared within 1e-7",
    "strnormalizer": "onnxruntime wants a locale that is not on every machine",
    "maxunpool_export_with_output_shape": "onnxruntime puts the values elsewhere",
}


@cache
def cases():
    """By name. (Making them, onnx divides by zero on purpose.)"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_model_tests(kind="node")}


@cache
def outcomes(device="cpu"):
    """For each test what went wrong ("" if nothing did), and whether onnxruntime ran a node of it."""
    return {name: (aside(name), False) if aside(name) else outcome(case, device) for name, case in cases().items()}


def aside(name):
    """Why the test is not run; "" where it is."""
    return next((reason for pattern, reason in ASIDE.items() if re.search(pattern, name)), "")


def outcome(case, device):
    model, notes = ir.from_proto(case.model), []
    try:
        for inputs, outputs in case.data_sets:
            found = run(model, inputs, device, notes)
            for value, x, expected in zip(model.graph.outputs, found, outputs, strict=True):
                kind = value.dtype if isinstance(value.type, ir.TensorType) else None
                check(to_array(x, kind), as_array(expected), case)
    except (AssertionError, ModelError) as error:
        return " ".join(str(error).split())[:200] or "differs", bool(notes)
    return "", bool(notes)


def run(model, inputs, device, notes):
    interpreter = Interpreter(model, torch.device(device), torch.float32, 1, notes.append)
    plan = interpreter.plan(list(model.graph.outputs))
    fed = dict.fromkeys(model.graph.inputs)
    for value, x in zip(model.graph.inputs, inputs, strict=False):
        fed[value] = placed(to_tensor(as_array(x)), "cpu" if value in plan.hosts else device)
    with torch.no_grad(), arithmetic("float32", torch.get_num_threads()):
        return interpreter.run(plan, fed)


def placed(x, device):
    if isinstance(x, list):
        return [placed(item, device) for item in x]
    return x.to(device) if isinstance(x, torch.Tensor) else x


def as_array(x):
    if isinstance(x, onnx.TensorProto):
        return numpy_helper.to_array(x)
    if isinstance(x, list):
        return [as_array(item) for item in x]
    return None if x is None else np.asarray(x)


def check(found, expected, case):
    """Raise AssertionError unless they agree in type, shape, and, within the test's tolerance, content."""
    if expected is None or isinstance(expected, list):
        assert type(found) is type(expected)
        for one, other in zip(found or (), expected or (), strict=True):
            check(one, other, case)
        return
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if expected.dtype.kind in "OUS":
        assert (found == expected).all()
    else:
        if expected.dtype.kind not in "biufc" or expected.dtype.name.startswith(("bfloat", "float8", "float4")):
            found, expected = found.astype(np.float32), expected.astype(np.float32)
        np.testing.assert_allclose(found, expected, rtol=case.rtol, atol=case.atol)


def operators(model):
    """Name and domain of every node, those inside of nodes among them."""
    return {(node.domain, node.op_type) for node in ir.from_proto(model).graph.all_nodes()}


def in_table(case):
    return operators(case.model) <= TABLE.keys()


def runs_in_onnxruntime(case):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for inputs, outputs in case.data_sets:
            names = [value.name for value in session.get_inputs()]
            fed = {name: as_array(x) for name, x in zip(names, inputs, strict=True)}
            for found, expected in zip(session.run(None, fed), outputs, strict=True):
                check(found, as_array(expected), case)
    except Exception:  # onnxruntime's own types share no base but this
        return False
    return True


def lines(path):
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def listed_passing():
    return {line.split()[0]: line.endswith(" onnxruntime") for line in lines(PASSING)}


def listed_failing():
    return dict(line.split(": ", 1) for line in lines(FAILING))


def same_versions():
    return PASSING.read_text(encoding="utf-8").startswith(VERSIONS)


def test_what_is_listed_passes():
    found = outcomes()
    broken = {name: found[name][0] for name in listed_passing() if name in found and found[name][0]}
    assert not broken


def test_the_lists_are_complete():
    if not same_versions():
        pytest.skip(f"the lists are of other versions than {VERSIONS}, which pass and fail others")
    passing = {name: by_onnxruntime for name, (error, by_onnxruntime) in outcomes().items() if not error}
    assert passing == listed_passing()
    assert cases().keys() - passing.keys() == listed_failing().keys()


def test_nearly_all_tests_of_the_table_pass():
    of_table = [name for name, case in cases().items() if in_table(case)]
    failed = [name for name in of_table if outcomes()[name][0]]
    assert len(of_table) >= 1300
    assert len(failed) <= 0.05 * len(of_table)


def test_what_is_not_in_the_table_passes_where_onnxruntime_passes():
    failed = [name for name, (error, _) in outcomes().items() if error and not in_table(cases()[name])]
    assert not [name for name in failed if not aside(name) and runs_in_onnxruntime(cases()[name])]


def test_nothing_waits_for_the_device():
    """On torch's meta device there are shapes and no numbers: whoever wants to see one fails."""
    by_data = re.compile("compress|nonmaxsuppression|nonzero|range.*expanded")  # the data decide how much there is
    waiting = []
    for name, by_onnxruntime in listed_passing().items():
        case = cases().get(name)
        if case is None or by_onnxruntime or not in_table(case) or by_data.search(name):
            continue
        try:
            run(ir.from_proto(case.model), case.data_sets[0][0], "meta", [])
        except (NotImplementedError, RuntimeError, ModelError):
            waiting.append(name)
    assert not waiting


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_what_is_listed_passes_on_cuda():
    """Where the node tests or onnxruntime are of other versions, what they refuse or newly want is said, not hidden."""
    found, listed = outcomes("cuda"), listed_passing()
    broken = {name: found[name][0] for name in listed if name in found and found[name][0]}
    of_others = {} if same_versions() else {n: e for n, e in broken.items() if "onnxruntime" in e}
    assert not broken.keys() - of_others.keys()
    if of_others:
        pytest.skip(f"the lists are of other versions than {VERSIONS}; onnxruntime fails at {of_others}")


def regenerate():
    """Write both lists."""
    found = outcomes()
    passing = [
        f"{name}{' onnxruntime' if notes else ''}" for name, (error, notes) in sorted(found.items()) if not error
    ]
    failing = [f"{name}: {error}" for name, (error, _) in sorted(found.items()) if error]
    PASSING.write_text("\n".join([VERSIONS, *passing, ""]), encoding="utf-8")
    FAILING.write_text("\n".join([VERSIONS, *failing, ""]), encoding="utf-8")
    print(f"{len(passing)} pass, {len(failing)} do not")


if __name__ == "__main__":
    regenerate()
