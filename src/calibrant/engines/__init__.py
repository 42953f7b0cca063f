"""Who runs the model, and what is fed to it."""

from calibrant.engines.onnxruntime import OnnxruntimeExecutor
from calibrant.engines.samples import InputSpec, iterate_samples

__all__ = ["InputSpec", "OnnxruntimeExecutor", "iterate_samples"]
