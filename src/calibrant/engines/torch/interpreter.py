"""Interpreter: runs plans of a graph, operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from calibrant.core import ModelError, TensorQuantizationConfig
from calibrant.core.errors import first_line
from calibrant.engines.torch.constants import Constants
from calibrant.engines.torch.fake_quantize import on_grid
from calibrant.engines.torch.fallback import Fallback
from calibrant.engines.torch.ops import Call, Unsupported
from calibrant.engines.torch.placement import HOST, Placement
from calibrant.engines.torch.plan import Grids, OnGrid, Plan, Slot, Step, make_plan
from calibrant.engines.torch.preparing import Prepared, prepare
from calibrant.engines.torch.tensors import to_tensor
from calibrant.engines.torch.values import constant_of
from calibrant.graph.bodies import read_from_outside

Look = Callable[[torch.Tensor], None]
Scope = dict[Slot, Any]
# NotImplementedError is a RuntimeError, ZeroDivisionError an ArithmeticError.
_REFUSALS = (Unsupported, RuntimeError, ValueError, LookupError, ArithmeticError)


class Interpreter:
    """Runs the graph of `model` on `device`, with FLOAT computed in `floating`.

    note: told once of each kind of operator that onnxruntime runs instead. One thread at a time may use it.

    Nothing in a run waits for the device, but for what depends on the data: an operator whose result has a size that
    the data decide, a number read from a computed tensor, and what onnxruntime runs.
    """

    def __init__(
        self, model: ir.Model, device: torch.device, floating: torch.dtype, threads: int, note: Callable[[str], None]
    ) -> None:
        self._model = model
        self._note = note
        self._placement = Placement(device, floating)
        self._constants = Constants(self._placement)
        self._fallback = Fallback(model, threads)
        self._prepared: dict[ir.Node, Prepared] = {}
        self._bodies: dict[ir.Graph, Plan] = {}
        self._refused: dict[ir.Node, str] = {}
        self._told: set[str] = set()
        self._scales: Mapping[TensorQuantizationConfig, torch.Tensor] = {}
        self._grids: dict[int, tuple[Any, Any, torch.Tensor, torch.Tensor]] = {}

    def tell_again(self) -> None:
        """Note what onnxruntime runs even if that was noted before."""
        self._told.clear()

    def plan(
        self,
        targets: Sequence[ir.Value],
        observed: Sequence[ir.Value] = (),
        grids: Grids | None = None,
        given: Sequence[ir.Value] = (),
    ) -> Plan:
        """How to make `targets`, coming by `observed`. grids, given: see `make_plan`."""
        return make_plan(self._model.graph, targets, self._prepare, observed, grids, given)

    def run(
        self,
        plan: Plan,
        inputs: Mapping[ir.Value, Any],
        observe: Mapping[ir.Value, Look] | None = None,
        replaced: Mapping[ir.Value, torch.Tensor] | None = None,
        scales: Mapping[TensorQuantizationConfig, torch.Tensor] | None = None,
    ) -> list[Any]:
        """The targets of the plan.

        inputs: tensors on any device (lists of them for sequences), or arrays that torch has no type for.
        observe: what is called with a value the moment it exists. replaced: constants of other content.
        scales: other scales than the configs have.
        Raises ModelError for a node that neither torch nor onnxruntime can run.
        """
        scope: Scope = {value: self._place(value, inputs[value], value in plan.hosts) for value in plan.inputs}
        observe = observe or {}
        self._scales = scales or {}
        with self._constants.replaced_by(replaced or {}):
            for value, look in observe.items():
                if value in scope or constant_of(value) is not None:
                    look(self._fetch(value, scope, on_host=False))
            self._run(plan, scope, observe)
            return [self._fetch(slot, scope, slot in plan.hosts) for slot in plan.targets]

    def array(self, value: ir.Value, x: Any) -> Any:
        """`x`, the content of `value`, as the model has it, in memory of its own."""
        return self._placement.array(value, x)

    def uploads(self) -> list[torch.Tensor]:
        """Tensors that came from the host on the way; a later run may read them, or forget them."""
        return self._placement.uploads()

    def _run(self, plan: Plan, scope: Scope, observe: Mapping[ir.Value, Look]) -> None:
        for step in plan.steps:
            if step.node is None:
                self._put_on_grid(step, scope)
            else:
                self._call_node(step, step.node, scope, observe)
            for slot in step.frees:
                scope.pop(slot, None)

    def _call_node(
        self,
        step: Step,
        node: Prepared,
        scope: Scope,
        observe: Mapping[ir.Value, Look],
    ) -> None:
        on_host = step.on_host or node.operator is None  # what onnxruntime runs
        arguments = [
            None if slot is None else self._fetch(slot, scope, on_host or index in node.parameters)
            for index, slot in enumerate(step.reads)
        ]
        around: Scope = {value: scope[slot] for value, slot in step.captured if slot in scope}
        for slot, result in zip(step.makes, self._results(step, node, arguments, around), strict=False):
            if slot is not None:
                scope[slot] = result
            if slot in observe and isinstance(slot, ir.Value):
                observe[slot](self._placement.on_device(slot, result))

    def _results(self, step: Step, node: Prepared, arguments: list[Any], around: Scope) -> Sequence[Any]:
        """What the node makes of its arguments: by its function, or where that refuses, by onnxruntime."""
        why = self._refused.get(node.node) or node.why
        if node.operator is None or why or any(_is_foreign(argument) for argument in arguments):
            return self._by_onnxruntime(step, node, arguments, around, why or "torch has no such elements")
        try:
            return self._by_torch(step, node, arguments, around)
        except torch.OutOfMemoryError:
            raise
        except _REFUSALS as error:
            if isinstance(error, Unsupported | NotImplementedError):
                self._refused[node.node] = first_line(error)
            try:
                return self._by_onnxruntime(step, node, arguments, around, first_line(error))
            except ModelError as other:
                raise ModelError(f"{_where(node, arguments)}: torch: {first_line(error)}; {other}") from error

    def _by_torch(self, step: Step, node: Prepared, arguments: list[Any], around: Scope) -> Sequence[Any]:
        if node.operator is None:
            raise Unsupported(node.why)
        size = max([len(arguments), *(i + 1 for i in node.moved)])
        arguments = arguments + [None] * (size - len(arguments))
        for index, value in node.moved.items():
            arguments[index] = value
        keywords = dict(node.attributes)
        if node.operator.asks:
            keywords["call"] = Call(
                HOST if step.on_host else self._placement.device,
                torch.float32 if step.on_host else self._placement.floating,
                node.outputs,
                lambda graph, inputs: self._run_body(graph, inputs, around),
            )
        results = node.operator.function(*arguments, **keywords)
        results = results if isinstance(results, tuple) else (results,)
        if len(results) < node.outputs:
            raise Unsupported(f"output {len(results)}")
        return results

    def _run_body(self, graph: ir.Graph, inputs: Sequence[Any], around: Scope) -> list[Any]:
        """A graph inside of a node, which sees `around`."""
        if graph not in self._bodies:
            self._bodies[graph] = make_plan(graph, list(graph.outputs), self._prepare)
        plan = self._bodies[graph]
        scope = around | dict(zip(graph.inputs, inputs, strict=True))
        self._run(plan, scope, {})
        return [self._fetch(slot, scope, slot in plan.hosts) for slot in plan.targets]

    def _by_onnxruntime(
        self, step: Step, node: Prepared, arguments: Sequence[Any], around: Scope, why: str
    ) -> Sequence[Any]:
        array = self._placement.array
        inputs = [None if v is None else array(v, x) for v, x in zip(node.node.inputs, arguments, strict=False)]
        seen = {
            value.name or "": array(value, around[value] if value in around else self._constants.on_host(value))
            for value in read_from_outside(node.node)
        }
        results = self._fallback.run(node.node, inputs, seen)
        self._tell(node.node, why)
        if torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in arguments):
            self._tell(node.node, "no gradient comes through it")
        return [
            self._place(slot, to_tensor(result), step.on_host)
            for slot, result in zip(node.node.outputs, results, strict=True)
        ]

    def _tell(self, node: ir.Node, why: str) -> None:
        kind = f"{node.domain}:{node.op_type}:{why}"
        if kind not in self._told:
            self._told.add(kind)
            self._note(f"{node.op_type} is run by onnxruntime on the host (node '{node.name}' is the first): {why}")

    # --- where values are

    def _fetch(self, slot: Slot, scope: Scope, on_host: bool) -> Any:
        """What is in the slot, on the host or on the device."""
        if slot in scope:
            return self._place(slot, scope[slot], on_host)
        if isinstance(slot, OnGrid):
            raise ModelError(f"'{slot.value.name}' is read on a grid before it is there")
        return self._constants.on_host(slot) if on_host else self._constants.on_device(slot)

    def _place(self, slot: Slot, x: Any, on_host: bool) -> Any:
        return self._placement.on_host(x) if on_host else self._placement.on_device(slot, x)

    def _put_on_grid(self, step: Step, scope: Scope) -> None:
        (source,), (made,) = step.reads, step.makes
        if source is None or not isinstance(made, OnGrid):
            raise TypeError("a step without a node puts one value on a grid")
        scale, offset = self._parameters(made.config)
        scale = self._scales.get(made.config, scale)
        scope[made] = on_grid(self._fetch(source, scope, on_host=False), made.config, scale, offset)

    def _parameters(self, config: TensorQuantizationConfig) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and offset on the device; made anew when the config got others."""
        known = self._grids.get(id(config))
        if known is None or known[0] is not config.scale or known[1] is not config.offset:
            tensors = (torch.tensor(x, device=self._placement.device) for x in (config.scale, config.offset))
            known = self._grids[id(config)] = config.scale, config.offset, *tensors
        return known[2], known[3]

    def _prepare(self, node: ir.Node) -> Prepared:
        if node not in self._prepared:
            self._prepared[node] = prepare(node, self._model.opset_imports)
        return self._prepared[node]


def _is_foreign(x: Any) -> bool:
    if isinstance(x, list):
        return any(_is_foreign(item) for item in x)
    return x is not None and not isinstance(x, torch.Tensor)


def _where(node: Prepared, arguments: Sequence[Any]) -> str:
    shown = ", ".join(
        f"{x.dtype}{list(x.shape)}".removeprefix("torch.") if isinstance(x, torch.Tensor) else type(x).__name__
        for x in arguments
        if x is not None
    )
    return f"node '{node.node.name}' ({node.node.op_type}) failed on {shown}"
