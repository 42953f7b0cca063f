"""The same collection on a Ray cluster. Needs the extra `calibrant[ray]`, which is imported when it is used."""

from calibrant.distributed.cluster import BLOCK_SIZE, RayCluster
from calibrant.distributed.collecting import collect_on_ray

__all__ = ["BLOCK_SIZE", "RayCluster", "collect_on_ray"]
