"""Stepping: its threads, and the memory it takes."""

import threading

import numpy as np
import pytest
from onnx import parser

from calibrant.engines.stepping import Stepping, peak_bytes
from calibrant.graph import load_onnx_graph


@pytest.fixture
def graph():
    text = "g (float[N] x) => (float[N] y) { a = Neg(x) b = Abs(x) c = Concat <axis = 0> (a, b) y = Neg(c) }"
    return load_onnx_graph(parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>' + text))


def test_its_threads_end_with_it_whatever_happens(graph):
    def threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith("calibrant-steps")]

    def interrupted():
        with Stepping(graph, [{"x": np.ones(3, np.float32)}], False, 2) as stepping:
            stepping.step(graph.model.graph[0])
            assert threads()
            raise KeyboardInterrupt

    assert not threads()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not threads()


def test_the_most_that_is_alive_at_once(graph):
    feeds = [{"x": np.ones(3, np.float32)}, {"x": np.ones(5, np.float32)}]
    assert peak_bytes(graph, feeds) == 4 * (8 + 8)  # a and b, or c, or y; x is gone when a and b are there
