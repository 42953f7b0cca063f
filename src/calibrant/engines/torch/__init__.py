"""An engine on torch. Torch itself is imported when an executor is made."""

from calibrant.engines.torch.executor import TorchExecutor

__all__ = ["TorchExecutor"]
