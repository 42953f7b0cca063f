"""How an image becomes an input: size, crop, colour, mean and deviation, layout.

`Preprocessing` holds what the user said; `plan` completes it from the model's input and refuses what cannot fit.
The pixels go  RGB or grey -> resize (bilinear, antialiased) -> centre crop -> (x - mean) / std -> layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from calibrant.core import DataError, SettingError
from calibrant.data.inputs import ModelInput, static

Color = Literal["rgb", "bgr", "gray"]
Layout = Literal["nchw", "nhwc"]
WHITE = (255, 255, 255, 255)
DEEP_GRAY = ("I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Resize:
    """How an image is resized, before it is cropped.

    short: the shorter side becomes `height`, the ratio is kept.      exact: height x width, whatever the ratio.
    cover: the smallest size of that ratio that covers height x width.  original: not at all.
    height, width: that side gets its size, the ratio is kept.
    """

    how: Literal["short", "exact", "cover", "height", "width", "original"]
    height: int = 0
    width: int = 0

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image of that height and width, after resizing."""
        if self.how == "original":
            return height, width
        if self.how == "exact":
            return self.height, self.width
        ratio = {
            "short": self.height / min(height, width),
            "cover": max(self.height / height, self.width / width),
            "height": self.height / height,
            "width": self.width / width,
        }[self.how]
        return max(1, round(height * ratio)), max(1, round(width * ratio))

    def __str__(self) -> str:
        return {
            "short": f"shorter side to {self.height}",
            "exact": f"resized to {self.height}x{self.width}",
            "cover": f"resized to cover {self.height}x{self.width}",
            "height": f"height to {self.height}",
            "width": f"width to {self.width}",
            "original": "not resized",
        }[self.how]


@dataclass(frozen=True)
class Preprocessing:
    """What the user said about images; None: taken from the model's input.

    resize: see Resize. crop: (height, width) of the centre crop.
    mean, std: one number, or one for each channel in the order of `color`. They are in units of `pixels`.
    pixels: 1 when pixels count from 0 to 1, 255 when they count from 0 to 255. None: 255 when a number of mean or std
        is above 1 (as in `mean 127, std 128`), else 1.
    """

    resize: Resize | None = None
    crop: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pixels: Literal[1, 255] | None = None
    layout: Layout | None = None
    color: Color | None = None


@dataclass(frozen=True)
class ImagePlan:
    """A complete recipe: `apply` turns an opened image into the array that the model takes, batch axis included."""

    resize: Resize
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: Literal[1, 255]
    layout: Layout
    color: Color
    dtype: np.dtype[np.generic]
    batch_axis: bool = True

    def apply(self, image: Image.Image) -> NDArray[np.generic]:
        """[1, C, H, W] or [1, H, W, C] of `dtype` (without the 1 where the model has no batch axis).

        The image is turned as its EXIF orientation says; transparent parts are white.
        Raises DataError for an image smaller than the crop, and for floating-point images.
        """
        image = flatten(ImageOps.exif_transpose(image), gray=self.color == "gray")
        height, width = self.resize.size(image.height, image.width)
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        image = self._cropped(image)
        x = np.asarray(image, np.uint8).reshape(image.height, image.width, -1)
        if self.color == "bgr":
            x = x[..., ::-1]
        y = x.astype(self.dtype) if self.dtype.kind in "iu" else self._normalized(x)
        y = y if self.layout == "nhwc" else y.transpose(2, 0, 1)
        return np.ascontiguousarray(y[np.newaxis] if self.batch_axis else y)

    def _normalized(self, x: NDArray[np.uint8]) -> NDArray[np.generic]:
        unit = np.float32(255 // self.pixels)
        y = (x.astype(np.float32) / unit - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return y.astype(self.dtype)

    def _cropped(self, image: Image.Image) -> Image.Image:
        if self.crop is None or self.crop == (image.height, image.width):
            return image
        height, width = self.crop
        if image.height < height or image.width < width:
            raise DataError(
                f"it is {image.height}x{image.width} ({self.resize}), smaller than the crop of {height}x{width}: "
                "give --resize a larger size"
            )
        top, left = (image.height - height) // 2, (image.width - width) // 2
        return image.crop((left, top, left + width, top + height))

    def __str__(self) -> str:
        parts = [str(self.resize)]
        if self.crop is not None and not (self.resize.how == "exact" and self.crop == self._exact):
            parts.append(f"centre {self.crop[0]}x{self.crop[1]}")
        parts += [{"rgb": "RGB", "bgr": "BGR", "gray": "grey"}[self.color], self.layout.upper()]
        if self.dtype.kind in "iu":
            return ", ".join([*parts, f"pixels 0..255 as {self.dtype}"])
        scaled = "" if self._unscaled else f", minus {_spell(self.mean)}, over {_spell(self.std)}"
        return ", ".join(parts) + f", pixels 0..{self.pixels}{scaled}"

    @property
    def is_plain(self) -> bool:
        """Whether the model gets pixels from 0 to 1 as they are: what happens when nothing was said."""
        return self.dtype.kind == "f" and self.pixels == 1 and self._unscaled

    @property
    def _unscaled(self) -> bool:
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    @property
    def _exact(self) -> tuple[int, int]:
        return self.resize.height, self.resize.width


def flatten(image: Image.Image, gray: bool) -> Image.Image:
    """`image` as RGB or 8-bit grey: alpha over white, 16-bit grey to 8 bits, every other mode by Pillow's rules."""
    mode: Literal["L", "RGB"] = "L" if gray else "RGB"
    if image.mode == "F":
        raise DataError("its pixels are floating-point numbers: save it as .npy, preprocessed, instead")
    if image.mode in DEEP_GRAY:
        deep = np.asarray(image).astype(np.int64)
        if deep.size and (deep.min() < 0 or deep.max() > 0xFFFF):
            raise DataError(f"its pixels reach from {deep.min()} to {deep.max()}; 8 and 16 bits can be read")
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8)).convert(mode)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def plan(said: Preprocessing, target: ModelInput) -> ImagePlan:
    """The recipe for `target`. Raises DataError where images cannot fill it, SettingError where `said` does not fit."""
    rank = 4 if target.shape is None else len(target.shape)
    shape = [None] * 4 if target.shape is None else list(target.shape)
    if rank not in (3, 4):
        raise DataError(
            f"input '{target.name}' has {rank} dimensions {_dims(target)}; an image fills one of 4 (batch, channels, "
            "height, width) or 3: give the samples as .npy or .npz files, or as --data package.module:function"
        )
    image_shape = [static(d) for d in shape[rank - 3 :]]
    layout = said.layout or _layout(image_shape)
    channels, height, width = image_shape if layout == "nchw" else (image_shape[2], *image_shape[:2])
    color = said.color or ("gray" if channels == 1 else "rgb")
    depth = 1 if color == "gray" else 3
    if channels not in (None, depth):
        raise DataError(
            f"input '{target.name}' takes {channels} channels ({layout.upper()} {_dims(target)}), "
            f"images in {color} have {depth}: check --layout and --color"
        )
    resize, crop = _sizes(said, target.name, height, width)
    mean, std, pixels = _normalization(said, depth, target)
    return ImagePlan(resize, crop, mean, std, pixels, layout, color, np.dtype(target.dtype), rank == 4)


