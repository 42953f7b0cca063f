"""The counting loops: `reference` in plain numpy, and its twin `cpu` in numba."""
