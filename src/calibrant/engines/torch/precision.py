"""How exact the arithmetic is, and on how many threads: set around a run, and put back behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from calibrant.core import SettingError, unknown

COMPUTED_IN = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def check_precision(precision: str) -> None:
    """Raise SettingError for a precision that is none."""
    if precision not in COMPUTED_IN:
        raise SettingError(unknown("precision", str(precision), list(COMPUTED_IN)))


@contextmanager
def arithmetic(precision: str, threads: int) -> Iterator[None]:
    """float32 is float32 inside, unless `precision` is tf32; whatever the process has set comes back afterwards."""
    switches = _switches()
    before = [getattr(place, name) for place, name, _ in switches]
    threads_before = torch.get_num_threads()
    try:
        for place, name, values in switches:
            setattr(place, name, values[precision == "tf32"])
        torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(threads_before)
        for (place, name, _), value in zip(switches, before, strict=True):
            setattr(place, name, value)


def _switches() -> list[tuple[Any, str, tuple[Any, Any]]]:
    """Where torch keeps the choice, under which name, and what is exact and what tf32 there."""
    backends = torch.backends
    if not hasattr(backends.cudnn, "conv"):  # before torch 2.9
        return [(place, "allow_tf32", (False, True)) for place in (backends.cuda.matmul, backends.cudnn)]
    on_cuda = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    on_cpu = [getattr(backends.mkldnn, name) for name in ("matmul", "conv", "rnn") if hasattr(backends.mkldnn, name)]
    switches = [(place, "fp32_precision", ("ieee", "tf32")) for place in on_cuda]
    return switches + [(place, "fp32_precision", ("ieee", "ieee")) for place in on_cpu]