def _layout(shape: list[int | None]) -> Layout:
    """NHWC when only the last dimension can be the channels'; NCHW, as ONNX's own operators take images, otherwise."""
    return "nhwc" if shape[0] not in (1, 3) and shape[2] in (1, 3) else "nchw"


def _sizes(
    said: Preprocessing, name: str, height: int | None, width: int | None
) -> tuple[Resize, tuple[int, int] | None]:
    """Resize and crop such that what comes out has the model's height and width, where they are fixed."""
    fixed = (height, width) if height is not None and width is not None else None
    crop, resize = said.crop, said.resize
    if resize is None:
        goal = crop or fixed
        if goal is not None:
            resize = Resize("cover", *goal)
        elif height is not None:
            resize = Resize("height", height)
        elif width is not None:
            resize = Resize("width", width=width)
        else:
            raise SettingError(
                f"input '{name}' takes images of any size: say which with --resize (N, HxW, or 'original') or --crop"
            )
    crop = crop or fixed
    exact = crop or ((resize.height, resize.width) if resize.how == "exact" else None)
    for side, got, wanted in zip(("height", "width"), exact or (None, None), (height, width), strict=True):
        if got is not None and wanted is not None and got != wanted:
            raise SettingError(
                f"input '{name}' has {side} {wanted}, the images would have {got}: change --resize or --crop"
            )
    small = resize.how == "exact" and crop and (resize.height < crop[0] or resize.width < crop[1])
    if crop and (small or (resize.how == "short" and resize.height < min(crop))):
        raise SettingError(
            f"--resize makes the images smaller ({resize}) than the {crop[0]}x{crop[1]} that input '{name}' takes: "
            f"give --resize {max(crop)} or more"
        )
    return resize, crop


def _normalization(
    said: Preprocessing, depth: int, target: ModelInput
) -> tuple[tuple[float, ...], tuple[float, ...], Literal[1, 255]]:
    kind = np.dtype(target.dtype)
    if kind.kind not in "f" and kind != np.uint8:
        raise DataError(f"input '{target.name}' takes {kind}; images fill floating-point inputs and uint8")
    if kind == np.uint8 and (said.mean or said.std or said.pixels):
        raise SettingError(
            f"input '{target.name}' takes uint8 pixels as they are: leave --mean, --std and --pixels out"
        )
    mean, std = said.mean or (0.0,), said.std or (1.0,)
    for option, numbers in (("--mean", mean), ("--std", std)):
        if len(numbers) not in (1, depth):
            raise SettingError(f"{option} takes one number or {depth} for {depth} channels, got {len(numbers)}")
    if min(std) <= 0:
        raise SettingError(f"--std must be positive, got {_spell(std)}")
    return mean, std, said.pixels or _units(mean, std)


def _units(mean: tuple[float, ...], std: tuple[float, ...]) -> Literal[1, 255]:
    """255 when mean or std are given in pixel values; refused when one looks like that and the other does not."""
    mean_is_pixels, std_is_pixels = max(mean) > 1, max(std) > 1
    mixed = (std_is_pixels and not mean_is_pixels and any(mean)) or (mean_is_pixels and max(std) < 1)
    if mixed:
        units = "0..255 and 0..1" if mean_is_pixels else "0..1 and 0..255"
        raise SettingError(
            f"--mean {_spell(mean)} and --std {_spell(std)} look like different units ({units}): "
            "say which with --pixels 1 or --pixels 255"
        )
    return 255 if mean_is_pixels or std_is_pixels else 1


def _dims(target: ModelInput) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in target.shape or ()) + "]"


def _spell(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{n:g}" for n in numbers)
