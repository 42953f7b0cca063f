"""Sounds like speech, made of numbers: what a voice detector takes for a voice, and what it does not.

A source and a filter (Fant, 1960): pulses of the vocal folds, or noise where they rest, through resonances whose
frequencies make the vowel. Between syllables there are pauses, and all of it lies in faint noise.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.measure import session

F64 = NDArray[np.float64]

RATE = 16_000
CHUNK, CONTEXT = 512, 64  # what the detector takes at a time, and what it is shown of the chunk before
SECONDS = 2.0
# Hz of the first three resonances of men's vowels in heed, head, had, hod, hood, who'd, heard (Peterson, Barney, 1952)
VOWELS = (
    (270, 2290, 3010),
    (530, 1840, 2480),
    (660, 1720, 2410),
    (730, 1090, 2440),
    (440, 1020, 2240),
    (300, 870, 2240),
    (490, 1350, 1690),
)
BANDWIDTHS = (60, 90, 150)  # Hz


def utterance(seed: int) -> F64:
    """SECONDS of syllables in a voice of its own; loud or soft, with much noise or little, by the seed."""
    random = np.random.default_rng(seed)
    pitch = random.uniform(85, 240)
    parts: list[F64] = []
    while sum(map(len, parts)) < SECONDS * RATE:
        parts += [_consonant(random), _vowel(random, pitch), np.zeros(random.integers(0, RATE // 4))]
    sound = np.concatenate(parts)[: int(SECONDS * RATE)]
    sound *= random.uniform(0.05, 0.6) / np.abs(sound).max()
    return np.asarray(sound + random.normal(0, 10 ** random.uniform(-4, -2), len(sound)))


def _vowel(random: np.random.Generator, pitch: float) -> F64:
    """A vowel of 0.1 to 0.35 s, whose pitch falls or rises a little, swelling and fading."""
    length = int(random.uniform(0.1, 0.35) * RATE)
    glide = np.linspace(1, random.uniform(0.85, 1.15), length) * random.uniform(0.9, 1.1)
    turns = np.cumsum(pitch * glide / RATE)
    pulses = np.diff(np.floor(turns), prepend=0.0) * random.uniform(0.9, 1.1, length)
    sound = np.convolve(pulses, np.exp(-np.arange(64) / 16))[:length]  # the folds close faster than they open
    vowel = VOWELS[random.integers(len(VOWELS))]
    for frequency, bandwidth in zip(vowel, BANDWIDTHS, strict=True):
        sound = resonance(sound, frequency * random.uniform(0.9, 1.2), bandwidth)
    return np.asarray(sound / np.abs(sound).max() * np.sin(np.pi * np.arange(length) / length) ** 0.5)


def _consonant(random: np.random.Generator) -> F64:
    """Hissing of 0.02 to 0.12 s."""
    length = int(random.uniform(0.02, 0.12) * RATE)
    sound = resonance(random.normal(size=length), random.uniform(2500, 6000), 1000)
    return np.asarray(sound / np.abs(sound).max() * random.uniform(0.05, 0.3) * np.hanning(length))


def resonance(sound: F64, frequency: float, bandwidth: float) -> F64:
    """Through a filter of two poles, cut off where it has died away."""
    times = np.arange(int(4 * RATE / bandwidth))
    ringing = np.exp(-np.pi * bandwidth * times / RATE) * np.sin(2 * np.pi * frequency * (times + 1) / RATE)
    return np.asarray(np.convolve(sound, ringing)[: len(sound)])


def listened(model: Path, sound: F64) -> Iterator[dict[str, NDArray[Any]]]:
    """What the detector is given, chunk by chunk: sound with context, and the state that it was left in itself."""
    running = session(model, 1)
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)
    for start in range(0, len(sound) - CHUNK + 1, CHUNK):
        chunk = np.concatenate([context, sound[start : start + CHUNK].astype(np.float32)])
        feed = {"input": chunk[None], "state": state, "sr": np.array(RATE, np.int64)}
        yield feed
        state, context = running.run(["stateN"], feed)[0], chunk[-CONTEXT:]
