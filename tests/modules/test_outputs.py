"""What modules return, by name."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest

from calibrant.core import ModelError
from calibrant.modules.outputs import named_tensors

torch = pytest.importorskip("torch", reason="the extra calibrant[torch] is not installed")
A, B, C = torch.zeros(1), torch.ones(1), torch.ones(2)


@dataclass
class Fields:
    logits: object
    hidden: object = None


Pair = namedtuple("Pair", "boxes scores")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (A, {"output": A}),
        ((A,), {"output_0": A}),
        ([A, B], {"output_0": A, "output_1": B}),
        ({"logits": A, "aux": B}, {"logits": A, "aux": B}),
        (OrderedDict(b=A, a=B), {"b": A, "a": B}),
        ({0: A}, {"output_0": A}),
        (Fields(A), {"logits": A}),
        (Fields(A, (B, C)), {"logits": A, "hidden_0": B, "hidden_1": C}),
        (Pair(A, B), {"boxes": A, "scores": B}),
        (({"x": A}, B), {"output_0_x": A, "output_1": B}),
        ((A, None, 3, 2.5, True, "text"), {"output_0": A}),
    ],
)
def test_names(output, expected):
    assert [(name, id(tensor)) for name, tensor in named_tensors(output)] == [(n, id(t)) for n, t in expected.items()]


def test_what_is_no_tensor_is_refused():
    with pytest.raises(ModelError, match=r"output 'past_0' is a builtins.set; expected tensors"):
        named_tensors({"logits": A, "past": [{1}]})
    with pytest.raises(ModelError, match=r"its output is a builtins\.object"):
        named_tensors(object())
    with pytest.raises(ModelError, match="returns NoneType without a tensor"):
        named_tensors(None)
