"""Samples for the command: from folders of images, from .npy, .npz and Parquet files, from a function."""

from calibrant.data.preprocessing import Preprocessing, Resize
from calibrant.data.samples import Samples, open_samples

__all__ = ["Preprocessing", "Resize", "Samples", "open_samples"]
