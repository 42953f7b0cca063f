"""As much left in float as an accuracy target takes, and no more: where the noise comes from, measured and searched."""

from calibrant.precision.reaching import Reached, reach
from calibrant.precision.scoring import Metric, Targets
from calibrant.precision.search import OnSearch, Trial

__all__ = ["Metric", "OnSearch", "Reached", "Targets", "Trial", "reach"]
