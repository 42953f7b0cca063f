"""How good a quantized graph is."""

import numpy as np

from calibrant.analysis import Simulation, sqnr_db
from tests.arrays import run


def sqnr_of(graph, path, samples):
    """Of the graph, simulated, against the float model in that file, in dB; samples of its input x."""
    simulation = Simulation(graph, threads=1)
    return sqnr_db([run(path, samples)], [np.concatenate([simulation.run({"x": x})[0] for x in samples])])
