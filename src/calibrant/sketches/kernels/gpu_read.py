"""How the host reads what the kernels for GPUs counted: many states at once, and of tables only what is not empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from calibrant.sketches.cells import I64, Cells
from calibrant.sketches.kernels.gpu_state import State
from calibrant.sketches.kernels.gpu_words import COUNT_BITS, ENDS, FIELDS, GROWN, UNIT_BITS, ZEROS

Tensor = Any  # torch.Tensor: torch brings no types that are checked here
Read = tuple[I64, Cells]
LOOKED_AT = 1 << 23  # words at once, 64 MiB: what is made of them takes six times that where no cell is empty


def read(states: Sequence[State], half: int) -> list[Read]:
    """One half of each state, on the host: a head for each group (groups, FIELDS), and the cells of tables that are not
    empty, with the zeros: (group, keys), (counts, positions), sorted. Waits for the device, and takes memory there for
    a moment: see LOOKED_AT."""
    alike: dict[tuple[int, int | None], list[State]] = {}
    for state in states:
        alike.setdefault((state.rows, state.mantissa_bits), []).append(state)
    found: dict[State, Read] = {}
    for same in alike.values():
        for some in _batches(same):
            memory = [state.memory[half] for state in some]
            heads, cells = _read(memory[0] if len(memory) == 1 else torch.cat(memory), same[0].rows)
            found.update(zip(some, _split(heads, cells, [len(words) for words in memory]), strict=True))
    return [found[state] for state in states]


def _batches(states: Sequence[State]) -> Iterator[list[State]]:
    batch: list[State] = []
    words = 0
    for state in states:
        words += state.memory[0].numel()
        if batch and words > LOOKED_AT:
            yield batch
            batch, words = [], state.memory[0].numel()
        batch.append(state)
    yield batch


def _split(heads: I64, cells: Cells, groups: Sequence[int]) -> Iterator[Read]:
    """What was read, in parts of so many groups."""
    (group, keys), (counts, positions) = cells
    ends = np.cumsum(groups)
    for first, end in zip(ends - groups, ends, strict=True):
        own = slice(*np.searchsorted(group, np.array([first, end], np.int32)))
        names, weights = [group[own] - np.int32(first), keys[own].copy()], [counts[own].copy(), positions[own].copy()]
        yield heads[first:end], (names, weights)


def _read(memory: Tensor, rows: int) -> Read:
    """Groups whose words are those of states with so many rows of heads."""
    heads = memory[:, : FIELDS * rows].unflatten(1, (rows, FIELDS))
    ends = heads[..., :ENDS].amax(dim=1)
    hits = torch.where(heads[..., :ENDS] == ends[:, None], heads[..., ENDS:], 0).sum(dim=1)
    hits[:, GROWN - ENDS] = 0
    cells = _cells(memory[:, FIELDS * rows :], hits[:, ZEROS - ENDS])
    return torch.cat([ends, hits], dim=1).cpu().numpy(), cells


def _cells(tables: Tensor, zeros: Tensor) -> Cells:
    """The cells that are not empty in tables (groups, words), on the host.

    zeros: (groups,), which the kernels keep out of the tables."""
    names, weights = [np.zeros((2, 0), np.int32)], [np.zeros((2, 0), np.int64)]
    groups, words = tables.shape
    positive = words // 4  # cells of either sign
    step = max(LOOKED_AT // max(words, 1), 1)
    for start in range(0, groups if words else 0, step):
        part, zero = tables[start : start + step].unflatten(1, (2, 2 * positive)), zeros[start : start + step]
        held = part.any(dim=1)
        held[:, 0] |= zero > 0
        group, place = torch.cat([held[:, positive:].flip(1), held[:, :positive]], dim=1).nonzero(as_tuple=True)
        key = place - positive
        index = torch.where(key < 0, positive - 1 - key, key)
        counts, positions = _apart(part[group, 0, index], part[group, 1, index])
        counts += torch.where(key == 0, zero[group], 0)
        names.append(torch.stack([group + start, key]).to(torch.int32).cpu().numpy())
        weights.append(torch.stack([counts, positions]).cpu().numpy())
    return list(np.concatenate(names, axis=1)), list(np.concatenate(weights, axis=1))


def _apart(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Counts and sums of positions, from the words of cells."""
    counts = (first & ((1 << COUNT_BITS) - 1)) + ((second & 0xFFFFFFFF) << UNIT_BITS)
    sums = (first >> COUNT_BITS) & ((1 << (64 - COUNT_BITS)) - 1)
    return counts, sums + (second >> 32 << (UNIT_BITS + 8))
