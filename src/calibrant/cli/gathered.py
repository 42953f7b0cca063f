"""What several commands make of the options that they share."""

from __future__ import annotations

from typing import Any

import typer

from calibrant.cli.console import Console


def console_of(verbose: bool, quiet: bool, debug: bool) -> Console:
    """The console at that verbosity. BadParameter for options that contradict each other."""
    if quiet and (verbose or debug):
        raise typer.BadParameter("--quiet contradicts --verbose and --debug")
    return Console(verbose, quiet, debug)


def images_of(
    resize: Any, crop: Any, mean: Any, std: Any, pixels: str | None, layout: Any, color: Any
) -> dict[str, Any]:
    """The fields of `Preprocessing`, None where nothing was said."""
    said = {"resize": resize, "crop": crop, "mean": mean, "std": std, "layout": layout, "color": color}
    return said | {"pixels": int(pixels) if pixels else None}
