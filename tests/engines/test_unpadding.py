"""Samples that are run again come without their padding, where it can be cut off."""

from functools import partial

import numpy as np
import pytest

from calibrant import OnnxruntimeExecutor, load_onnx_graph
from calibrant.engines.kept import Kept
from calibrant.engines.unpadding import unpadded
from calibrant.graph.mask import name_mask
from tests.engines.transformers import encoder, padded

BATCHES = [padded((5, 3, 1)), padded((2, 4), longest=6, seed=1)]


def executor_of(mask="mask", **dims):
    graph = load_onnx_graph(encoder(**dims), simplify=False)
    name_mask(graph, mask)
    return OnnxruntimeExecutor(graph, threads=1)


def same(one, other):
    one = list(one)
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def test_each_alone_and_cut():
    executor = executor_of()
    found = list(unpadded(BATCHES, executor))
    assert [feed["ids"].shape for feed in found] == [(1, 5), (1, 3), (1, 1), (1, 2), (1, 4)]
    assert all((feed["mask"] == 1).all() and (feed["ids"] > 0).all() for feed in found)
    np.testing.assert_array_equal(found[4]["ids"], BATCHES[1]["ids"][1:, :4])
    assert same(unpadded(found, executor), found)
    assert executor.graph.report == []


def test_at_most_so_many_of_those_that_are_kept():
    kept = Kept(BATCHES, 4, partial(unpadded, executor=executor_of()))
    assert len(list(kept)) == 2
    assert [feed["ids"].shape[0] for feed in kept.samples] == [1, 1, 1, 1]


def test_whole_sequences_stay_in_their_batches():
    whole = [padded((4, 4)), padded((3, 3), seed=1)]
    assert same(unpadded(whole, executor_of()), whole)
    assert same(unpadded(BATCHES, executor_of(None)), BATCHES)


@pytest.mark.parametrize(
    ("dims", "samples", "why"),
    [
        ({"length": 7}, [padded((3, 7))], "the model takes no others than padded samples"),
        ({"batch": 2}, [padded((3, 7))], "the model takes no others than padded samples"),
        ({}, [padded((3, 7), left=True)], "padding stands elsewhere than at the end"),
    ],
)
def test_what_cannot_be_cut_is_said(dims, samples, why):
    executor = executor_of(**dims)
    assert same(unpadded(samples, executor), samples)
    assert executor.graph.report == [
        f"padded positions count where errors are measured, though not in the statistics: {why}"
    ]
