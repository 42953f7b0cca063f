"""The same collection on a Ray cluster. Needs the extra `calibrant[ray]`, which is imported when it is used."""

from calibrant.distributed.cluster import RayCluster
from calibrant.distributed.collecting import collect_on_ray

__all__ = ["RayCluster", "collect_on_ray"]
