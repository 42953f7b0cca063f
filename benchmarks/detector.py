"""The Silero voice detector on sounds like speech: its task and what it is measured by."""

from pathlib import Path

import numpy as np

from benchmarks.speech import CHUNK, CONTEXT, listened, utterance
from benchmarks.tasks import Array, Sample, Task
from demo.measure import session, sqnr_db

UTTERANCES, CALIBRATION = 48, 16
EVERY = 8  # of the chunks that are calibrated on: they resemble those beside them
LOUD = 0.25  # of the loudest chunk of an utterance, by root mean square


class Detector(Task):
    """Each model listens on its own: its state goes with it from chunk to chunk of an utterance.

    Loud chunks found: of the chunks at least LOUD times as loud as the loudest, the share with a voice in it (a
    probability of more than a half). Agreement: with FP32, over all chunks.
    """

    columns = ("loud chunks found", "agreement", "probability SQNR, dB")
    has_truth = True

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        numbers = list(np.random.default_rng(seed).permutation(UTTERANCES))
        self._calibration, self._measuring = numbers[:CALIBRATION], numbers[CALIBRATION:]

    def calibration(self) -> list[Sample]:
        return [x for seed in self._calibration for x in list(listened(self._path, utterance(int(seed))))[::EVERY]]

    def measure(self, float_model: Path, model: Path) -> tuple[dict[str, float], int]:
        wanted, found, loud = [], [], []
        for seed in self._measuring:
            sound = utterance(int(seed))
            wanted.append(probabilities(float_model, sound))
            found.append(probabilities(model, sound))
            loudness = np.array(
                [np.sqrt(np.mean(sound[i * CHUNK : (i + 1) * CHUNK] ** 2)) for i in range(len(found[-1]))]
            )
            loud.append(loudness >= LOUD * loudness.max())
        exact, other, heard = (np.concatenate(parts) for parts in (wanted, found, loud))
        values = (np.mean(other[heard] > 0.5), np.mean((exact > 0.5) == (other > 0.5)), sqnr_db(exact, other))
        return dict(zip(self.columns, map(float, values), strict=True)), len(exact)


def probabilities(model: Path, sound: Array) -> Array:
    """Of each chunk, how likely a voice is in it, as the model says after those before."""
    running = session(model, 1)
    state, context, said = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32), []
    names = [output.name for output in running.get_outputs()]
    for start in range(0, len(sound) - CHUNK + 1, CHUNK):
        chunk = np.concatenate([context, sound[start : start + CHUNK].astype(np.float32)])
        feed = {"input": chunk[None], "state": state, "sr": np.array(16_000, np.int64)}
        made = dict(zip(names, running.run(None, feed), strict=True))
        state, context = made["stateN"], chunk[-CONTEXT:]
        said.append(float(made["output"].reshape(())))
    return np.array(said)
