"""`auto` with samples at hand: methods chosen by what reaches the outputs of the layers, and of the model."""

from calibrant.auto.choosing import choose_by_output, has_open_methods

__all__ = ["choose_by_output", "has_open_methods"]
