"""Halves: the sketches of a model's values, kept apart for two halves of the samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from calibrant.core import IncompatibleSketches
from calibrant.sketches.sketch import TensorSketch


class Halves(Mapping[str, TensorSketch]):
    """By value name, the sketch over all the samples; `even` and `odd` have those of the two halves.

    A sketch of all is the merged one of both halves, made when it is asked for. How far a scale moves between the
    halves says whether the samples were enough.
    Raises IncompatibleSketches where the halves are not of the same values.
    """

    def __init__(self, even: Mapping[str, TensorSketch], odd: Mapping[str, TensorSketch]) -> None:
        if even.keys() != odd.keys():
            raise IncompatibleSketches(f"only one half has {', '.join(sorted(even.keys() ^ odd.keys())[:3])}")
        self.even = dict(even)
        self.odd = dict(odd)
        self._whole: dict[str, TensorSketch] = {}

    def __getitem__(self, name: str) -> TensorSketch:
        if name not in self._whole:
            self._whole[name] = self.even[name].merge(self.odd[name])
        return self._whole[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.even)

    def __len__(self) -> int:
        return len(self.even)

    def merge(self, other: Halves) -> Halves:
        """The sketches of the samples of both, half by half. IncompatibleSketches where values or specs differ."""
        if self.keys() != other.keys():
            odd = sorted(self.keys() ^ other.keys())
            raise IncompatibleSketches(f"only one of them has {', '.join(map(repr, odd[:3]))}")
        return Halves(
            {name: sketch.merge(other.even[name]) for name, sketch in self.even.items()},
            {name: sketch.merge(other.odd[name]) for name, sketch in self.odd.items()},
        )
