"""The loops of the observers, in numba. Imported on first use: numba takes half a second to import."""
