"""How fast the sketches are taken on an NVIDIA GPU, as a share of the bandwidth of only reading, measured beside it.

Every tensor that is timed was counted before by `Collector` on the host, in this run: a part of it, which must give the
same bytes. Times are the median of replays of a CUDA graph that goes round tensors which together do not fit the cache.
What is compared with only reading takes turns with it, three times: a card's clock changes. Of both that is the median.
"""

import argparse
import datetime
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from rich.console import Console

from benchmarks.gpu_collect import models
from benchmarks.machine import command, description
from calibrant.sketches import Collector, SketchSpec
from calibrant.sketches.device import DeviceCollectors
from calibrant.sketches.kernels import gpu_margins

Tensor = Any
POOL = 1 << 30  # bytes that a timing goes round
ROUNDS = 3
CHECKED = 3_000_001  # elements of each kind that the host counts too
HERE = Path(__file__).parent

# Each makes values in place.
KINDS: dict[str, Callable[[Tensor], Any]] = {
    "normal": lambda x: x.normal_(),
    "half zero": lambda x: x.normal_().clamp_(min=0),
    "constant": lambda x: x.fill_(0.1),
    "uniform": lambda x: x.uniform_(),
    "heavy-tailed": lambda x: x.normal_().mul_(2).exp_().mul_(torch.empty_like(x).uniform_(-1, 1).sign_()),
    "normal × 1e-12": lambda x: x.normal_().mul_(1e-12),
}
CHANNELS = (((64, 256, 128, 128), 1), ((1 << 18, 1024), -1))  # 2**28 elements, channels first and last
TARGETS = {(torch.float32, 28): 90, (torch.float32, 24): 65, (torch.bfloat16, 28): 75, (torch.float16, 28): 75}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=HERE / "gpu.md", help="where the tables are written")
    options = parser.parse_args()
    console = Console()
    today, card = datetime.datetime.now(datetime.UTC).date(), torch.cuda.get_device_name()
    lines = [
        "# Sketches on a GPU",
        "",
        f"`{command()}`, {today}. {card}, torch {torch.__version__}, Triton {triton.__version__}; {description()}.",
        "",
        *(__doc__ or "").split("\n\n", 1)[1].strip().split("\n"),
        "",
    ]
    for section in (whole_tensors, per_channel, many_tensors, rows, models):
        for line in section():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            lines.append(line)
        lines.append("")
    options.output.write_text("\n".join(lines), encoding="utf-8")


