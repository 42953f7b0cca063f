"""The command `calibrant`: thin over `calibrant.api`. Starts without onnxruntime and numba; a command loads them."""

from calibrant.cli.app import app, main

__all__ = ["app", "main"]
