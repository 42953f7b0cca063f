"""The command `calibrant`: thin over `calibrant.api`. Starts without onnxruntime and numba; a command loads them."""

import sys

__all__ = ["main"]


def main() -> None:
    """The entry point of the command: see `calibrant.cli.app.main`. Ctrl-C is heeded while that is imported, too."""
    try:
        from calibrant.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(130)  # as `calibrant.cli.exits.INTERRUPTED`, which may not be there yet
    run()
