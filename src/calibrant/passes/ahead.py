"""What one place of a quantized model does to values further on, all between in float."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.core import ModelError
from calibrant.engines import Executor
from calibrant.engines.remainder import Remainder
from calibrant.engines.samples import Feed
from calibrant.engines.stepping import Slot, Stepping, peak_bytes
from calibrant.graph import Graph
from calibrant.graph.graph import PROTOBUF_LIMIT

BYTES = 1 << 29  # that the values of a model may take which are alive at a place, of all samples
LAPS = 4  # parts of the samples between which is looked whether a candidate errs too much already
F64 = NDArray[np.float64]
Array = NDArray[Any]
Form = Callable[[int, int], Array]
"""Of a value: what it is in a sample (its number), as read in a form (the key of its slot)."""


class Ahead:
    """The error at some values further on that comes of all that is quantized up to a place, and no further.

    What comes after the place runs in float, so the error does not jump with every rounding further on, and a change
    at the place is seen as what it does at these ends, however small. Of each sample: the squared error of each end
    over the power of that end in all samples, added up over the ends.

    exact: what the float model has at the ends, by name, of each sample; see `at_outputs` for those of the model.
    """

    def __init__(self, graph: Graph, exact: Sequence[Mapping[str, Array]]) -> None:
        self._graph = graph
        self._protos: dict[ir.Node, onnx.NodeProto] = {}
        self._exact = exact
        self._ends = list(exact[0]) if exact else []
        self._power = {name: sum(_squares(values[name]) for values in exact) for name in self._ends}

    @classmethod
    def at_outputs(cls, graph: Graph, samples: Sequence[Feed], executor: Executor) -> Self:
        """At the floating outputs of the model, which the executor runs over the samples."""
        names = [v.name or "" for v in graph.model.graph.outputs if v.dtype is not None and v.dtype.is_floating_point()]
        made = [executor.forward(feed, names) for feed in samples] if names else [[] for _ in samples]
        return cls(graph, [dict(zip(names, values, strict=True)) for values in made])

    def from_here(self, node: ir.Node | None, value: ir.Value) -> Remainder:
        """What is to run from `node` on (None: from the inputs), where `value` is changed."""
        return Remainder(self._graph, node, value, self._protos, self._ends)

    def errors(
        self, remainder: Remainder, stepping: Stepping, value: ir.Value, form: Form, numbers: Iterable[int]
    ) -> F64:
        """Of these samples, in order: the error when the value is what `form` gives. NaN and Inf count as Inf."""
        chosen = list(numbers)
        own = [slot for slot in remainder.slots if slot[0] == value.name]

        def one(number: int, kept: dict[Slot, Array]) -> float:
            made = remainder.run(kept | {slot: form(number, slot[1]) for slot in own})
            exact = self._exact[number]
            each = zip(remainder.outputs, made, strict=True)
            return sum(_squares(exact[name] - array) / (self._power[name] or 1.0) for name, array in each)

        found = np.array(stepping.map(one, chosen))
        return np.where(np.isfinite(found), found, np.inf)

    def race(
        self,
        remainder: Remainder,
        stepping: Stepping,
        value: ir.Value,
        form: Form,
        numbers: Sequence[int],
        best: F64 | None,
    ) -> F64:
        """`errors`, of LAPS parts of the samples, one after the other, until they are more than those of the best.

        best: its errors on all these samples; None: nothing to compare with. So what is better than the best is found
        as it would be with all samples.
        """
        found = np.empty(0)
        part = -(-len(numbers) // LAPS)
        for start in range(0, len(numbers), part):
            found = np.append(found, self.errors(remainder, stepping, value, form, numbers[start : start + part]))
            if best is not None and found.sum() > best.sum():
                break
        return found


def less(errors: F64, others: F64) -> bool:
    """Whether all samples of the first were looked at (see `Ahead.race`), and they err less in all."""
    return errors.size == others.size and bool(errors.sum() < others.sum())


def affordable(graph: Graph, samples: Sequence[Feed]) -> list[Feed]:
    """The first of the samples, as many as can be kept in BYTES while the graph runs node by node; two at least.

    Found by running one of them.
    """
    return list(samples[: max(2, BYTES // peak_bytes(graph, samples[:1]))])


def check_size(graph: Graph, name: str) -> None:
    """Raise ModelError for a model too large to be run in parts."""
    if graph.weight_bytes > PROTOBUF_LIMIT:
        raise ModelError(
            f"{name} runs parts of the model, which do not fit one protobuf message with {graph.weight_bytes} bytes "
            "of weights: leave this pass out"
        )


def _squares(array: Array) -> float:
    return float((array.astype(np.float64) ** 2).sum())
