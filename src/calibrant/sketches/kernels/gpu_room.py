"""Memory that kernels for a GPU work in, and what they are told there."""

from __future__ import annotations

from typing import Any

import torch

from calibrant.sketches.cells import I64

Tensor = Any  # torch.Tensor: torch brings no types that are checked here

PROGRAMS = 512  # at most so many for one tensor, unless it has more channels: all at work at once
WORDS = 1024  # of each, that there is room for from the beginning


class Room:
    """Memory for kernels to work in. What was given out stays valid: a captured graph may hold on to it."""

    def __init__(self, device: Any) -> None:
        self._device = torch.device(device)
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._read_by_graphs: list[Tensor] = []
        self.of(PROGRAMS, WORDS)

    def of(self, programs: int, words: int) -> tuple[Tensor, Tensor]:
        """Room of so many words for each program, and a zero for each, which they are to leave a zero."""
        if not self._kept or self._kept[-1][0].numel() < programs * words or self._kept[-1][1].numel() < programs:
            scratch = torch.empty(programs * words, dtype=torch.int64, device=self._device)
            self._kept.append((scratch, torch.zeros(programs, dtype=torch.int32, device=self._device)))
        return self._kept[-1]

    def described(self, words: I64) -> Tensor:
        """The words where kernels can read them; nothing waits for that."""
        host = torch.from_numpy(words)
        if self._device.type != "cuda":
            return host
        host = host.pin_memory()
        if torch.cuda.is_current_stream_capturing():
            self._read_by_graphs.append(host)  # which read the host's memory: less work than a copy at each replay
            return host
        return host.to(self._device, non_blocking=True)
