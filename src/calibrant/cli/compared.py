"""What `compare` found, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from calibrant.advice import Advice, Fix
from calibrant.analysis import Comparison, LayerError, LayerErrors
from calibrant.cli.columns import Column, print_columns
from calibrant.cli.command_line import improved_name, quantize_command
from calibrant.cli.console import Console
from calibrant.cli.numbers import decibels, printable
from calibrant.cli.reading import Reading
from calibrant.cli.words import megabytes
from calibrant.data.paths import count

WORST = 10  # layers that are listed
HELPS_DB = 0.5  # a smaller gain is luck with these samples
MOST_FIXES = 3


@dataclass(frozen=True)
class Compared:
    """Two models, how the samples were read, and what was found."""

    model: Path
    other: Path
    reading: Reading
    advice: Advice
    fixes: bool  # whether they were asked for

    def show(self, console: Console) -> None:
        """Print it on stdout: the outputs, the worst layers, what would help."""
        found = self.advice.comparison
        console.out.print(self._outputs())
        if found.layers is not None:
            self._show_layers(console, found.layers)
        if self.fixes and found.layers is not None:
            self._show_fixes(console)
        for note in found.notes:
            console.out.print(Text(f"note: {printable(note)}", style="yellow"), soft_wrap=True)

    def _outputs(self) -> Table:
        found = self.advice.comparison
        caption = f"{count(found.samples, 'sample')}, in onnxruntime on the CPU"
        table = Table(caption=caption, caption_justify="left")
        table.add_column("")
        table.add_column(Text(printable(self.model.name)), justify="right", overflow="fold")
        table.add_column(Text(printable(self.other.name)), justify="right", overflow="fold")
        for label, text in output_rows(found):
            table.add_row(Text(label), "", text)
        if found.metric is not None:
            table.add_row("your metric", *(f"{value:.4g}" for value in found.metric))
        table.add_row("one sample", *(f"{milliseconds:.1f} ms" for milliseconds in found.milliseconds))
        table.add_row("size", *(megabytes(size) for size in found.size))
        for name in found.unmatched:
            table.add_row(Text(f"{printable(name)}: only in one model"), "", "")
        return table

    def _show_layers(self, console: Console, layers: LayerErrors) -> None:
        console.out.print()
        worst = layers.worst
        if not worst:
            console.out.print(
                f"All {count(len(layers.layers), 'layer')} make the same of these samples in both models."
            )
            return
        head = worst[0]
        verdict = f"The error comes first of all from {printable(head.name)} ({head.kind}): "
        verdict += f"it alone leaves {in_db(head.alone.sqnr_db)} at the output"
        if head.restored_db is not None and not head.restored_db <= layers.base_db:
            verdict += f"; it alone in float, the model would have {in_db(head.restored_db)}"
            verdict += f" instead of {in_db(layers.base_db)}"
        console.out.print(Text(f"{verdict}.", style="bold"))
        console.out.print()
        print_columns(console.out, layer_columns(layers, worst[:WORST]))
        console.out.print()
        explained = (
            f"The {min(WORST, len(worst))} worst of {count(len(layers.layers), 'layer')}, each as the other model has "
            "it. SQNR in dB of its own result from exact inputs (OWN), of its result in the other model (SO FAR), of "
            "the model's outputs if it alone is not exact (OUTPUT); and by how many dB those of the other model "
            f"would gain if it alone were exact (IN FLOAT). The last two on {count(layers.measured, 'sample')}."
        )
        console.out.print(Text(explained, style="dim"))
        if layers.unmatched:
            names = ", ".join(map(printable, layers.unmatched[:8])) + (", ..." if len(layers.unmatched) > 8 else "")
            text = f"Without counterpart in {self.other.name}, so counted with the layers behind them: {names}"
            console.out.print(Text(text, style="yellow"))

    def _show_fixes(self, console: Console) -> None:
        advice = self.advice
        console.out.print()
        if advice.why_none:
            console.out.print(Text(f"No fixes were tried: {printable(advice.why_none)}."), soft_wrap=True)
            return
        helping = simplest(advice.fixes)
        if helping:
            text = f"What helps, quantized anew on these samples ({in_db(advice.base_db)} now):"
            console.out.print(Text(text, style="bold"))
            output = improved_name(self.model)
            for fix in helping:
                line = quantize_command(self.model, self.reading, advice.platform, fix, output)
                gain = f"{decibels(fix.sqnr_db):>7} dB  {fix.gain_db:+.1f}  "
                console.out.print(Text.assemble((gain, "green"), printable(line)), soft_wrap=True)
        others = [fix for fix in advice.fixes if fix not in helping]
        if others:
            tried = "; ".join(f"{in_words(fix)} {fix.gain_db:+.1f}" for fix in others)
            console.out.print(Text(f"Tried as well, gain in dB: {printable(tried)}", style="dim"), soft_wrap=True)
        for sentence in advice.refused:
            console.out.print(Text(f"Not tried: {printable(sentence)}", style="dim"), soft_wrap=True)
        if not helping:
            console.out.print(
                Text(
                    "None of it helps. What else there is: quantize with --effort high, give a value 16 bits "
                    "(--override 'VALUE:bits=16'), or more samples; or mend the float model where the layer is."
                ),
                soft_wrap=True,
            )


def output_rows(found: Comparison) -> list[tuple[str, str]]:
    """What there is to say of each output, and how it is."""
    rows = []
    for name, output in found.outputs.items():
        label = "" if len(found.outputs) == 1 else f"{printable(name)}: "
        if output.is_float:
            rows.append((f"{label}SQNR of the output", in_db(output.sqnr_db)))
        if output.agreement is not None:
            what = "same largest value" if output.is_float else "equal"
            rows.append((f"{label}{what}", f"{output.agreement:.3f} ({output.agreeing} of {output.rows})"))
        if output.is_float:
            rows.append((f"{label}largest difference", f"{output.largest:.3g}"))
        if output.reshaped:
            rows.append((f"{label}of another shape", f"{output.reshaped} of {count(found.samples, 'sample')}"))
    return rows


def layer_columns(layers: LayerErrors, worst: Sequence[LayerError]) -> list[Column]:
    """A row for each of the worst layers."""
    place = {id(layer): number for number, layer in enumerate(layers.layers, 1)}
    gains = [None if one.restored_db is None else one.restored_db - layers.base_db for one in worst]
    return [
        Column("LAYER", [printable(one.name) for one in worst], name=True),
        Column("NO.", [str(place[id(one)]) for one in worst], rank=3),
        Column("OPERATORS", [one.kind for one in worst], rank=2),
        Column("OWN", [decibels(one.own.sqnr_db) for one in worst], rank=1),
        Column("SO FAR", [decibels(one.accumulated.sqnr_db) for one in worst]),
        Column("OUTPUT", [decibels(one.alone.sqnr_db) for one in worst]),
        Column("IN FLOAT", ["-" if gain is None else f"{gain:+.1f}" for gain in gains]),
    ]


def simplest(fixes: Sequence[Fix]) -> list[Fix]:
    """Those that help, without those that leave more in float, or as much, and gain hardly more than another.

    The largest gain first, MOST_FIXES at most.
    """
    kept: list[Fix] = []
    for fix in sorted(fixes, key=lambda fix: (len(fix.leave_in_float), -fix.gain_db)):
        best = max([HELPS_DB, *(one.gain_db + HELPS_DB for one in kept)])
        if fix.gain_db >= best:
            kept.append(fix)
    return sorted(kept, key=lambda fix: -fix.gain_db)[:MOST_FIXES]


def in_db(sqnr: float) -> str:
    """
    >>> in_db(12.34), in_db(math.inf), in_db(math.nan)
    ('12.3 dB', 'exact', 'NaN or Inf')
    """
    return "NaN or Inf" if math.isnan(sqnr) else "exact" if sqnr == math.inf else f"{sqnr:.1f} dB"


def in_words(fix: Fix) -> str:
    """
    >>> in_words(Fix("kl", (), 12.0, 1.0)), in_words(Fix(None, ("conv1", "fc"), 12.0, 1.0))
    ('kl', "the platform's methods with conv1, fc in float")
    """
    method = fix.method or "the platform's methods"
    return method + (f" with {', '.join(fix.leave_in_float)} in float" if fix.leave_in_float else "")
