"""Damaged files and made-up ones, by the thousand: each is refused with a reason, or holds a sound table."""

import copy
import faulthandler
import random
import sys
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from calibrant import CalibrationTable
from calibrant.core import CalibrantError, DataError
from calibrant.core import QuantizationProperty as P
from calibrant.table.collecting import METHODS
from calibrant.table.container import read, write

MOST_SECONDS = 20  # for one file: a hang ends the process, with a traceback
NUMBERS = [-1, 0, 1, 2, 7, 23, 2**31 - 1, 2**31, 2**53, 2**53 + 1, 2**63, -(2**70), 10**400, 0.5, 1e300, float("nan")]
ODD = [*NUMBERS, None, True, False, "", "text", "\0", "\ud800", "é" * 99, [], {}, [[]], [1, 2], {"a": 1}]
POLICIES = [P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL, P.PER_TENSOR | P.LINEAR | P.ASYMMETRICAL]


def damaged(data, rng):
    """The bytes with one thing wrong with them."""
    kind = rng.choice(["flip", "flip", "header", "cut", "insert", "repeat", "zero"])
    head = 8 + int.from_bytes(data[:8], "little")
    place, length = rng.randrange(head if kind == "header" else len(data)), rng.choice([1, 3, 8, 50, 1000])
    before, here, after = data[:place], data[place : place + length], data[place + length :]
    if kind == "cut":
        return before
    if kind == "insert":
        return before + rng.randbytes(length) + here + after
    if kind == "repeat":
        return before + here + here + after
    if kind == "zero":
        return before + bytes(len(here)) + after
    return before + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def leaves(tree, path=()):
    """The paths of all that a tree of JSON holds."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


def change_header(header, rng):
    """One thing in it taken away, replaced by something odd or by its neighbour, or moved by a little."""
    *path, key = rng.choice(list(leaves(header)))
    place = header
    for step in path:
        place = place[step]
    kind, value = rng.choice(["drop", "odd", "odd", "neighbour", "nudge", "nudge", "twice"]), place[key]
    if kind == "drop":
        del place[key]
    elif kind == "neighbour":
        place[key] = copy.deepcopy(rng.choice(list(place.values() if isinstance(place, dict) else place)))
    elif kind == "nudge" and type(value) is int:
        place[key] = rng.choice([value - 1, value + 1, 2 * value, -value, bool(value), str(value)])
    elif kind == "twice" and isinstance(place, list):
        place.append(copy.deepcopy(value))
    else:
        place[key] = rng.choice(ODD)


def change_arrays(arrays, rng):
    """One of them dropped, added, exchanged, or changed in its content, length, order, dtype or shape."""
    name, other = rng.choice(list(arrays)), rng.choice(list(arrays))
    array = arrays[name].copy()
    kind = rng.choice(["drop", "exchange", "cut", "more", "dtype", "shape", *["value", "nudge", "move", "order"] * 4])
    if kind == "drop":
        del arrays[name]
        return
    if kind == "exchange":
        array = arrays[other]
    elif kind == "cut":
        array = array[: rng.randrange(array.size + 1)]
    elif kind == "more":
        array = np.append(array, array[: rng.randrange(4)])
    elif kind == "dtype":
        array = array.astype(rng.choice(["u1", "u8", "i4", "i8", "f2", "f4", "f8", "?"]))
    elif kind == "shape":
        array = array.reshape(rng.choice([(1, -1), (-1, 1), (1, 1, -1)]))
    elif array.size and kind == "value":
        floats = [np.nan, np.inf, -0.0, 1e-45, 3e38]
        numbers = floats if array.dtype.kind == "f" else [0, 1, np.iinfo(array.dtype).min, np.iinfo(array.dtype).max]
        array[rng.randrange(array.size)] = rng.choice(numbers)
    elif array.size and kind == "nudge":
        array[rng.randrange(array.size)] += array.dtype.type(1)
    elif array.size and kind == "move":  # the sum stays
        array[rng.randrange(array.size)] += array.dtype.type(1)
        array[rng.randrange(array.size)] -= array.dtype.type(1)
    elif kind == "order":
        array = array[::-1].copy()
    arrays[rng.choice([name, name, name, other])] = array


def check_refused_or_sound(path, rng):
    """Load it. DataError with the file's name and a reason, or else a table: it is saved, and solved by any method.
    Returns whether it was refused."""
    refused = ""
    try:
        table = CalibrationTable.load(path)
    except DataError as error:
        refused = str(error)
    if refused:
        assert refused.startswith(str(path))
        assert len(refused) > len(str(path)) + 10
        return True
    table.save(path.with_name("again"))
    again = CalibrationTable.load(path.with_name("again"))
    assert (again.sketches.even, again.sketches.odd) == (table.sketches.even, table.sketches.odd)
    method = rng.choice(METHODS)
    grid = rng.choice([{}, {}, {"num_of_bits": 4, "quant_min": -8, "quant_max": 7}])
    for name in table:
        policies = list(POLICIES)
        if table.sketches[name].spec.per_channel:
            policies.append(P.PER_CHANNEL | P.LINEAR | P.SYMMETRICAL)
        for policy in policies:
            check_solved(table, name, method, policy, grid)
    return False


def check_solved(table, name, method, policy, grid):
    """A positive, finite scale, or a reason."""
    detail = {"ignore_nonfinite": True}
    axis = {"channel_axis": table.sketches[name].spec.channel_axis} if P.PER_CHANNEL in policy else {}
    with suppress(CalibrantError):
        scale, offset = table.solve(name, method, policy, detail=detail, **grid, **axis)
        assert (np.isfinite(scale) & (scale > 0) & np.isfinite(offset)).all()


@contextmanager
def within(seconds):
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def check_many(files, folder, count, seed):
    """Half of them damaged, so that the digest refuses them; half made up, with a digest that is right."""
    rng, path, refused = random.Random(seed), folder / "mutated", 0
    contents = [(file.read_bytes(), *read(file)) for file in files]
    for number in range(count):
        data, header, arrays = contents[number // 2 % len(files)]
        with within(MOST_SECONDS):
            if number % 2 == 0:
                path.write_bytes(wrong := damaged(data, rng))
                assert check_refused_or_sound(path, rng) or wrong == data
                continue
            header, arrays = copy.deepcopy(header), dict(arrays)
            with np.errstate(all="ignore"):
                for _ in range(rng.choice([1, 1, 2])):
                    if rng.random() < 0.5:
                        change_header(header, rng)
                    elif arrays:
                        change_arrays(arrays, rng)
            write(path, header, arrays)
            refused += check_refused_or_sound(path, rng)
    return refused / (count // 2)


def test_mutated_files(real_file, varied_file, tmp_path):
    assert 0.3 < check_many([varied_file, real_file], tmp_path, 200, seed=1) < 0.95  # a changed name is no damage


@pytest.mark.long
def test_ten_thousand_mutated_files(real_file, varied_file, tmp_path):
    assert 0.3 < check_many([varied_file, varied_file, real_file], tmp_path, 10_000, seed=2) < 0.95
