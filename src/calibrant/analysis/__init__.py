"""What quantization costs: measured by running the float model and the quantized one on the same samples."""

from calibrant.analysis.by_operation import Analysis, OperationError, TensorError, analyse
from calibrant.analysis.compare import Comparison, compare
from calibrant.analysis.layers import LayerError, LayerErrors
from calibrant.analysis.measures import Difference, sqnr_db
from calibrant.analysis.outputs import OutputDifference
from calibrant.analysis.ppq import graphwise_error_analyse, layerwise_error_analyse
from calibrant.analysis.readers import reader_errors
from calibrant.analysis.simulation import Simulation

__all__ = [
    "Analysis",
    "Comparison",
    "Difference",
    "LayerError",
    "LayerErrors",
    "OperationError",
    "OutputDifference",
    "Simulation",
    "TensorError",
    "analyse",
    "compare",
    "graphwise_error_analyse",
    "layerwise_error_analyse",
    "reader_errors",
    "sqnr_db",
]
