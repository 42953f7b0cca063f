"""What is quantized, and how: one table per platform."""

from calibrant.quantizers.pairs import wants_vnni
from calibrant.quantizers.quantize import quantize_graph
from calibrant.quantizers.tables import TABLES, table_of

__all__ = ["TABLES", "quantize_graph", "table_of", "wants_vnni"]
