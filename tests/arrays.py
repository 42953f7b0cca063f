"""Arrays that several tests make, and how they judge them."""

import numpy as np

from tests.runtime import opened


def rows(count, width=4, seed=0):
    """Normal numbers, (count, width) float32."""
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def softmax(x):
    """Along the last axis, float32."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True)).astype(np.float32)


def run(path, samples):
    """The first output of the model in onnxruntime, of all samples of its input x."""
    session = opened(path)
    return np.concatenate([session.run(None, {"x": x})[0] for x in samples])


def sqnr(signal, other):
    """Power of the signal over that of the difference, in dB."""
    return 10 * np.log10((signal**2).sum() / ((signal - other) ** 2).sum())
