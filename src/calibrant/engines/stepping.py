"""A graph that runs node by node, over samples that are all kept: for passes that change what the next node reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibrant.core import QuantizationStates, TensorQuantizationConfig, fake_quantize
from calibrant.engines.samples import Feed
from calibrant.engines.session import Runtime, run
from calibrant.engines.working import part_of
from calibrant.graph import Graph
from calibrant.graph.bodies import read_from_outside
from calibrant.graph.graph import original
from calibrant.graph.roles import is_bound

T = TypeVar("T")
Array = NDArray[Any]
Config = TensorQuantizationConfig
Slot = tuple[str, int]  # a value's name, and the id of the config it is read by; 0: as it is


class Stepping:
    """The graph over `feeds`, one node after the other; values live until their last reader has run.

    quantized: whether values are put on the grids by which their readers read them; configs that are not solved do
        nothing. Outputs of the graph stay as they are.
    Constants are read when their node runs: who changed them before, for later nodes, is heard.

    The samples run side by side, each on one thread, so that what is computed does not depend on their number. To be
    used by `with`, which ends the threads. Raises ModelError where onnxruntime fails.
    """

    def __init__(self, graph: Graph, feeds: Sequence[Feed], quantized: bool, threads: int) -> None:
        self._graph = graph
        self._quantized = quantized
        self._runtime = Runtime.of(None, 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="calibrant-steps")
        self._last: dict[Slot, int] = {}
        self._wanted: dict[str, dict[int, Config | None]] = {}
        self._nodes = {node: place for place, node in enumerate(graph.model.graph)}
        for node, place in self._nodes.items():
            for value, config in self._reads(node):
                self._wanted.setdefault(value.name or "", {})[id(config) if config else 0] = config
                self._last[value.name or "", id(config) if config else 0] = place
        for value in graph.model.graph.outputs:  # kept to the end, as they are
            self._wanted.setdefault(value.name or "", {})[0] = None
            self._last[value.name or "", 0] = len(self._nodes)
        self._kept: list[dict[Slot, Array]] = [{} for _ in feeds]
        for kept, feed in zip(self._kept, feeds, strict=True):
            for name, array in feed.items():
                self._put(kept, name, array)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def is_there(self, node: ir.Node, index: int) -> bool:
        """Whether what the node will read there has been computed."""
        value = node.inputs[index]
        return value is not None and all((value.name or "", _key(self._config(node, index))) in k for k in self._kept)

    def read(self, node: ir.Node, index: int) -> list[Array]:
        """What the node is about to read there, of each sample. Not to be changed."""
        value = node.inputs[index]
        if value is None:
            raise ValueError(f"{node.name} has no input {index}")
        slot = value.name or "", _key(self._config(node, index))
        return [kept[slot] for kept in self._kept]

    def known(self, names: Iterable[str]) -> list[dict[str, Array]]:
        """Those of the values that are there, of each sample: as they are if somebody reads them so, else on a grid."""
        wanted = [(name, min(self._wanted.get(name, {0: None}), key=bool)) for name in names]  # 0, else the first
        return [{slot[0]: kept[slot] for slot in wanted if slot in kept} for kept in self._kept]

    def step(self, node: ir.Node, look: Callable[[int, Array], None] | None = None) -> None:
        """Run the node over all samples, and forget what nobody reads any more.

        look: called with the number of each sample and the node's first output, float, as soon as it is there;
        several at a time.
        """
        place = self._nodes[node]
        reads = list(self._reads(node))
        names = [value.name for value in node.outputs if value.name]
        gone = {slot for slot in _slots(reads) if self._last[slot] == place}
        running = _OneNode(self._graph, node, dict(self._constants(node)), self._runtime)

        def one(number: int) -> None:
            kept = self._kept[number]
            feed = {value.name or "": kept[value.name or "", _key(config)] for value, config in reads}
            made = running.run(feed, names)
            if look is not None:
                look(number, made[0])
            for slot in gone:
                del kept[slot]
            for name, array in zip(names, made, strict=True):
                self._put(kept, name, array)

        list(self._pool.map(one, range(len(self._kept))))

    def look_ahead(self, node: ir.Node) -> list[Array]:
        """The node's first output, float, of each sample; as if the node had not run."""
        reads = list(self._reads(node))
        running = _OneNode(self._graph, node, dict(self._constants(node)), self._runtime)

        def one(kept: dict[Slot, Array]) -> Array:
            feed = {value.name or "": kept[value.name or "", _key(config)] for value, config in reads}
            return running.run(feed, [node.outputs[0].name or ""])[0]

        return list(self._pool.map(one, self._kept))

    def put(self, name: str, arrays: Sequence[Array]) -> None:
        """Keep a value anew, one array of each sample: for one whose configs have changed since it was made."""
        for kept, array in zip(self._kept, arrays, strict=True):
            self._put(kept, name, array)

    def map(self, function: Callable[[int, dict[Slot, Array]], T], numbers: Sequence[int]) -> list[T]:
        """What the function makes of these samples: of its number, and the values alive. Several at a time."""
        return list(self._pool.map(lambda number: function(number, self._kept[number]), numbers))

    @property
    def bytes_alive(self) -> int:
        """What the values take that are kept at the moment."""
        return sum(array.nbytes for kept in self._kept for array in kept.values())

    def _put(self, kept: dict[Slot, Array], name: str, array: Array) -> None:
        for key, config in self._wanted.get(name, {}).items():
            kept[name, key] = array if config is None else fake_quantize(array, config)

    def _reads(self, node: ir.Node) -> Iterator[tuple[ir.Value, Config | None]]:
        """The values, no constants, that the node or a graph inside of it reads, each with the config it reads by.

        A value that it reads twice is taken as its first input has it.
        """
        seen: set[ir.Value] = set()
        for index, value in enumerate(node.inputs):
            if value is not None and value.const_value is None and value not in seen:
                seen.add(value)
                yield value, self._config(node, index)
        for value in read_from_outside(node):
            if value.const_value is None and value not in seen:
                seen.add(value)
                yield value, self._solved(self._graph.config_of(value.name or ""))

    def _constants(self, node: ir.Node) -> Iterator[tuple[str, Array]]:
        """The constants that it reads, as it reads them; biases in float."""
        for captured in read_from_outside(node):
            if captured.const_value is not None:
                yield captured.name or "", self._constant(captured)
        for index, value in enumerate(node.inputs):
            if value is None or value.const_value is None:
                continue
            config = self._config(node, index)
            array = self._constant(value)
            stays = config is None or config.is_bias or is_bound(node, index)
            yield value.name or "", array if stays or config is None else fake_quantize(array, config)

    def _constant(self, value: ir.Value) -> Array:
        tensor = self._graph.as_read(value) if self._quantized else original(value)
        return np.asarray(tensor.numpy())  # type: ignore[union-attr]

    def _config(self, node: ir.Node, index: int) -> Config | None:
        """By which config it reads that input; None: as it is."""
        return self._solved(self._graph.config_read(node, index))

    def _solved(self, config: Config | None) -> Config | None:
        if not self._quantized or config is None or config.state is QuantizationStates.FP32:
            return None
        return None if config.scale is None else config


