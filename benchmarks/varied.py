"""As many different images as wanted, made of few photos."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tasks import Normalization, classifier_input, images


def save_inputs(photos: Path, normalization: Normalization, most: int, path: Path) -> None:
    """Write what a classifier is given for the photos of a folder, `most` of them at most, to the .npy file `path`."""
    np.save(path, np.concatenate([classifier_input(photo, normalization) for photo in images(photos)[:most]]))


class Varied(Sequence[Any]):
    """`count` float32 images [1, 3, H, W], each made when it is asked for: the photos, then flipped, shifted, dimmed.

    path: a file of `save_inputs`, of which no more than one photo is in memory at a time.
    """

    def __init__(self, path: Path, count: int) -> None:
        stored = np.load(path, mmap_mode="r")
        self._photos, *self._shape = stored.shape
        self._start, self._bytes = stored.offset, stored[0].nbytes
        self._path, self._count = path, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> Any:
        if number >= self._count:
            raise IndexError(number)
        turn, place = divmod(number, self._photos)
        photo = np.fromfile(self._path, np.float32, prod(self._shape), offset=self._start + place * self._bytes)
        flipped = photo.reshape(1, *self._shape)[..., :: -1 if turn % 2 else 1]
        moved = np.roll(flipped, 7 * (turn // 2), axis=-2) * np.float32(0.97 ** (turn // 2))
        return np.ascontiguousarray(moved)
