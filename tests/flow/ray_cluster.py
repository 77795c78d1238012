"""A Ray cluster of several nodes on this machine, started and ended by tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MIB = 1 << 20


class Nodes:
    """A head without processors, and nodes with some each; a node can be taken away, and another put in its place.

    The head alone has the resource `head`.
    """

    def __init__(self, count: int = 2, cpus: int = 2) -> None:
        from ray.cluster_utils import Cluster

        # A node that is silent for three seconds is dead; Ray's own choice takes a quarter of a minute.
        quick = {
            "health_check_initial_delay_ms": 1000,
            "health_check_period_ms": 1000,
            "health_check_failure_threshold": 3,
        }
        head = {"num_cpus": 0, "resources": {"head": 1}, "_system_config": quick, **_node()}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: list[Any] = []
        self._cpus = cpus
        for _ in range(count):
            self.add()

    @property
    def address(self) -> str:
        return self._cluster.address

    def add(self) -> None:
        self._nodes.append(self._cluster.add_node(num_cpus=self._cpus, **_node()))

    def kill(self, node_id: str) -> None:
        """The node vanishes with everything on it, as when a machine loses power."""
        node = next(node for node in self._nodes if node.node_id == node_id)
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def end(self) -> None:
        self._cluster.shutdown()


def _node() -> dict[str, Any]:
    return {"object_store_memory": 128 * MIB, "include_dashboard": False}


@contextmanager
def running(count: int = 2, cpus: int = 2) -> Iterator[Nodes]:
    """A cluster, while the block runs; this process is connected to it by whatever runs in the block."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray reads the name as it is. Its 15 has workers wait for whatever else is tested.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    nodes = Nodes(count, cpus)
    try:
        yield nodes
    finally:
        ray.shutdown()
        nodes.end()
