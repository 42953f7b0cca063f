"""What each real model is given and how its answers are judged. Data lie in folders that the command line names.

A task splits its data once, by its seed: calibration never sees what is measured on.

    photos    a folder of images. Classifiers: agreement with FP32 in top-1, and SQNR of the logits
    labelled  a folder of other images with labels.csv (file, imagenet_index_accepted: indices). Classifiers: top-1
    lines     a folder of images of text lines with labels.csv (file, text). The recogniser: exact match, errors
    text      a .csv with columns `text` and, if it has them, `label` and `split` (train, test). The sentence encoder:
              SQNR of its embeddings; how often the most similar text is the same; what is told by a linear classifier
"""

import argparse
import csv
import math
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from benchmarks.models import default_cache
from benchmarks.wordpiece import WordPiece
from calibrant import TargetPlatform
from demo.data import PHOTOS
from demo.measure import agreement, session, sqnr_db

Array = NDArray[Any]
Sample = Array | dict[str, Array]
PLATFORM = TargetPlatform.ONNXRUNTIME  # of every benchmark
IMAGES = (".jpg", ".jpeg", ".png", ".webp")


class Task(ABC):
    """Data and judgement for one model. `calibration` and `measuring` share no item."""

    columns: Sequence[str]  # of the measures, in order
    has_truth: bool = False  # whether a measure is taken against labels, so that FP32 has one as well

    @abstractmethod
    def calibration(self) -> list[Sample]:
        """Samples to calibrate with."""

    @abstractmethod
    def measure(self, float_model: Path, model: Path) -> tuple[dict[str, float], int]:
        """The measures of `model` against the float model or the truth, and on how many items."""


def split(items: Sequence[Any], calibration: int, seed: int = 0) -> tuple[list[Any], list[Any]]:
    """`calibration` items, half of them at most, and the others; shuffled by the seed. Two items are the least."""
    if calibration < 1 or len(items) < 2:
        raise ValueError(f"cannot calibrate on {calibration} of {len(items)} items and measure on the others")
    calibration = min(calibration, len(items) // 2)
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    return shuffled[:calibration], shuffled[calibration:]


def images(folder: Path) -> list[Path]:
    """The images in a folder and below it, by name. FileNotFoundError where there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    if not found:
        raise FileNotFoundError(f"no images in {folder}")
    return found


@dataclass(frozen=True)
class Normalization:
    """(pixel - mean) / std, of pixels 0..255; a number, or one for red, green and blue."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


LITE = Normalization((127,), (128,))
IMAGENET = Normalization((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255))


def classifier_input(path: Path, normalization: Normalization, size: int = 224) -> Array:
    """[1, 3, size, size] float32: shorter side to size / 0.875, centre crop, RGB on white, normalized."""
    with Image.open(path) as opened:
        photo = opened.convert("RGBA")
    ground = Image.new("RGBA", photo.size, "white")
    ground.alpha_composite(photo)
    photo = ground.convert("RGB")
    ratio = round(size / 0.875) / min(photo.size)
    photo = photo.resize(
        (max(size, round(photo.width * ratio)), max(size, round(photo.height * ratio))), Image.Resampling.BICUBIC
    )
    left, top = (photo.width - size) // 2, (photo.height - size) // 2
    pixels = np.asarray(photo.crop((left, top, left + size, top + size)), np.float32)
    normal = (pixels - np.array(normalization.mean, np.float32)) / np.array(normalization.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])


def logits(model: Path, inputs: Sequence[Array], *, optimized: bool = True, integer_kernels: bool = True) -> Array:
    """What a classifier says, (inputs, classes), in onnxruntime; `session` has the two switches."""
    running = session(model, optimized=optimized, integer_kernels=integer_kernels)
    name = running.get_inputs()[0].name
    return np.concatenate([running.run(None, {name: x})[0] for x in inputs])


class Classifier(Task):
    """An ImageNet classifier on photos; with `labelled`, top-1 on those as well."""

    def __init__(
        self, photos: Path, normalization: Normalization, calibration: int, seed: int, labelled: Path | None = None
    ) -> None:
        self._normalization = normalization
        self._calibration, self._measuring = split(images(photos), calibration, seed)
        self._labelled = accepted_labels(labelled) if labelled else []
        self.has_truth = bool(self._labelled)
        self.columns = (*(["top-1"] if self.has_truth else []), "top-1 agreement", "logits SQNR, dB")

    def calibration(self) -> list[Sample]:
        return [classifier_input(path, self._normalization) for path in self._calibration]

    def measure(self, float_model: Path, model: Path) -> tuple[dict[str, float], int]:
        inputs = [classifier_input(path, self._normalization) for path in self._measuring]
        wanted, found = logits(float_model, inputs), logits(model, inputs)
        values = {"top-1 agreement": agreement(wanted, found), "logits SQNR, dB": sqnr_db(wanted, found)}
        if self.has_truth:
            said = logits(model, [classifier_input(path, self._normalization) for path, _ in self._labelled]).argmax(-1)
            right = [int(index) in accepted for index, (_, accepted) in zip(said, self._labelled, strict=True)]
            values["top-1"] = float(np.mean(right))
        return values, len(inputs)


