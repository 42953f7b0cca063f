"""What quantization costs: measured by running the float model and the quantized one on the same samples."""

from calibrant.analysis.compare import Comparison, compare
from calibrant.analysis.measures import Difference, sqnr_db
from calibrant.analysis.readers import reader_errors
from calibrant.analysis.simulation import Simulation

__all__ = ["Comparison", "Difference", "Simulation", "compare", "reader_errors", "sqnr_db"]
