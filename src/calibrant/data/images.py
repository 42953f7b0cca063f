"""A folder of images as samples, read one at a time."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from calibrant.core import DataError
from calibrant.data.inputs import ModelInput, Sample, names
from calibrant.data.preprocessing import Preprocessing, plan

_KINDS = ("avif", "bmp", "dib", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tga")
SUFFIXES = frozenset(f".{kind}" for kind in (*_KINDS, "tif", "tiff", "webp"))


class Images:
    """Image files that fill the model's only input. Index it to read one.

    Raises DataError when the model has several inputs, or when its input cannot take images.
    """

    def __init__(self, paths: Sequence[Path], inputs: Sequence[ModelInput], said: Preprocessing) -> None:
        if len(inputs) != 1:
            raise DataError(
                f"the model has {len(inputs)} inputs ({names(inputs)}) and images fill only one: "
                "give .npz files with a key per input, or --data package.module:function"
            )
        self.paths = paths
        self.input = inputs[0].name
        self.plan = plan(said, inputs[0])
        self.notes = [f"images: {self.plan}"]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                image.load()
                return {self.input: self.plan.apply(image)}
        except MemoryError:
            raise
        except DataError as error:
            raise DataError(f"image '{path}': {error}") from None
        except Exception as error:
            # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more for damaged files.
            raise DataError(f"image '{path}' cannot be read: {_reason(error, path)}") from error

    def name_of(self, index: int) -> str:
        return f"image '{self.paths[index]}'"


def _reason(error: Exception, path: Path) -> str:
    if path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image, or a damaged one"
    return str(error) or type(error).__name__