def accepted_labels(folder: Path) -> list[tuple[Path, set[int]]]:
    """The images that labels.csv names, each with the ImageNet indices that are right for it."""
    with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [(folder / row["file"], {int(index) for index in row["imagenet_index_accepted"].split()}) for row in rows]


class Recogniser(Task):
    """The PP-OCRv4 recogniser on images of text lines. Exact match and character error rate leave spaces out."""

    columns = ("exact match", "character error rate", "agreement", "output SQNR, dB")
    has_truth = True

    def __init__(self, lines: Path, calibration: int, seed: int) -> None:
        with open(lines / "labels.csv", newline="", encoding="utf-8") as file:
            rows = [(lines / row["file"], row["text"].replace(" ", "")) for row in csv.DictReader(file)]
        self._calibration, self._measuring = split(rows, calibration, seed)

    def calibration(self) -> list[Sample]:
        return [line_input(path) for path, _ in self._calibration]

    def measure(self, float_model: Path, model: Path) -> tuple[dict[str, float], int]:
        characters = recogniser_characters(float_model)
        wanted, found = self._probabilities(float_model), self._probabilities(model)
        exact = wrong = total = agreeing = 0
        for reference, probabilities, (_, text) in zip(wanted, found, self._measuring, strict=True):
            read = best_path(probabilities, characters).replace(" ", "")
            agreeing += read == best_path(reference, characters).replace(" ", "")
            exact += read == text
            wrong += edit_distance(read, text)
            total += len(text)
        sqnr = sqnr_db(np.concatenate(wanted), np.concatenate(found))
        values = (exact / len(self._measuring), wrong / total, agreeing / len(self._measuring), sqnr)
        return dict(zip(self.columns, values, strict=True)), len(self._measuring)

    def _probabilities(self, model: Path) -> list[Array]:
        """What the model gives for each line, (steps, classes)."""
        running = session(model)
        name = running.get_inputs()[0].name
        return [running.run(None, {name: line_input(path)})[0][0] for path, _ in self._measuring]


def line_input(path: Path) -> Array:
    """The image of a text line as the recogniser takes it: see `scaled_line`."""
    with Image.open(path) as opened:
        return scaled_line(opened.convert("RGB"))


def scaled_line(line: Image.Image, height: int = 48, width: int = 320, most: int | None = None) -> Array:
    """[1, 3, 48, W] float32: height 48, ratio kept, BGR, -1..1; filled up with zeros to W = 320 where it is shorter.

    most: squeezed to this width where it is longer.
    """
    scaled = min(math.ceil(height * line.width / line.height), most or sys.maxsize)
    pixels = np.asarray(line.resize((scaled, height), Image.Resampling.BILINEAR), np.float32)[:, :, ::-1]
    x = np.zeros((1, 3, height, max(width, scaled)), np.float32)
    x[0, :, :, :scaled] = (pixels / 127.5 - 1).transpose(2, 0, 1)
    return x


def recogniser_characters(model: Path) -> list[str]:
    """What each class of the recogniser stands for; class 0 is the blank. The model's metadata say it."""
    metadata = {entry.key: entry.value for entry in onnx.load(model, load_external_data=False).metadata_props}
    return ["", *metadata["character"].split("\n"), " "]


def best_path(probabilities: Array, characters: Sequence[str]) -> str:
    """The text of [steps, classes]: the likeliest class of each step, repeats joined, blanks dropped (CTC)."""
    best = probabilities.argmax(-1)
    starts = np.concatenate([[True], best[1:] != best[:-1]])
    return "".join(characters[c] for c in best[starts & (best != 0)] if c < len(characters))


def edit_distance(a: str, b: str) -> int:
    """How many characters must be inserted, deleted or changed to make b of a (Levenshtein)."""
    distances = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, distances[0] = distances[0], i
        for j, y in enumerate(b, 1):
            diagonal, distances[j] = distances[j], min(distances[j] + 1, distances[j - 1] + 1, diagonal + (x != y))
    return distances[-1]


