"""Samples as a Ray dataset: read and checked where Ray likes, one row for each item."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from calibrant.core import DataError, SettingError
from calibrant.data import Samples, open_samples
from calibrant.data.parquet import row_sample
from calibrant.engines.samples import Feed, InputSpec, iterate_samples

MOST_BLOCKS = 10_000  # of a dataset: Ray keeps books of each

Row = dict[str, Any]


def as_dataset(
    samples: Any,
    inputs: Sequence[InputSpec],
    steps: int | None,
    collate_fn: Callable[[Any], Any] | None,
    block_size: int,
) -> tuple[Any, int | None]:
    """A Ray dataset whose rows are items, packed, and how many they are (None: nobody knows yet).

    samples: files in a place that every node sees, a path or what `open_samples` gives; or a ray.data.Dataset of the
    user's, with a row for each item and a column for each input.
    Raises SettingError for anything else, which Ray could not share out.
    """
    import ray.data

    if isinstance(samples, str | Path):
        samples = open_samples(samples, inputs)
    if isinstance(samples, Samples):
        parts = samples.parts() if steps is None else min(samples.parts(), steps)
        blocks = min(-(-parts // block_size), MOST_BLOCKS)
        read = partial(_read_part, recipe=pickle.dumps(samples.reopen), collate_fn=collate_fn)
        return ray.data.range(parts, override_num_blocks=max(blocks, 1)).flat_map(read), parts
    if isinstance(samples, ray.data.Dataset):
        dataset = samples if steps is None else samples.limit(steps)
        return dataset.map(partial(_pack_row, inputs=list(inputs), collate_fn=collate_fn)), steps
    raise SettingError(
        f"a Ray cluster reads its samples itself: give a path, calibrant.data.open_samples(...) or a ray.data.Dataset, "
        f"got {type(samples).__name__}; ray.data.from_items makes a dataset of a list"
    )


def feeds(rows: Iterable[bytes], inputs: Sequence[InputSpec], skipped: list[str]) -> Iterator[Feed]:
    """The checked feeds of packed items. Names of what could not be read go to `skipped`."""
    for packed in rows:
        item, name, left_out = pickle.loads(packed)
        skipped += left_out
        if item is None:
            continue
        try:
            yield from iterate_samples([item], inputs)
        except DataError as error:
            text = str(error).removeprefix("sample 1").lstrip(":, ")
            raise DataError(f"{name}: {text}") from None


def _read_part(row: Row, recipe: bytes, collate_fn: Callable[[Any], Any] | None) -> list[Row]:
    """The items of one part of files. A part of which all was skipped gives a row without an item."""
    samples = _opened(recipe)
    items = [_packed(_collated(item, collate_fn), samples.last) for item in samples.part(int(row["id"]))]
    return [*items, _packed(None, "", samples.skipped)] if samples.skipped else items


@lru_cache(maxsize=1)
def _opened(recipe: bytes) -> Samples:
    reopen: Callable[[], Samples] = pickle.loads(recipe)
    return reopen()


def _pack_row(row: Mapping[str, Any], inputs: Sequence[InputSpec], collate_fn: Callable[[Any], Any] | None) -> Row:
    item = row_sample(row, inputs, "a row of the dataset") if collate_fn is None else collate_fn(row)
    return _packed(item, "a row of the dataset")


def _collated(item: Any, collate_fn: Callable[[Any], Any] | None) -> Any:
    return item if collate_fn is None else collate_fn(item)


def _packed(item: Any, name: str, skipped: Sequence[str] = ()) -> Row:
    """As bytes, since Arrow's columns know fewer shapes and types than models."""
    return {"item": pickle.dumps((item, name, list(skipped)), protocol=5)}
