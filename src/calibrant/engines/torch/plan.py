"""In which order a graph runs, and when each value can go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import onnx_ir as ir

from calibrant.core import TensorQuantizationConfig
from calibrant.engines.torch.hosts import TELLING, host_values
from calibrant.engines.torch.preparing import Prepared
from calibrant.engines.torch.values import captured, constant_of


@dataclass(frozen=True)
class OnGrid:
    """A value as it is read after quantization."""

    value: ir.Value
    config: TensorQuantizationConfig

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OnGrid) and self.value is other.value and self.config is other.config

    def __hash__(self) -> int:
        return hash((id(self.value), id(self.config)))


Slot = ir.Value | OnGrid


class Grids(Protocol):
    """By which config a value is put on a grid; None: it stays as it is. See `ConfiguredGrids`."""

    def of(self, value: ir.Value) -> TensorQuantizationConfig | None: ...

    def at_output(self, value: ir.Value) -> TensorQuantizationConfig | None: ...

    def read_by(self, node: ir.Node, index: int) -> TensorQuantizationConfig | None: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: call a node, or (`node` None) put a value on its grid; then forget `frees`.

    reads, makes: in the order of the node's inputs and outputs; None for one left out. captured: what graphs inside of
    the node see of the values around, each with the slot where it is. on_host: whether it runs there.
    """

    node: Prepared | None
    reads: tuple[Slot | None, ...]
    makes: tuple[Slot | None, ...]
    captured: tuple[tuple[ir.Value, Slot], ...] = ()
    on_host: bool = False
    frees: tuple[Slot, ...] = ()

    @property
    def touched(self) -> Iterator[Slot]:
        """Every slot that it reads or makes."""
        for slot in (*self.reads, *(slot for _, slot in self.captured), *self.makes):
            if slot is not None:
                yield slot


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps that make `targets`, and no others.

    inputs: those of the graph that it needs. hosts: the values that are on the host.
    """

    steps: tuple[Step, ...]
    targets: tuple[Slot, ...]
    inputs: tuple[ir.Value, ...]
    hosts: frozenset[ir.Value]


def make_plan(
    graph: ir.Graph,
    targets: Sequence[ir.Value],
    prepared: Callable[[ir.Node], Prepared],
    observed: Collection[ir.Value] = (),
    grids: Grids | None = None,
    given: Collection[ir.Value] = (),
) -> Plan:
    """Nodes in the order of the graph, as far as `targets` and `observed` need them.

    Each value is freed after its last use; `targets` stay. given: values that are fed, as inputs are.
    grids: which values are put on a grid first, each once, right before its first reader.
    """
    nodes = _needed(graph, [*targets, *observed], given)
    hosts = host_values([*graph.inputs, *given], nodes, prepared)
    steps: list[Step] = []
    gridded: set[OnGrid] = set()

    def on_grid(value: ir.Value, config: TensorQuantizationConfig | None) -> Slot:
        if config is None:
            return value
        slot = OnGrid(value, config)
        if slot not in gridded:
            gridded.add(slot)
            steps.append(Step(None, (value,), (slot,)))
        return slot

    for node in nodes:
        reads = tuple(
            None if value is None else on_grid(value, grids.read_by(node, index) if grids else None)
            for index, value in enumerate(node.inputs)
        )
        seen = tuple((value, on_grid(value, grids.of(value) if grids else None)) for value in captured(node))
        makes = tuple(value if value.name else None for value in node.outputs)
        on_host = node.outputs[0] in hosts and node.op_type not in TELLING
        steps.append(Step(prepared(node), reads, makes, seen, on_host))
    ends = tuple(on_grid(value, grids.at_output(value) if grids else None) for value in targets)
    touched = {slot for step in steps for slot in step.touched} | {*ends, *targets, *observed}
    inputs = tuple(value for value in dict.fromkeys([*graph.inputs, *given]) if value in touched)
    return Plan(tuple(_freeing(steps, set(ends))), ends, inputs, frozenset(hosts))


def _needed(graph: ir.Graph, wanted: Sequence[ir.Value], given: Collection[ir.Value] = ()) -> list[ir.Node]:
    """The nodes that lead to `wanted`; constants, and what is given, need none."""
    needed = set(wanted).difference(given)
    found = []
    for node in reversed(graph):
        if not needed.intersection(node.outputs) or constant_of(node.outputs[0]) is not None:
            continue
        found.append(node)
        needed.update(v for v in (*node.inputs, *captured(node)) if v is not None and v not in given)
    return found[::-1]


def _freeing(steps: Sequence[Step], kept: set[Slot]) -> list[Step]:
    """The steps, each with what nobody touches after it."""
    later = set(kept)
    done = []
    for step in reversed(steps):
        last = [slot for slot in dict.fromkeys(step.touched) if slot not in later]
        later.update(last)
        done.append(replace(step, frees=tuple(last)))
    return done[::-1]
