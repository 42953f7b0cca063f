"""Whether an array fits an input of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import DataError
from calibrant.data.inputs import ModelInput


def checked(value: Any, target: ModelInput, where: str, whole: bool = True) -> NDArray[Any]:
    """`value` as the input takes it: a C-contiguous numpy array, cast to its dtype where both are floating.

    value: an array, a torch tensor on any device, or what numpy makes an array of.
    whole: False for what will be joined with others along the first axis, whose size is then not looked at.
    Raises DataError, which begins with `where`, for a dtype, rank or fixed size that does not fit, and for NaN and Inf.
    """
    array = _to_numpy(value, where)
    if array.dtype != target.dtype and not array.dtype.kind == target.dtype.kind == "f":
        hint = ": convert it as the model was trained, scaling and all" if target.dtype.kind == "f" else ""
        raise DataError(f"{where}: got {array.dtype}, expected {target.dtype}{hint}")
    _check_shape(array, target, where, 0 if whole else 1)
    if array.dtype.kind == "f":
        _check_finite(array, where)
        if array.dtype != target.dtype:
            with np.errstate(over="ignore"):
                array = array.astype(target.dtype)
            _check_finite(array, f"{where}, cast to {target.dtype}")
    return np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes a scalar 1-d


def _to_numpy(value: Any, where: str) -> NDArray[Any]:
    if hasattr(value, "detach"):  # a torch tensor, recognised without importing torch
        value = value.detach().cpu()
        if "bfloat16" in str(value.dtype):
            value = value.float()  # exact; numpy has no bfloat16
        return np.asarray(value.numpy())
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{where}: not an array: {error}") from None
    if array.dtype.kind in "US":
        array = array.astype(object)
    elif array.dtype.kind == "O" and not all(isinstance(v, str | bytes) for v in array.flat):
        raise DataError(f"{where}: expected an array, got {type(value).__name__}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_shape(array: NDArray[Any], target: ModelInput, where: str, first: int) -> None:
    """The sizes from axis `first` on."""
    if target.shape is None:
        return
    if array.ndim != len(target.shape):
        hint = "; a sample carries the batch axis: give x[None]" if array.ndim == len(target.shape) - 1 else ""
        raise DataError(f"{where}: got rank {array.ndim}, shape {array.shape}; expected {target}{hint}")
    for axis, (got, want) in enumerate(zip(array.shape, target.shape, strict=True)):
        if axis >= first and isinstance(want, int) and got != want:
            hint = _other_layout(array.shape, target.shape)
            raise DataError(f"{where}: got {got} on axis {axis}, shape {array.shape}; expected {target}{hint}")


def _other_layout(got: tuple[int, ...], wanted: Sequence[int | str | None]) -> str:
    """What to do where the channels of an image are at the other end."""
    if len(got) != 4:
        return ""
    for words, axes in (("channels come last", (0, 3, 1, 2)), ("channels come first", (0, 2, 3, 1))):
        if all(got[axis] == want for axis, want in zip(axes, wanted, strict=True) if isinstance(want, int)):
            return f"; its {words}: give x.transpose{axes}"
    return ""


def _check_finite(array: NDArray[Any], where: str) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        bad = array.size - int(finite.sum())
        nan = int(np.isnan(array).sum())
        raise DataError(
            f"{where}: {bad} of {array.size} values are not finite ({nan} NaN, {bad - nan} Inf): mend this sample or "
            "leave it out (ignore_nonfinite is about values within the model)"
        )
