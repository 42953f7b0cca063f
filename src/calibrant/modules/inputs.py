"""The inputs that a module is traced with, from whatever the caller has: tensors, a shape, or the first sample."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from calibrant.core import DataError, SettingError
from calibrant.engines.samples import items_of
from calibrant.modules.extra import check_module, import_torch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Example:
    """Arguments for a module's forward; tensors may be nested in tuples, lists and dicts.

    batch: the size of the first axis of the first tensor that has one; None where none has. Every tensor of that size
    there is taken to be a batch.
    """

    arguments: inspect.BoundArguments
    batch: int | None

    @classmethod
    def of(cls, arguments: inspect.BoundArguments) -> Example:
        """That example, with the batch that its tensors have."""
        sizes: list[int] = []
        for value in arguments.arguments.values():
            mapped(value, lambda leaf: sizes.extend(leaf.shape[:1]) if _is_tensor(leaf) else None)
        return cls(arguments, next(iter(sizes), None))

    def map(self, function: Callable[[Any], Any]) -> dict[str, Any]:
        """Parameter name -> its argument, with `function` of everything that is no container in it."""
        return {name: mapped(value, function) for name, value in self.arguments.arguments.items()}

    def is_batch(self, leaf: Any) -> bool:
        """Whether it is a tensor whose first axis is the batch."""
        return _is_tensor(leaf) and leaf.ndim > 0 and leaf.shape[0] == self.batch

    def of_two(self) -> Example:
        """The same, with a batch of two where it is one: tracing takes a size of one for a constant."""
        if self.batch != 1:
            return self
        torch = import_torch("an example")
        doubled = self.map(lambda leaf: torch.cat([leaf, leaf]) if self.is_batch(leaf) else leaf)
        return Example(_arguments(self.arguments.signature, doubled), 2)

    def apart(self) -> Example:
        """The same, in tensor objects of its own over the same numbers."""
        views = self.map(lambda leaf: leaf.detach() if _is_tensor(leaf) else leaf)
        return Example(_arguments(self.arguments.signature, views), self.batch)


def example_of(
    module: torch.nn.Module,
    inputs: Any = None,
    shape: Sequence[Any] | None = None,
    dtype: Any = None,
    loader: Any = None,
    collate_fn: Callable[[Any], Any] | None = None,
) -> tuple[Example, Any]:
    """What to trace the module with, and the loader's samples, in which what was read of them comes again.

    inputs: a tensor or array, a tuple or list in the order of forward's parameters, or a dict by their names; what is
        no tensor becomes a constant of the model.
    shape: without `inputs`: that of the one input, or a list of shapes. dtype: what to make of it, a dtype of torch or
        numpy, or its name; None: the module's own.
    Without both, the first sample of the loader serves.
    collate_fn: makes a sample of an item, once of each.

    Raises DataError for what forward does not take, SettingError for a shape or dtype that is none.
    """
    torch = import_torch("a module")
    check_module(torch, module)
    source = "inputs"
    samples = loader if loader is None or collate_fn is None else _collated(loader, collate_fn)
    if inputs is None and shape is not None:
        inputs, source = _zeros(torch, module, shape, dtype), "input_shape"
    elif inputs is None:
        items = items_of(() if samples is None else samples)
        read = list(islice(items, 1))
        if not read:
            raise DataError("there is nothing to trace the module with: give input_shape, inputs, or samples")
        inputs, source = read[0], "the first sample"
        samples = chain(read, items)
    bound = _bound(module, inputs, source)
    device = next((tensor.device for tensor in chain(module.parameters(), module.buffers())), "cpu")
    found: list[Any] = []

    def to_tensor(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray | np.generic):
            leaf = _from_numpy(torch, leaf, source)
        if _is_tensor(leaf):
            leaf = leaf.detach().to(device)
            found.append(leaf)
        return leaf

    arguments = {name: mapped(value, to_tensor) for name, value in bound.arguments.items()}
    if not found:
        raise DataError(f"{source} has no tensor in it; {_wanted(module, bound.signature)}")
    if any(tensor.numel() == 0 for tensor in found):
        raise DataError(f"{source} has an empty tensor in it: {', '.join(str(tuple(t.shape)) for t in found)}")
    return Example.of(_arguments(bound.signature, arguments)), samples


def _collated(loader: Any, collate_fn: Callable[[Any], Any]) -> Iterator[Any]:
    """The samples that it makes of the loader's items; nothing is read before the first is asked for."""
    yield from map(collate_fn, items_of(loader))


def _from_numpy(torch: Any, array: Any, source: str) -> torch.Tensor:
    """A tensor in memory of its own, as the array may be one that can only be read."""
    try:
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))
    except TypeError as error:
        raise DataError(f"{source} has an array of {array.dtype}, and torch has no tensors of that") from error


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same containers, with `function` of everything in them."""
    if isinstance(value, Mapping):
        return {name: mapped(item, function) for name, item in value.items()}
    if isinstance(value, tuple | list):
        items = [mapped(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return function(value)


def _is_tensor(leaf: Any) -> bool:
    return hasattr(leaf, "detach")


def _arguments(signature: inspect.Signature, values: dict[str, Any]) -> inspect.BoundArguments:
    return inspect.BoundArguments(signature, values)


def _zeros(torch: Any, module: torch.nn.Module, shape: Sequence[Any], dtype: Any) -> tuple[torch.Tensor, ...]:
    """One tensor for each shape. Zeros are valid indices, too."""
    several = isinstance(shape, Sequence) and len(shape) > 0 and all(isinstance(dims, Sequence) for dims in shape)
    shapes = list(shape) if several else [shape]
    if not all(_is_shape(dims) for dims in shapes):
        raise SettingError(f"input_shape takes whole numbers from 1, such as [1, 3, 224, 224]; got {shape!r}")
    kind = _torch_dtype(torch, dtype)
    if kind is None:
        kind = next((p.dtype for p in module.parameters() if p.dtype.is_floating_point), torch.float32)
    return tuple(torch.zeros([int(d) for d in dims], dtype=kind) for dims in shapes)


def _is_shape(dims: Any) -> bool:
    return isinstance(dims, Sequence) and all(
        isinstance(d, int | np.integer) and not isinstance(d, bool) and d > 0 for d in dims
    )


def _torch_dtype(torch: Any, dtype: Any) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    try:
        name = dtype.removeprefix("torch.") if isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:  # it is no dtype of numpy
        name = ""
    found: Any = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise SettingError(f"input_dtype {dtype!r} is no dtype of torch; expected one such as torch.float32 or 'int64'")
    return found


def _bound(module: torch.nn.Module, inputs: Any, source: str) -> inspect.BoundArguments:
    """The inputs as arguments of forward."""
    signature = inspect.signature(module.forward)
    try:
        if isinstance(inputs, Mapping):
            return signature.bind(**inputs)
        return signature.bind(*inputs) if isinstance(inputs, tuple | list) else signature.bind(inputs)
    except TypeError as error:
        hint = "; let collate_fn drop what is not an input, e.g. labels" if source == "the first sample" else ""
        raise DataError(f"{source} does not fit the module: {error}; {_wanted(module, signature)}{hint}") from error


def _wanted(module: torch.nn.Module, signature: inspect.Signature) -> str:
    return f"{type(module).__name__}.forward takes ({', '.join(signature.parameters)})"