def whole_tensors() -> Iterator[str]:
    """Extremes and histogram in one pass."""
    yield "## Extremes and histogram in one pass, per tensor"
    yield ""
    yield "GB/s; in brackets per cent of only reading. torch: `histc` with 2048 bins, and that after `aminmax`."
    yield "It and extremes alone are timed once, after the other two."
    yield ""
    yield "| type | elements | values | only reading | sketches | wanted | extremes alone | torch.histc | aminmax too |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for kind, fill in KINDS.items():
            pool = filled(fill, POOL // 4, dtype)
            check(pool, SketchSpec())
            check(pool, SketchSpec(histogram=False))
            for bits in (28, 24):
                tensors = parts(pool, 1 << bits)
                moved = (1 << bits) * pool.element_size()
                ceiling, ours = speeds(tensors, SketchSpec(), moved)
                alone = moved / seconds(counting(tensors, SketchSpec(histogram=False)))
                target = TARGETS.get((dtype, bits), "–")
                if target == 65 and kind == "heavy-tailed":
                    target = 58
                theirs = [f"{moved / seconds(calls, 3) / 1e9:.0f}" for calls in torchs(tensors, dtype)] or ["–"] * 2
                yield (
                    f"| {str(dtype)[6:]} | 2^{bits} | {kind} | {ceiling / 1e9:.0f} | {ours / 1e9:.0f} "
                    f"({100 * ours / ceiling:.0f}) | {target} | {alone / 1e9:.0f} ({100 * alone / ceiling:.0f}) | "
                    f"{' | '.join(theirs)} |"
                )
            del pool, tensors


def per_channel() -> Iterator[str]:
    """A histogram and extremes for each channel."""
    yield "## Extremes and histogram per channel, 6 mantissa bits"
    yield ""
    yield "GB/s; in brackets per cent of only reading, of which 60 are wanted with histograms. 64×256×128×128, with"
    yield "channels first, and 262144×1024, last."
    yield ""
    yield "| type | values | only reading | first | last | extremes alone, first | last |"
    yield "|---|---|---|---|---|---|---|"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for kind, fill in KINDS.items():
            pool = filled(fill, 1 << 29, dtype)
            moved, found = (1 << 28) * pool.element_size(), []
            for histogram, (shape, axis) in itertools.product((True, False), CHANNELS):
                spec = SketchSpec(histogram=False, channel_axis=axis, per_channel=histogram)
                check(pool[: 64 * 3136 * 16].reshape((1, 64, -1) if axis == 1 else (-1, 64)), spec)
                tensors = [x.reshape(shape) for x in parts(pool, 1 << 28)]
                found.append(speeds(tensors, spec, moved))
            shares = " | ".join(f"{ours / 1e9:.0f} ({100 * ours / read:.0f})" for read, ours in found)
            yield f"| {str(dtype)[6:]} | {kind} | {statistics.median(read for read, _ in found) / 1e9:.0f} | {shares} |"
            del pool, tensors


def many_tensors() -> Iterator[str]:
    """Many tensors in one launch."""
    yield "## 64 tensors of normal float32 in one launch, per tensor"
    yield ""
    yield "| elements of each | µs |"
    yield "|---|---|"
    pool = filled(KINDS["normal"], 1 << 28, torch.float32)
    for sizes in ([14], [16], [18], [14, 15, 16, 17, 18]):
        names = [str(n) for n in range(64)]
        made, calls = DeviceCollectors({name: SketchSpec() for name in names}, "cuda"), []
        for first in range(0, 1 << 28, 1 << 24):
            starts = [first + (n << 18) for n in range(64)]
            ends = [start + (1 << sizes[n % len(sizes)]) for n, start in enumerate(starts)]
            step = {name: pool[start:end] for name, start, end in zip(names, starts, ends, strict=True)}
            calls.append(partial(made.add, step, 0))
        named = f"2^{sizes[0]}" + (f" to 2^{sizes[-1]}, mixed" if len(sizes) > 1 else "")
        yield f"| {named} | {1e6 * seconds(calls):.1f} |"


def rows() -> Iterator[str]:
    """The rows' two largest values, for isotone."""
    yield "## The two largest of each row (isotone), float32"
    yield ""
    yield "| rows | length | GB/s | torch.topk |"
    yield "|---|---|---|---|"
    pool = filled(KINDS["normal"], 1 << 28, torch.float32)
    for count, length in ((262_144, 1000), (75_648, 197), (8192, 32_000)):
        tensors = [x.reshape(count, length, 1) for x in parts(pool, count * length)][:8]
        pairs = torch.zeros((count, 2), dtype=torch.int32, device="cuda")
        owners = torch.zeros(count, dtype=torch.int32, device="cuda")
        found = [
            4 * count * length / seconds(calls, 3) / 1e9
            for calls in (
                [partial(gpu_margins.top_two, x, 0, count, 1, 1, pairs, owners) for x in tensors],
                [partial(torch.topk, x[:, :, 0], 2, 1) for x in tensors],
            )
        ]
        yield f"| {count} | {length} | {found[0]:.0f} | {found[1]:.0f} |"


def filled(fill: Callable[[Tensor], Any], elements: int, dtype: Any) -> Tensor:
    """Elements of a kind, each part of them anew."""
    torch.manual_seed(0)
    pool = torch.empty(elements, dtype=dtype, device="cuda")
    for part in pool.split(1 << 26):
        values = torch.empty(part.shape, device="cuda")
        fill(values)
        part.copy_(values)
    return pool


def parts(pool: Tensor, elements: int) -> list[Tensor]:
    """The pool in tensors of so many elements, at least two, at most 64."""
    return list(pool[: len(pool) // elements * elements].split(elements))[:64]


def check(x: Tensor, spec: SketchSpec) -> None:
    """The same bytes from the device as from the host."""
    x = x[:CHECKED] if x.ndim == 1 else x
    made, collector = DeviceCollectors({"x": spec}, "cuda"), Collector(spec, threads=8)
    made.add({"x": x}, 0)
    collector.add(x.cpu())
    if made.sketches()["x"] != collector.sketch():
        raise SystemExit(f"device and host disagree on {x.dtype}, {tuple(x.shape)}")


def counting(tensors: Sequence[Tensor], spec: SketchSpec) -> list[Callable[[], None]]:
    """What adds each tensor to a collector, the same for all."""
    made = DeviceCollectors({"x": spec}, "cuda")
    return [partial(made.add, {"x": x}, 0) for x in tensors]


def torchs(tensors: Sequence[Tensor], dtype: Any) -> list[list[Callable[[], Any]]]:
    """What torch offers, where it does: the histogram for a range known beforehand, and for one that is found first."""
    if dtype != torch.float32:
        return []

    def both(x: Tensor) -> None:
        torch.aminmax(x)
        torch.histc(x, 2048, -4, 4)  # its own range would have to be fetched to the host first

    return [[partial(torch.histc, x, 2048, -4, 4) for x in tensors], [partial(both, x) for x in tensors]]


@triton.jit  # type: ignore[untyped-decorator]
def _read(x, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    total = tl.zeros([BLOCK], tl.int32)
    for start in range(tl.program_id(0).to(tl.int64) * BLOCK, n, tl.num_programs(0) * BLOCK):
        total ^= tl.load(x + start + tl.arange(0, BLOCK))
    if tl.max(total, 0) == 123456789:  # so that nothing can be left out
        tl.store(out, 1)


def speeds(tensors: Sequence[Tensor], spec: SketchSpec, moved: int) -> tuple[float, float]:
    """Bytes per second, of `moved` bytes of each tensor: of only reading them, by the best of three kernels that do
    next to nothing else; and of sketches."""
    out = torch.zeros(1, dtype=torch.int32, device="cuda")
    words = [x.view(-1).view(torch.int32) for x in tensors]
    readers = []
    for block, programs, warps in ((4096, 4, 8), (8192, 2, 16), (16384, 1, 32)):
        grid = (programs * torch.cuda.get_device_properties(0).multi_processor_count,)
        readers.append([partial(_read[grid], x, out, x.numel(), block, num_warps=warps) for x in words])
    reader, ours = min(readers, key=lambda calls: seconds(calls, 3)), counting(tensors, spec)
    times = [(seconds(reader), seconds(ours)) for _ in range(ROUNDS)]
    read, counted = (statistics.median(column) for column in zip(*times, strict=True))
    return moved / read, moved / counted


def seconds(calls: Sequence[Callable[[], Any]], repeats: int = 7) -> float:
    """Of one call, from replays of a graph of all."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times = []
    for _ in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / 1000 / len(calls))
    return float(statistics.median(times))


if __name__ == "__main__":
    main()
