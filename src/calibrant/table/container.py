"""The file around a table: safetensors with a header of JSON and a digest. Reading it executes nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from calibrant.core import DataError
from calibrant.core.files import whole_files

Arrays = dict[str, NDArray[Any]]

SCHEMA = 1
MOST_BYTES = 1 << 32  # a table of 10,000 values, per channel, has far fewer
DTYPES = ("U8", "U16", "U32", "U64", "I16", "I32", "F32")


def write(path: Path, header: Mapping[str, Any], arrays: Arrays) -> None:
    """Write header and arrays; the file appears whole or not at all, and is the same for the same content.

    Raises ExportError where it cannot be written.
    """
    with whole_files(path) as (place,):
        write_to(place, header, arrays)


def write_to(place: Path, header: Mapping[str, Any], arrays: Arrays) -> None:
    """Write header and arrays to that very place. OSError or SafetensorError where it cannot be written."""
    text = json.dumps({"schema": SCHEMA} | dict(header), sort_keys=True)
    metadata = {"calibrant": f"{_digest(text, arrays)} {text}"}  # one entry: several have no fixed order
    place.write_bytes(save(arrays, metadata))  # not save_file, whose files only their owner may read


def read(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Header and arrays of a file that `write` wrote.

    Raises DataError, with the reason, for any other file: missing, larger than 4 GiB, of another format or of a newer
    version, cut short, or changed. Takes memory for the file's arrays and its header alone.
    """
    if not os.path.isfile(path):  # of os, as pathlib's raises for a folder that cannot be looked into
        raise DataError(f"{path} is not a file" if os.path.exists(path) else f"{path}: no such file")
    try:
        return _read(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (SafetensorError, OSError, TypeError, ValueError, RecursionError) as error:
        if path.suffix.lower() == ".onnx":
            raise DataError(
                f"{path} is not a calibration table but a model: `calibrant calibrate` makes a table of it"
            ) from None
        raise DataError(f"{path} is not a calibration table, or is damaged: {brief(error)}") from None


def brief(error: Exception) -> str:
    """What the error says; cut short, as it may cite whatever is in the file."""
    text = str(error)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _read(path: Path) -> tuple[dict[str, Any], Arrays]:
    if (size := path.stat().st_size) > MOST_BYTES:
        raise DataError(f"it has {size} bytes, a calibration table at most {MOST_BYTES}")
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if "calibrant" not in metadata:
            raise DataError("it is no calibration table: calibrant did not write it")
        digest, _, text = metadata["calibrant"].partition(" ")
        header = json.loads(text)
        json.dumps(header, ensure_ascii=False).encode()  # JSON can spell half characters, which no terminal can print
        if not isinstance(header, dict) or type(header.get("schema")) is not int:
            raise DataError("its header has no schema number")
        if header["schema"] != SCHEMA:
            raise DataError(
                f"its schema is {header['schema']}, and this version of calibrant reads {SCHEMA}: take the version "
                "that wrote it, or a newer one"
            )
        arrays = {name: _array(file, name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    if digest != _digest(text, arrays):
        raise DataError("it is damaged: its content is not what was written")
    return header, arrays


def _array(file: Any, name: str) -> NDArray[Any]:
    """The array of that name, of a kind that `write` writes: numpy lacks some that the format has."""
    kind = file.get_slice(name)
    if kind.get_dtype() not in DTYPES or len(kind.get_shape()) != 1:
        raise DataError(f"array '{name[:50]}' is {kind.get_dtype()} of rank {len(kind.get_shape())}")
    array: NDArray[Any] = file.get_tensor(name)
    return array


def _digest(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Of the header and of every array: name, dtype, content."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.name}\0".encode())
        digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()
