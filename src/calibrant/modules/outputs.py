"""What a module returns, as tensors with names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from calibrant.core import ModelError

if TYPE_CHECKING:
    import torch

NO_TENSOR = (type(None), bool, int, float, complex, str, bytes)


def named_tensors(output: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors of what a module returns, in order, each with a name.

    The names are keys of dicts and fields of dataclasses and named tuples; positions in tuples and lists are numbers;
    those of nested ones are joined by `_`. A tensor alone is `output`, those of a tuple `output_0`, `output_1`.
    None, numbers and texts are no outputs. Raises ModelError for anything else, and where there is no tensor at all.
    """
    found = list(_walk((), output))
    if not found:
        raise ModelError(f"the module returns {type(output).__name__} without a tensor in it: nothing to quantize")
    return [("_".join(path if path and not path[0].isdigit() else ("output", *path)), tensor) for path, tensor in found]


def _walk(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(value, "detach"):
        yield path, value
    elif not isinstance(value, NO_TENSOR):
        for name, item in _items(path, value):
            yield from _walk((*path, name), item)


def _items(path: tuple[str, ...], value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, tuple | list):
        return [
            (str(name), item) for name, item in zip(getattr(value, "_fields", range(len(value))), value, strict=True)
        ]
    where = f"output '{'_'.join(path)}'" if path else "its output"
    raise ModelError(
        f"the module cannot be exported: {where} is a {type(value).__module__}.{type(value).__name__}; expected "
        "tensors, in tuples, lists, dicts or dataclasses. Wrap the module in one that returns those that matter"
    )
