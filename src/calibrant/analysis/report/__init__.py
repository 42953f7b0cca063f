"""The report: one HTML page about what quantization did."""

from calibrant.analysis.report.collect import Subject, collect
from calibrant.analysis.report.model import Report
from calibrant.analysis.report.page import require_bokeh, write_report

__all__ = ["Report", "Subject", "collect", "require_bokeh", "write_report"]
