"""From a sketch to scale and offset: one file per method, and the registry that finds them by name."""

from calibrant.observers.base import BaseTensorObserver
from calibrant.observers.distribution import Distribution
from calibrant.observers.error import squared_error
from calibrant.observers.isotone import IsotoneObserver
from calibrant.observers.kl import KlObserver
from calibrant.observers.minmax import MinmaxObserver
from calibrant.observers.mse import MseObserver
from calibrant.observers.percentile import PercentileObserver
from calibrant.observers.registry import build_observer, known, observer_class, register_calibration_observer

__all__ = [
    "BaseTensorObserver",
    "Distribution",
    "IsotoneObserver",
    "KlObserver",
    "MinmaxObserver",
    "MseObserver",
    "PercentileObserver",
    "build_observer",
    "known",
    "observer_class",
    "register_calibration_observer",
    "squared_error",
]
