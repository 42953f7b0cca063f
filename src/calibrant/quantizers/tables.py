"""The platforms that can be quantized for. A new one is one file and one line here."""

from calibrant.core import SettingError, TargetPlatform
from calibrant.quantizers import onnxruntime
from calibrant.quantizers.rows import Table

TABLES: dict[TargetPlatform, Table] = {t.platform: t for t in (onnxruntime.TABLE,)}


def table_of(platform: TargetPlatform) -> Table:
    """The table of that platform. Raises SettingError for one that has none."""
    if platform not in TABLES:
        known = ", ".join(sorted(p.name for p in TABLES))
        raise SettingError(f"platform {platform.name} has no quantization table; there are tables for: {known}")
    return TABLES[platform]
