"""Pages of text, set from the words of the project's licence, upright or turned by one, two or three quarters."""

import random
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.tasks import IMAGENET

LICENCE = Path(__file__).parents[1] / "LICENSE"
SHORT_SIDE, SIZE = 256, 224  # what a page is resized to, and what is cut out of its middle


def page(seed: int) -> Image.Image:
    """A page, the same for the same seed, in a size, a type and on a paper of its own; turned by `seed` quarters."""
    chosen = random.Random(seed)
    width, height, margin = chosen.randint(500, 900), chosen.randint(500, 1100), chosen.randint(10, 60)
    size, spread = chosen.randint(14, 34), chosen.uniform(1.2, 1.7)
    paper, ink = chosen.randint(200, 255), chosen.randint(0, 90)
    words = LICENCE.read_text(encoding="utf-8").split()
    text = islice(cycle(words), chosen.randrange(len(words)), None)
    sheet = Image.new("L", (width, height), paper)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size)
    line, y = next(text), float(margin)
    while y < height - margin:
        word = next(text)
        if draw.textlength(f"{line} {word}", font) > width - 2 * margin or chosen.random() < 0.03:  # a paragraph ends
            draw.text((margin, y), line, ink, font)
            line, y = word, y + size * spread
        else:
            line = f"{line} {word}"
    return sheet.rotate(90 * (seed % 4), expand=True)


def page_input(sheet: Image.Image) -> NDArray[Any]:
    """[1, 3, 224, 224] float32: shorter side to 256, centre crop, normalized as ImageNet is."""
    ratio = SHORT_SIDE / min(sheet.size)
    sheet = sheet.resize((round(sheet.width * ratio), round(sheet.height * ratio)), Image.Resampling.LANCZOS)
    left, top = (sheet.width - SIZE) // 2, (sheet.height - SIZE) // 2
    pixels = np.asarray(sheet.crop((left, top, left + SIZE, top + SIZE)).convert("RGB"), np.float32)
    normal = (pixels - np.array(IMAGENET.mean, np.float32)) / np.array(IMAGENET.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])
