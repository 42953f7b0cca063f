"""From a sketch to scale and offset: one file per method, and the registry that finds them by name."""

from calibrant.observers.base import BaseTensorObserver
from calibrant.observers.minmax import MinmaxObserver
from calibrant.observers.registry import build_observer, known, observer_class, register_calibration_observer

__all__ = [
    "BaseTensorObserver",
    "MinmaxObserver",
    "build_observer",
    "known",
    "observer_class",
    "register_calibration_observer",
]
