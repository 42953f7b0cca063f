"""A PyTorch module as a graph, under the names that its author gave. Needs the extra `calibrant[torch]`.

torch is imported when a function here is called, never before.
"""

from calibrant.modules.extra import import_torch
from calibrant.modules.inputs import Example, example_of
from calibrant.modules.load import load_torch_module

__all__ = ["Example", "example_of", "import_torch", "load_torch_module"]
