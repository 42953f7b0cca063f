"""The statistics of a calibration as a file: merged from anywhere, solved by any method, without model or samples."""

from calibrant.table.table import CalibrationTable

__all__ = ["CalibrationTable"]
