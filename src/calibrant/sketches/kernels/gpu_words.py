"""What the kernels for GPUs agree on: kinds of memory that they read, shapes of programs, and words they count into."""

# What kinds of memory are read: their bits, but of float16 the values, which the hardware widens.
FLOAT32, BFLOAT16, FLOAT16 = range(3)

# For `gpu_fast`, by what is read and whether groups are channels: warps of a program, elements of a thread at once, and
# registers of a thread. Channels are many and small: the smaller their programs, the more are at work together, if
# shared memory suffices.
SHAPES = {
    (FLOAT32, False): (32, 8, 64),
    (FLOAT32, True): (8, 8, 64),
    (BFLOAT16, False): (16, 32, 128),
    (BFLOAT16, True): (8, 16, 64),
    (FLOAT16, False): (32, 16, 64),
    (FLOAT16, True): (32, 16, 64),
}

# A group's state, in words of int64: heads of FIELDS, of which these are used; then a table. The lowest
# ordered value is negated, so that both ends grow; the hits of an end lie ENDS words after it.
FIELDS, ENDS = 16, 8
LOW, HIGH = range(2)
N_LOW, N_HIGH, ZEROS, NAN, POS_INF, NEG_INF, SIZE, GROWN = range(8, 16)

# A table has two words for each cell: the first ones of all cells, then the second ones. In the first are a count and,
# from bit COUNT_BITS on, a sum of positions, for one addition to memory is faster than two. In the second is what these
# have no room for: of the count in units of 1 << UNIT_BITS, and from bit 32 on, of the sum in units of 256 times that.
#
# To each first word a launch adds at most as many elements as a group has, which are MOST_OF_EACH; in `gpu_fast` it may
# have more, if less than two units of each program, of at most 256, are added, but for single ones, of which whoever
# adds one looks how many there are. Before there are too many, the highest bits of count and sum go to the second word:
# where many programs share in that, in every launch; else whenever what may have been added, by SIZE or GROWN, passes a
# multiple of SETTLED_EACH. So a count stays below 2**27 + 512 units + SETTLED_EACH + 2 * MOST_OF_EACH, which is 2**28,
# and a sum below 255 times that. And `gpu_tiles` counts what is in one place of a tile in float32, exact below 2**24.
COUNT_BITS, UNIT_BITS, MOST_OF_EACH, SETTLED_EACH = 28, 17, 1 << 24, 1 << 25
FULL = (1 << (COUNT_BITS - 1)) - (1 << 63)  # the highest bits of both
