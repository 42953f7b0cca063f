"""BERT's WordPiece tokens for lower-cased English, from a vocabulary file: what the sentence encoder takes.

After Devlin et al., 2018, and Wu et al., 2016: split at spaces and punctuation, then take the longest known piece again
and again; pieces inside a word are written with ## in front. A word that cannot be taken apart is [UNK].
"""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LONGEST_WORD = 100


class WordPiece:
    """Texts to fixed-length token ids, with the mask that says which are text."""

    def __init__(self, vocabulary: str | Path) -> None:
        lines = Path(vocabulary).read_text(encoding="utf-8").split("\n")
        self._ids = {piece: number for number, piece in enumerate(lines)}

    def inputs(self, text: str, length: int) -> dict[str, NDArray[np.int64]]:
        """The encoder's inputs for one text, each [1, length] int64; longer texts are cut, shorter ones padded."""
        pieces = [self._ids[piece] for word in _words(text) for piece in self._pieces(word)]
        ids = [self._ids["[CLS]"], *pieces[: length - 2], self._ids["[SEP]"]]
        padded = np.full((1, length), self._ids["[PAD]"], np.int64)
        padded[0, : len(ids)] = ids
        mask = (np.arange(length) < len(ids)).astype(np.int64)[None]
        return {"input_ids": padded, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}

    def _pieces(self, word: str) -> list[str]:
        pieces: list[str] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            end = next((e for e in range(len(word), start, -1) if mark + word[start:e] in self._ids), None)
            if end is None or len(word) > LONGEST_WORD:
                return ["[UNK]"]
            pieces.append(mark + word[start:end])
            start = end
        return pieces


def _words(text: str) -> Iterator[str]:
    """Lower-cased words without accents; punctuation marks and Chinese characters are words of their own."""
    word = ""
    for character in unicodedata.normalize("NFD", text.lower()):
        if _is_dropped(character):
            continue
        alone = _is_word(character)
        if alone or character.isspace():
            if word:
                yield word
            word = ""
            if alone:
                yield character
        else:
            word += character
    if word:
        yield word


def _is_dropped(character: str) -> bool:
    """Accents, control characters, and the mark of a byte that was not text."""
    return character == "\ufffd" or (
        unicodedata.category(character) in ("Mn", "Cc", "Cf") and character not in "\t\n\r"
    )


def _is_word(character: str) -> bool:
    category, code = unicodedata.category(character)[0], ord(character)
    chinese = 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF
    return category == "P" or (category == "S" and code < 128) or chinese
