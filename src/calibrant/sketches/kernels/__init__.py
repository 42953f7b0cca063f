"""The counting loops: `reference` in plain numpy, and its twins `cpu` in numba and `gpu` in Triton."""
