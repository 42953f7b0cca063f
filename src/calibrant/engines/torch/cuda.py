"""A CUDA device as steps use it: nothing here waits for it, but for a step of some while ago."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable

import torch

AHEAD = 2  # steps that the host may be ahead of the device: so many keep it busy, and bound the memory that waits


class Cuda:
    """Uploads, captured graphs, and how far the host may run ahead, on one device; one thread at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool: tuple[int, int] | None = None
        self._ends: deque[torch.cuda.Event] = deque()

    def upload(self, x: torch.Tensor) -> torch.Tensor:
        """A copy of the host's tensor on the device. `x` may change at once."""
        return x.pin_memory().to(self.device, non_blocking=True)

    def refill(self, buffer: torch.Tensor, x: torch.Tensor) -> None:
        """Copy the host's tensor into one of the device. `x` may change at once."""
        buffer.copy_(x.pin_memory(), non_blocking=True)

    def waits(self, step: Callable[[], None]) -> bool:
        """Run a step; whether anything in it waited for the device, which a captured graph cannot do."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        return any("synchronizing CUDA operation" in str(warning.message) for warning in said)

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record a step that was run before, without running it; what is returned runs it.

        All graphs share their memory: of two, each overwrites what the other leaves, which must be needed no more.
        Raises RuntimeError for a step that cannot be captured.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            step()
        self._pool = graph.pool()
        replay: Callable[[], None] = graph.replay
        return replay

    def keep_pace(self) -> None:
        """To be called behind each step: returns once no more than AHEAD of them are not through."""
        end = torch.cuda.Event(blocking=True)
        end.record()
        self._ends.append(end)
        if len(self._ends) > AHEAD:
            self._ends.popleft().synchronize()
