"""Operators that pick elements by number, put them somewhere, or look for them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from calibrant.engines.torch.ops.registry import Call, Tensor, op
from calibrant.engines.torch.tensors import number

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def from_front(index: Tensor, size: int) -> Tensor:
    """Negative numbers counted from the end, as torch's own index functions want them."""
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


# --- taking


@op("Gather")
def gather(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    axis %= x.ndim
    flat = from_front(index, x.shape[axis]).reshape(-1)
    taken = x.index_select(axis, flat)
    return taken.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


@op("GatherElements")
def gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, from_front(index, x.shape[axis]))


@op("GatherND")
def gather_nd(x: Tensor, index: Tensor, *, batch_dims: int = 0) -> Tensor:
    batch, depth = x.shape[:batch_dims], index.shape[-1]
    inner = x.shape[batch_dims + depth :]
    items = x.reshape(math.prod(batch), math.prod(x.shape[batch_dims : batch_dims + depth]), *inner)
    places = _flat_places(index, x.shape[batch_dims : batch_dims + depth]).reshape(math.prod(batch), -1)
    rows = torch.arange(len(places), device=x.device)[:, None]
    return items[rows, places].reshape((*index.shape[:-1], *inner))


def _flat_places(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Of an index whose last axis has a number for each axis of `shape`: the place in the flat memory."""
    place = torch.zeros(index.shape[:-1], dtype=torch.int64, device=index.device)
    for axis, size in enumerate(shape):
        place = place * size + from_front(index[..., axis], size)
    return place


@op("Compress")
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    if axis is None:
        x, axis = x.reshape(-1), 0
    return x.index_select(axis, torch.nonzero(condition).reshape(-1))


@op("NonZero")
def nonzero(x: Tensor) -> Tensor:
    """A number has one row for no axes, as the standard has it."""
    return torch.nonzero(x).T if x.ndim else torch.zeros((0, int(x != 0)), dtype=torch.int64, device=x.device)


@op("ReverseSequence")
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    steps = torch.arange(x.shape[time_axis], device=x.device)
    backwards = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)  # [batch, time]
    if batch_axis > time_axis:
        backwards = backwards.T
    sizes = [size if axis in (batch_axis, time_axis) else 1 for axis, size in enumerate(x.shape)]
    return torch.gather(x, time_axis, backwards.reshape(sizes).expand(x.shape))


# --- putting


@op("ScatterElements", "Scatter")
def scatter_elements(x: Tensor, index: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    places = from_front(index, x.shape[axis])
    if reduction == "none":
        return torch.scatter(x, axis, places, updates)
    return torch.scatter_reduce(x, axis, places, updates, _REDUCTIONS[reduction])


@op("ScatterND")
def scatter_nd(x: Tensor, index: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    depth = index.shape[-1]
    inner = math.prod(x.shape[depth:])
    rows = x.reshape(math.prod(x.shape[:depth]), inner)
    places = _flat_places(index, x.shape[:depth]).reshape(-1, 1).expand(-1, inner)
    values = updates.reshape(-1, inner)
    if reduction == "none":
        return torch.scatter(rows, 0, places, values).reshape(x.shape)
    return torch.scatter_reduce(rows, 0, places, values, _REDUCTIONS[reduction]).reshape(x.shape)


@op("OneHot", parameters=[1])
def one_hot(index: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    """A number beyond the depth gives a row of the off value."""
    count = int(number(depth))
    places = torch.arange(count, device=index.device)
    hot = from_front(index, count)[..., None] == places
    return torch.where(hot, values[1], values[0]).movedim(-1, axis)


@op("TensorScatter")
def tensor_scatter(
    past: Tensor, update: Tensor, start: Tensor | None = None, *, axis: int = -2, mode: str = "linear"
) -> Tensor:
    """Write `update` along `axis`, for each of axis 0 from its own start on."""
    axis %= past.ndim
    if start is None:
        start = torch.zeros(past.shape[0], dtype=torch.int64, device=past.device)
    places = start[:, None] + torch.arange(update.shape[axis], device=past.device)
    if mode == "circular":
        places = places % past.shape[axis]
    sizes = [size if place in (0, axis) else 1 for place, size in enumerate(update.shape)]
    return torch.scatter(past, axis, places.reshape(sizes).expand(update.shape), update)


# --- ordering


@op("TopK", parameters=[1])
def top_k(x: Tensor, k: Tensor, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """Of equal ones the first comes first, for which torch.topk does not stand in."""
    values, places = torch.sort(x, stable=True, dim=axis, descending=bool(largest))
    return values.narrow(axis, 0, number(k)), places.narrow(axis, 0, number(k))


def _extreme_place(find: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def place(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        if not select_last_index:
            return find(x, axis, keepdim=bool(keepdims))
        return x.shape[axis] - 1 - find(x.flip(axis), axis, keepdim=bool(keepdims))

    return place


op("ArgMax")(_extreme_place(torch.argmax))
op("ArgMin")(_extreme_place(torch.argmin))


@op("NonMaxSuppression", parameters=[2, 3, 4])
def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    most: Tensor | None = None,
    overlap: Tensor | None = None,
    least_score: Tensor | None = None,
    *,
    center_point_box: int = 0,
    call: Call,
) -> Tensor:
    """Greedy, for each image and class: the best box first, then whatever overlaps none taken by more than that."""
    limit = 0 if most is None else int(number(most))
    threshold = 0.0 if overlap is None else float(number(overlap))
    corners = _corners(boxes, center_point_box).cpu()
    found = []
    for image in range(scores.shape[0]):
        for kind in range(scores.shape[1]):
            score = scores[image, kind].cpu()
            order = torch.sort(score, descending=True, stable=True).indices
            if least_score is not None:
                order = order[score[order] > number(least_score)]
            found += [[image, kind, box] for box in _greedy(corners[image], order, limit, threshold)]
    return torch.tensor(found, dtype=torch.int64, device=call.device).reshape(-1, 3)


def _corners(boxes: Tensor, center_point_box: int) -> Tensor:
    """[..., 4] as the smaller y, smaller x, larger y, larger x (or x before y: it makes no difference)."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if center_point_box:
        first, second = first - second / 2, first + second / 2
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)


def _greedy(corners: Tensor, order: Tensor, limit: int, threshold: float) -> list[int]:
    taken: list[int] = []
    area = (corners[:, 2:] - corners[:, :2]).prod(-1)
    while len(order) and len(taken) < limit:
        best, rest = order[0], order[1:]
        taken.append(int(best))
        low = torch.maximum(corners[best, :2], corners[rest, :2])
        high = torch.minimum(corners[best, 2:], corners[rest, 2:])
        shared = (high - low).clamp(min=0).prod(-1)
        union = area[best] + area[rest] - shared
        order = rest[~((union > 0) & (shared / union > threshold))]
    return taken
