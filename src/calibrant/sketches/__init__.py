"""What is remembered of a tensor: values that hold integer counts, and merge in any order into the same bytes."""

from calibrant.sketches.bins import LogBins
from calibrant.sketches.collector import Collector
from calibrant.sketches.extremes import Extremes
from calibrant.sketches.halves import Halves
from calibrant.sketches.histogram import Histogram
from calibrant.sketches.margins import Margins
from calibrant.sketches.sketch import TensorSketch
from calibrant.sketches.spec import SketchSpec

__all__ = ["Collector", "Extremes", "Halves", "Histogram", "LogBins", "Margins", "SketchSpec", "TensorSketch"]
