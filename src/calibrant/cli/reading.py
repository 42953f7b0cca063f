"""How samples are read and how the model runs, as the options say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from calibrant.core import DataError, SettingError
from calibrant.data import Preprocessing, Samples, open_samples
from calibrant.data.inputs import ModelInput
from calibrant.engines import OnnxruntimeExecutor
from calibrant.graph import Graph


@dataclass(frozen=True)
class Reading:
    """How samples are read; `images` holds the fields of `Preprocessing`.

    mask: the input that says what is padding, where samples are compared without it.
    """

    data: str | None = None
    samples: int | None = None
    batch_size: int | None = None
    skip_bad: bool = False
    images: dict[str, Any] = field(default_factory=dict)
    mask: str | None = None

    def refuse_beside(self, table: str) -> None:
        """Raise SettingError where anything was said about samples: the table stands in for them."""
        said = {"--data": self.data, "--samples": self.samples, "--batch-size": self.batch_size}
        said |= {"--skip-bad": self.skip_bad or None}
        said |= {f"--{name}": value for name, value in self.images.items()}
        for option, value in said.items():
            if value is not None:
                raise SettingError(f"{option} is about samples, and --table {table} stands in for them: leave one out")

    def open(self, inputs: Sequence[ModelInput]) -> Samples:
        """The samples, none of them read yet. Raises as `open_samples` does."""
        return open_samples(
            self.data or "",
            inputs,
            preprocessing=Preprocessing(**self.images),
            samples=self.samples,
            batch_size=self.batch_size,
            skip_bad=self.skip_bad,
        )


@dataclass(frozen=True)
class Running:
    """How the model runs, and the modules to import before."""

    threads: int | None = None
    providers: list[str] | None = None
    memory_budget: int | None = None
    imports: list[str] = field(default_factory=list)

    def executor(self, graph: Graph) -> OnnxruntimeExecutor:
        """What runs the graph. Raises ModelError where onnxruntime cannot, SettingError for unknown providers."""
        return OnnxruntimeExecutor(graph, self.providers, self.threads, self.memory_budget or 1 << 30)


@contextmanager
def naming_the_file(samples: Samples | None) -> Iterator[None]:
    """Errors about a sample also say which file it came from."""
    try:
        yield
    except DataError as error:
        about_one = str(error).startswith("sample ")
        if samples is None or not about_one or not samples.last or samples.last in str(error):
            raise
        text = str(error) if samples.batch == 1 else f"batch {str(error).removeprefix('sample ')}"
        raise DataError(f"{text} (the last one read: {samples.last})") from error
