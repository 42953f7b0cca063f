"""The platforms that can be quantized for. A new one is one file and one line here."""

from calibrant.core import SettingError, TargetPlatform
from calibrant.quantizers import onnxruntime, openvino, ppl_cuda, tensorrt
from calibrant.quantizers.rows import Table

_ALL = (onnxruntime.TABLE, tensorrt.TABLE, openvino.TABLE, ppl_cuda.TABLE)
TABLES: dict[TargetPlatform, Table] = {table.platform: table for table in _ALL}


def table_of(platform: TargetPlatform) -> Table:
    """The table of that platform. Raises SettingError for one that has none."""
    if platform not in TABLES:
        known = ", ".join(sorted(p.name for p in TABLES))
        raise SettingError(f"platform {platform.name} has no quantization table; there are tables for: {known}")
    return TABLES[platform]
