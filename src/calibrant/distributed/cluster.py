"""RayCluster: which cluster, and how the work is shared out on it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from calibrant.core import ClusterError, SettingError
from calibrant.core.errors import first_line

LOCAL = "local"
BLOCK_SIZE = 64
PATIENCE = 10  # seconds until an address has to answer


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster to collect statistics on.

    address: of its head ("host:6379", "ray://host:10001"); "auto": the one that this machine is part of; "local": one
        of this machine alone, started and stopped again. Where Ray is connected already, that connection is used.
    workers: how many actors at most run the model, a session each; None: as many as Ray finds room for.
    threads: and processors of each of them. The cluster needs one processor more, to read and to merge.
    block_size: items that a worker computes between two results. What is lost with a worker is at most that.

    None of them changes a byte of the table. Raises SettingError for numbers below 1.
    """

    address: str = LOCAL
    workers: int | None = None
    threads: int = 1
    block_size: int = BLOCK_SIZE

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "block_size"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise SettingError(f"{name} of a Ray cluster is at least 1, got {number}")

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Ray, connected while this is open.

        Raises SettingError where Ray is not installed, ClusterError where no cluster answers at the address.
        """
        try:
            import ray
            import ray.data  # which needs more packages than ray does
        except ModuleNotFoundError as error:
            raise SettingError(f"calibrating on Ray needs {error.name}: pip install 'calibrant[ray]'") from None
        if ray.is_initialized():
            yield
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what a cluster reports is for those who run it to say
        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self.address == LOCAL:
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong comes out as an error
            options |= {"include_dashboard": False, "num_cpus": (os.cpu_count() or 1) + 1}  # one to read and to merge
        try:
            _knock(self.address)
            ray.init(self.address, **options)
        except (OSError, ValueError, RuntimeError) as error:
            reason = first_line(error)
            raise ClusterError(f"there is no Ray cluster at '{self.address}': {reason}") from error
        try:
            yield
        finally:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at "host:port"; Ray would go on trying for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


@contextmanager
def silence(name: str = "ray.data") -> Iterator[None]:
    """Keep Ray Data's log off the terminal; what went wrong comes out as an error. Its files have all of it."""
    handlers = [h for h in logging.getLogger(name).handlers if not hasattr(h, "baseFilename")]
    before = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in zip(handlers, before, strict=True):
            handler.setLevel(level)
