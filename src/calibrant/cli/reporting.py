"""Reports: of a quantization that is done, and what `calibrant report` does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibrant.analysis import report as pages
from calibrant.analysis.findings import Grid
from calibrant.api import quantize, write_report
from calibrant.cli.choices import Choices
from calibrant.cli.console import Console, Stages
from calibrant.cli.inspection import lead_of
from calibrant.cli.output import check_model, check_output
from calibrant.cli.summary import Finished, rows
from calibrant.cli.tables import TableFile
from calibrant.cli.words import masked_rows, megabytes
from calibrant.core import SettingError, unknown
from calibrant.data.functions import load_module
from calibrant.data.paths import count
from calibrant.engines import Executor
from calibrant.engines.session import usable_processors
from calibrant.observers.registry import known
from calibrant.passes.auto import AUTO
from calibrant.quantization import check_methods
from calibrant.quantizers.tables import TABLES
from calibrant.settings import QuantizationSetting
from calibrant.table import CalibrationTable
from calibrant.table.collecting import METHODS

EXAMPLE = "report.html"
MEASURED = 8  # samples, at most, on which layers are quantized one by one
ELSEWHERE = ("time", "note")  # rows of a summary that are about the run, or stand on the page anyhow


def check_report(path: Path, force: bool, model: Path, output: Path) -> None:
    """Refuse, before the work, what would be refused after it: a page without Bokeh, or that cannot be written."""
    pages.require_bokeh()
    check_output(path, force, model, example=EXAMPLE)
    if path.resolve() == output.resolve():
        raise SettingError(f"--report and --output are both '{path}': give the page a name of its own")


def report_quantization(
    console: Console, done: Finished, executor: Executor | None, path: Path, threads: int | None
) -> None:
    """Measure a quantization that is done on some of its samples, and write the page about it."""
    facts = [(label, text) for label, text in joined(rows(done)) if label not in ELSEWHERE]
    with Stages(console) as stages:
        stages.begin("measuring the layers", min(MEASURED, len(done.summary.kept)))
        write_report(
            done.graph,
            done.summary,
            path,
            title=done.model.name,
            facts=facts,
            samples=MEASURED,
            executor=executor,
            threads=threads,
            on_step=stages.done,
        )


def joined(rows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The rows, those without a label as part of the one before.

    >>> joined([("in float", "2 of 9 operations"), ("", "Softmax: no integer form"), ("size", "1 MB")])
    [('in float', '2 of 9 operations; Softmax: no integer form'), ('size', '1 MB')]
    """
    found: list[tuple[str, str]] = []
    for label, text in rows:
        if label or not found:
            found.append((label, text))
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]}; {text}")
    return found


@dataclass(frozen=True)
class Reporting:
    """A report from a table, and what is wanted of it. sources: the table, and the model if there is one."""

    sources: Sequence[Path]
    output: Path | None
    choices: Choices
    imports: Sequence[str] = ()
    threads: int | None = None
    force: bool = False

    def run(self, console: Console) -> None:
        """Write the page, and say so. What can be refused is refused before the work starts."""
        path, model = self._sources()
        if self.output is None:
            raise SettingError(f"--output is missing: say where the page goes, as in --output {path.stem}.html")
        pages.require_bokeh()
        for module in self.imports:
            load_module(module)
        setting = self.choices.to_setting()
        check_methods(setting)
        source = TableFile.open(path)
        if model is not None:
            check_model(model)
        for file in self.sources:
            check_output(self.output, self.force, file, example=EXAMPLE)
        threads = self.threads or usable_processors()
        with Stages(console) as stages, source.named():
            stages.begin("finding the ranges")
            if model is None:
                pages.write_report(pages.collect(self._of_table(source), threads), self.output)
            else:
                self._write_of_model(source, model, setting, self.output)
        if not console.quiet:
            size = megabytes(self.output.stat().st_size)
            console.out.print(f"{self.output}: {count(len(source.table), 'value')}, {size}", soft_wrap=True)

    def _sources(self) -> tuple[Path, Path | None]:
        """The table and the model. SettingError for other numbers of them."""
        models = [path for path in self.sources if path.suffix.lower() == ".onnx"]
        tables = [path for path in self.sources if path not in models]
        if len(tables) == 1 and len(models) <= 1:
            return tables[0], models[0] if models else None
        if not tables:
            raise SettingError(
                f"a report is made from a table of statistics: calibrant calibrate {models[0]} --data SAMPLES "
                "-o TABLE; or while quantizing: calibrant quantize ... --report FILE.html"
            )
        raise SettingError(f"expected a table, and an .onnx model if any; got {', '.join(map(str, self.sources))}")

    def _of_table(self, source: TableFile) -> pages.Subject:
        """The values alone, as one method would have them. SettingError for what only a model can have."""
        method = self.choices.method or lead_of(source.table)
        if self.choices.setting is not None:
            raise SettingError("--setting is about a model: give the model beside the table")
        if method not in known():
            more = f"method '{AUTO}' chooses for a model: give the model beside the table"
            raise SettingError(more if method == AUTO else unknown("method", method, known()))
        grid = Grid(self.choices.bits or 8, self._symmetric(source.table), self.choices.percentile)
        facts = [("scales for", f"{grid}, by {method}"), *origin(source)]
        methods = list(dict.fromkeys([*METHODS, method]))
        return pages.Subject(source.path.name, source.table.sketches, methods, facts, None, grid, method)

    def _symmetric(self, table: CalibrationTable) -> bool:
        """As was said; else as the platform of the table has it."""
        if self.choices.symmetric is not None:
            return self.choices.symmetric
        rows = {platform.name: row for platform, row in TABLES.items()}
        name = table.settings.get("platform", "")
        return rows[name].activation.symmetric if name in rows else False

    def _write_of_model(self, source: TableFile, model: Path, setting: QuantizationSetting, output: Path) -> None:
        """The page of the model, quantized from the table."""
        graph, summary = quantize(
            model, None, platform=source.platform, setting=setting, table=source.table, threads=self.threads, keep=True
        )
        facts = [*summary.facts, ("table", f"{source.path.name}, by {source.table.engine}")]
        write_report(graph, summary, output, title=model.name, facts=facts, threads=self.threads)


def origin(source: TableFile) -> list[tuple[str, str]]:
    """Where the numbers come from."""
    table = source.table
    platform = table.settings.get("platform", "no platform")
    return [
        ("values", str(len(table))),
        ("samples", f"{table.samples}, collected for {platform} by {table.engine}"),
        *(("padding", text) for _, text in masked_rows(table.settings.get("mask"))),
    ]
