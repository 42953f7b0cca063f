"""Collecting on Ray: the same bytes as in one process, whoever is killed meanwhile."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from calibrant import RayCluster
from calibrant.api import calibrate
from calibrant.core import ClusterError, DataError, SettingError
from calibrant.data import open_samples
from calibrant.engines import OnnxruntimeExecutor
from calibrant.graph import load_onnx_graph
from calibrant.settings import QuantizationSetting
from tests.conftest import small_classifier
from tests.engines.transformers import encoder, padded

psutil = pytest.importorskip("psutil")
ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

pytestmark = pytest.mark.filterwarnings("ignore")  # those of Ray itself
SHAPE = (3, 16, 16)


@pytest.fixture
def local():
    """A cluster of this machine alone, of two processors."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def nodes():
    """A head that computes little, and two nodes that can be removed."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    others = [cluster.add_node(num_cpus=2) for _ in range(2)]
    ray.init(cluster.address, log_to_driver=False)
    yield cluster, others
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def graph():
    return load_onnx_graph(small_classifier())


def saved(table, path):
    table.save(path)
    return path.read_bytes()


def array_files(folder, count):
    """So many samples, a file each."""
    folder.mkdir()
    for number, x in enumerate(np.random.default_rng(5).normal(0, 1, (count, *SHAPE)).astype(np.float32)):
        np.save(folder / f"{number:04}.npy", x)
    return folder


def opened(graph, data, **options):
    return open_samples(data, OnnxruntimeExecutor(graph).input_specs, **options)


def test_the_same_bytes_as_one_process(local, graph, tmp_path):
    """Files and a dataset, with blocks that do not come out even, and samples that cannot be read."""
    folder = array_files(tmp_path / "samples", 41)
    (folder / "0007.npy").write_bytes(b"no array")
    samples = opened(graph, folder, skip_bad=True)
    alone = saved(calibrate(graph, samples), tmp_path / "alone")
    skipped = samples.skipped
    steps = []
    cluster = RayCluster(workers=2, block_size=3)
    assert saved(calibrate(graph, samples, ray=cluster, on_step=steps.append), tmp_path / "ray") == alone
    assert samples.skipped == skipped == [f"'{folder / '0007.npy'}'"]
    assert steps == sorted(steps)
    assert steps[-1] == 41

    arrays = [np.load(path) for path in sorted(folder.iterdir()) if path.stat().st_size > 100]
    dataset = ray.data.from_items([{"picture": x, "label": "cat"} for x in arrays])
    table = calibrate(graph, dataset, ray=RayCluster(), collate_fn=lambda row: row["picture"][None])
    assert saved(table, tmp_path / "dataset") == alone

    with pytest.raises(DataError, match=r"0007\.npy' cannot be read as \.npy"):
        calibrate(graph, opened(graph, folder), ray=cluster)
    with pytest.raises(DataError, match="rank 3"):
        calibrate(graph, dataset, ray=cluster, collate_fn=lambda row: row["picture"])


def test_a_mask_says_on_every_worker_what_counts(local, tmp_path):
    lengths = np.random.default_rng(3).integers(1, 9, 20)
    np.savez(tmp_path / "texts.npz", **padded(lengths, 8))
    graph, setting = load_onnx_graph(encoder()), QuantizationSetting()
    setting.quantize_activation_setting.mask = "mask"
    samples = opened(graph, tmp_path / "texts.npz", batch_size=4)
    alone = saved(calibrate(graph, samples, setting=setting), tmp_path / "alone")
    assert saved(calibrate(graph, samples, setting=setting, ray=RayCluster(workers=2)), tmp_path / "ray") == alone


class Slow:
    """A run on Ray in a thread, slow enough to be disturbed; `table` waits for it."""

    def __init__(self, graph, samples, cluster):
        self.steps = []

        def slowly(item):
            time.sleep(0.05)
            return item

        def run():
            try:
                self.result = calibrate(graph, samples, ray=cluster, collate_fn=slowly, on_step=self.steps.append)
            except BaseException as error:
                self.result = error

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def wait_for(self, items):
        while not self.steps or self.steps[-1] < items:
            assert self.thread.is_alive(), self.result
            time.sleep(0.05)

    def table(self):
        self.thread.join()
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def workers():
    """The processes that run the model."""
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if p.is_running() and "MapWorker" in "".join(p.cmdline())]


@pytest.mark.long
def test_killed_workers_make_no_difference(local, graph, tmp_path):
    samples = opened(graph, array_files(tmp_path / "samples", 300))
    alone = saved(calibrate(graph, samples), tmp_path / "alone")
    run = Slow(graph, samples, RayCluster(workers=1, block_size=7))
    for items in (20, 120):
        run.wait_for(items)
        for process in workers():
            os.kill(process.pid, signal.SIGKILL)
    assert saved(run.table(), tmp_path / "ray") == alone


@pytest.mark.long
def test_a_killed_node_makes_no_difference(nodes, graph, tmp_path):
    cluster, others = nodes
    samples = opened(graph, array_files(tmp_path / "samples", 400))
    alone = saved(calibrate(graph, samples), tmp_path / "alone")
    run = Slow(graph, samples, RayCluster(workers=2, block_size=5))
    run.wait_for(60)
    cluster.remove_node(others[0], allow_graceful=False)
    assert saved(run.table(), tmp_path / "ray") == alone


def test_what_ray_cannot_share_out_is_refused(graph, tmp_path):
    with pytest.raises(SettingError, match="leave checkpoint out"):
        calibrate(graph, [], ray=RayCluster(), checkpoint=tmp_path / "c")
    with pytest.raises(SettingError, match="block_size of a Ray cluster is at least 1, got 0"):
        RayCluster(block_size=0)


def test_no_cluster_there(graph, tmp_path):
    with pytest.raises(ClusterError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        calibrate(graph, [], ray=RayCluster("127.0.0.1:1"))


@pytest.mark.long
def test_a_list_cannot_be_shared_out(local, graph):
    with pytest.raises(SettingError, match=r"ray\.data\.from_items makes a dataset"):
        calibrate(graph, [np.zeros((1, *SHAPE), np.float32)], ray=RayCluster())
