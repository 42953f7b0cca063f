"""Sequences of tensors: Python lists here. And values that may be absent: None."""

from __future__ import annotations

from typing import Any

import torch

from calibrant.engines.torch.ops.registry import Tensor, Unsupported, op
from calibrant.engines.torch.tensors import number, numbers


@op("Optional")
def optional(value: Any = None, *, type: Any = None) -> Any:
    return value


@op("OptionalHasElement")
def optional_has_element(value: Any = None) -> Tensor:
    return torch.tensor(value is not None)


@op("OptionalGetElement")
def optional_get_element(value: Any) -> Any:
    return value


@op("SequenceEmpty")
def sequence_empty(*, dtype: int = 1) -> list[Tensor]:
    return []


@op("SequenceConstruct")
def sequence_construct(*values: Tensor) -> list[Tensor]:
    return list(values)


@op("SequenceLength")
def sequence_length(sequence: list[Tensor]) -> Tensor:
    return torch.tensor(len(sequence), dtype=torch.int64)


@op("SequenceAt", parameters=[1])
def sequence_at(sequence: list[Tensor], position: Tensor) -> Tensor:
    return sequence[number(position)]


@op("SequenceInsert", parameters=[2])
def sequence_insert(sequence: list[Tensor], value: Tensor, position: Tensor | None = None) -> list[Tensor]:
    place = len(sequence) if position is None else int(number(position))
    place = place + len(sequence) if place < 0 else place
    return [*sequence[:place], value, *sequence[place:]]


@op("SequenceErase", parameters=[1])
def sequence_erase(sequence: list[Tensor], position: Tensor | None = None) -> list[Tensor]:
    place = (-1 if position is None else int(number(position))) % len(sequence)
    return [*sequence[:place], *sequence[place + 1 :]]


@op("SplitToSequence", parameters=[1])
def split_to_sequence(x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, keepdims: int = 1) -> list[Tensor]:
    if sizes is None:
        parts = torch.split(x, 1, axis)
        return [part if keepdims else part.squeeze(axis) for part in parts]
    return list(torch.split(x, number(sizes) if sizes.ndim == 0 else numbers(sizes), axis))


@op("ConcatFromSequence")
def concat_from_sequence(sequence: list[Tensor], *, axis: int, new_axis: int = 0) -> Tensor:
    if not sequence:
        raise Unsupported("an empty sequence")
    return torch.stack(sequence, axis) if new_axis else torch.cat(sequence, axis)
