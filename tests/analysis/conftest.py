"""The networks of `networks.py`, quantized once."""

import onnx
import pytest

from tests.analysis.networks import TOOLS, plain_network, quantized_by, random_samples


@pytest.fixture(scope="session")
def plain_samples():
    return random_samples()


@pytest.fixture(scope="session")
def networks(tmp_path_factory, plain_samples):
    """Paths: "damaged" and "healthy", the float models, and each with a tool behind it, as "damaged qdq"."""
    folder = tmp_path_factory.mktemp("networks")
    paths = {}
    for kind in ("damaged", "healthy"):
        paths[kind] = folder / f"{kind}.onnx"
        onnx.save(plain_network(kind == "damaged"), paths[kind])
        for tool in TOOLS:
            paths[f"{kind} {tool}"] = quantized_by(tool, paths[kind], plain_samples, folder / f"{kind} {tool}.onnx")
    return paths
