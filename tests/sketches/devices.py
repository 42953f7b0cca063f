"""Where the kernels for GPUs are tested: in Triton's interpreter, and by `make test-gpu` on an NVIDIA GPU."""

import os

import pytest

try:
    import torch
    import triton  # noqa: F401
except ImportError:  # both are extras
    torch = None

interpreting = os.environ["TRITON_INTERPRET"] == "1"
interpreted = pytest.mark.skipif(torch is None or not interpreting, reason="needs torch, and TRITON_INTERPRET=1")

_there = torch is not None and not interpreting and torch.cuda.is_available()
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not _there, reason="needs an NVIDIA GPU, torch and TRITON_INTERPRET=0")]
DEVICES = [pytest.param("cpu", marks=interpreted), pytest.param("cuda", marks=on_gpu)]