class Encoder(Task):
    """The MiniLM-L6 sentence encoder on short texts, one at a time, padded to a fixed length: so the mask matters.

    Where the texts have labels and a split, a linear classifier is fitted to the embeddings that the model gives of
    texts of the one part (ridge regression), and measured on those of the other. Calibrated is on the first part.
    """

    MEASURED, FITTED = 200, 300

    def __init__(self, text: Path, vocabulary: Path, calibration: int, seed: int, length: int = 64) -> None:
        with open(text, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self._words, self._length = WordPiece(vocabulary), length
        self.has_truth = bool(rows) and {"label", "split"} <= rows[0].keys()
        learning = [row for row in rows if not self.has_truth or row["split"] == "train"]
        self._calibration, self._fitted = split(learning, calibration, seed)
        self._measuring = [row for row in rows if row["split"] == "test"] if self.has_truth else self._fitted
        self._measuring, self._fitted = self._measuring[: self.MEASURED], self._fitted[: self.FITTED]
        self.columns = (
            *(["labels told"] if self.has_truth else []),
            "most similar agreement",
            "embedding SQNR, dB",
            "token vectors SQNR, dB",
        )

    def calibration(self) -> list[Sample]:
        return list(self._inputs(self._calibration))

    def measure(self, float_model: Path, model: Path) -> tuple[dict[str, float], int]:
        inputs = self._inputs(self._measuring)
        wanted, found = self._vectors(float_model, inputs), self._vectors(model, inputs)
        means = [np.stack([v.mean(0) for v in vectors]) for vectors in (wanted, found)]
        values = {
            "most similar agreement": float(np.mean(most_similar(means[0]) == most_similar(means[1]))),
            "embedding SQNR, dB": sqnr_db(*means),
            "token vectors SQNR, dB": sqnr_db(np.concatenate(wanted), np.concatenate(found)),
        }
        if self.has_truth:
            learned = np.stack([v.mean(0) for v in self._vectors(model, self._inputs(self._fitted))])
            told = linear_classifier(learned, _labels(self._fitted), means[1])
            values["labels told"] = float(np.mean(told == _labels(self._measuring)))
        return values, len(inputs)

    def _inputs(self, rows: Sequence[dict[str, str]]) -> list[dict[str, Array]]:
        return [self._words.inputs(row["text"], self._length) for row in rows]

    @staticmethod
    def _vectors(model: Path, inputs: Sequence[dict[str, Array]]) -> list[Array]:
        """The last hidden state of each text, of its own tokens alone."""
        running = session(model)
        return [running.run(None, x)[0][0][x["attention_mask"][0] == 1] for x in inputs]


def _labels(rows: Sequence[dict[str, str]]) -> Array:
    return np.array([row["label"] for row in rows])


def most_similar(embeddings: Array) -> Array:
    """Of each row the index of the other row with the least angle to it."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return np.asarray(cosines.argmax(1))


def linear_classifier(embeddings: Array, labels: Array, asked: Array, ridge: float = 1e-2) -> Array:
    """What a linear classifier that is fitted to the embeddings of known labels says of those asked about."""
    known = np.unique(labels)
    center = embeddings.mean(0)
    x = embeddings.astype(np.float64) - center
    scale = ridge * np.trace(x.T @ x) / x.shape[1]
    weights = np.linalg.solve(x.T @ x + scale * np.eye(x.shape[1]), x.T @ (labels[:, None] == known))
    return np.asarray(known[((asked - center) @ weights + (labels[:, None] == known).mean(0)).argmax(1)])


def add_data_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """The options that say where the data of these names lie; beside texts, what MiniLM needs."""
    if "photos" in names:
        parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of images (default: the demo's few)")
    if "labelled" in names:
        parser.add_argument("--labelled", type=Path, help="folder of other images with labels.csv, for top-1")
    if "lines" in names:
        parser.add_argument("--lines", type=Path, help="folder of text lines with labels.csv: file, text")
    if "text" in names:
        parser.add_argument("--text", type=Path, help=".csv file with a column named text")
        parser.add_argument("--minilm", type=Path, help="MiniLM-L6 as ONNX, where torch is not there to export it")
        parser.add_argument("--vocab", type=Path, help="MiniLM's vocab.txt (default: that of its package)")


def add_model_options(parser: argparse.ArgumentParser, models: Iterable[str], page: str | None = None) -> None:
    """The options that say which of these models are run, where they are kept, and where the page is written."""
    names = list(models)
    parser.add_argument("--models", nargs="+", choices=names, default=names, metavar="MODEL", help="only these")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where built models are kept")
    if page is not None:
        parser.add_argument("--output", type=Path, default=Path(__file__).with_name(page), help=f"by default {page}")
