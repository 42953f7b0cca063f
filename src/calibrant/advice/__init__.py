"""What to do about a quantized model that loses too much: other ways to quantize it, tried and measured."""

from calibrant.advice.advise import Advice, advise
from calibrant.advice.fixes import Fix

__all__ = ["Advice", "Fix", "advise"]
