"""The kernels of `gpu_rows` on tensors of torch: as those of `gpu`, they wait for nothing."""

from __future__ import annotations

import triton

from calibrant.sketches.kernels import gpu_rows as kernels
from calibrant.sketches.kernels.gpu import LINE, SAME_BITS, Tensor
from calibrant.sketches.kernels.gpu_nvidia import KINDS, properties

TILE_OF_ROWS = 2048
# For names and slots: at least as many as a program has threads, or some would add twice.
TILE_OF_NAMES, TILE_OF_SLOTS = 128, 4096


def top_two(
    x: Tensor, first: int, rows: int, channels: int, channel_stride: int, pairs: Tensor, owners: Tensor
) -> None:
    """The two largest of rows of x (outer, length, inner), contiguous: see `gpu_rows.top_two`."""
    _, length, inner = x.shape
    once = inner == 1 and length <= TILE_OF_ROWS
    if inner == 1:
        columns = min(TILE_OF_ROWS, triton.next_power_of_2(length))
        lines, along = TILE_OF_ROWS // columns, 1
        tile_rows = lines
    else:
        columns = lines = min(LINE, triton.next_power_of_2(rows))
        tile_rows, along = min(TILE_OF_ROWS // columns, triton.next_power_of_2(length)), 0
    kernels.top_two[(-(-rows // lines),)](
        x.view(SAME_BITS[x.dtype]),
        first,
        rows,
        length,
        inner,
        channels,
        channel_stride,
        pairs,
        owners,
        KIND=KINDS[x.dtype],
        ALONG=along,
        ONCE=once,
        ROWS=tile_rows,
        COLUMNS=columns,
        num_warps=1 if once else 8,  # what one has found need not wait for others
    )


def tally(pairs: Tensor, owners: Tensor, rows: int, alone: bool, tables: Tensor, half: Tensor, channels: int) -> None:
    """Count the rows that `top_two` found: see `gpu_rows.tally`. tables: (halves, words)."""
    slots = (tables.shape[1] - kernels.HEAD - 2 * channels) // 3
    grid = (-(-rows // TILE_OF_NAMES),)
    tile = {"TILE": TILE_OF_NAMES, "OTHERS": 16}
    kernels.tally[grid](pairs, owners, rows, int(alone), tables, half, channels, slots, **tile, num_warps=4)


def fit(descriptions: Tensor, spare: Tensor, words: Tensor, limit: int, most_shift: int) -> None:
    """Make tables coarser where they have too many cells: see `gpu_rows.fit`."""
    together = properties(spare.device.index).multiprocessors if spare.is_cuda else 1
    kernels.fit[(min(together, len(spare) // (3 * TILE_OF_SLOTS)),)](
        descriptions,
        len(descriptions),
        spare,
        words,
        limit,
        most_shift,
        TABLES=triton.next_power_of_2(len(descriptions)),
        TILE=TILE_OF_SLOTS,
        num_warps=32,
    )
