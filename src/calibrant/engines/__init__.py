"""Who runs the model, and what is fed to it."""

from calibrant.engines.executor import Executor
from calibrant.engines.onnxruntime import OnnxruntimeExecutor
from calibrant.engines.samples import InputSpec, iterate_samples
from calibrant.engines.torch import TorchExecutor

__all__ = ["Executor", "InputSpec", "OnnxruntimeExecutor", "TorchExecutor", "iterate_samples"]
