"""What the tests of the torch engine share."""

from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest

from calibrant.graph import Graph


@pytest.fixture
def parsed() -> Callable[[str], Graph]:
    """The graph of a model in ONNX's text form, as it is: nothing raised, folded or checked."""

    def parse(text: str) -> Graph:
        return Graph(ir.from_proto(onnx.parser.parse_model(text)), None, "")

    return parse