def peak_bytes(graph: Graph, feeds: Sequence[Feed]) -> int:
    """What the values of the float model take that are alive at once, where most are; 1 at least. Runs it once."""
    most = 1
    with Stepping(graph, feeds, quantized=False, threads=1) as stepping:
        for node in graph.model.graph:
            stepping.step(node)
            most = max(most, stepping.bytes_alive)
    return most


class _OneNode:
    """A node as a model of its own. constants: by name, what stands for those of the graph."""

    def __init__(self, graph: Graph, node: ir.Node, constants: dict[str, Array], runtime: Runtime) -> None:
        values = {v.name or "": v for v in (*node.inputs, *read_from_outside(node)) if v is not None}
        tensors = []
        for name, value in values.items():
            if value.const_value is not None:
                tensors.append(onnx.numpy_helper.from_array(constants[name], name))
        given = [value for value in values.values() if value.const_value is None]
        alone = onnx.GraphProto(
            name="one_node",
            node=[ir.to_proto(node)],
            input=[ir.to_proto(value) for value in given],
            output=[onnx.ValueInfoProto(name=value.name) for value in node.outputs if value.name],
            initializer=tensors,
        )
        self._session = runtime.open(part_of(graph.model, alone))

    def run(self, feed: Feed, names: Sequence[str]) -> list[Array]:
        return run(self._session, names, feed)


def _slots(reads: Iterable[tuple[ir.Value, Config | None]]) -> list[Slot]:
    return [(value.name or "", _key(config)) for value, config in reads]


def _key(config: Config | None) -> int:
    return 0 if config is None else id(config)
