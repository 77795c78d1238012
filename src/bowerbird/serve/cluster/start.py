"""Deploying: on a cluster that is there, or on one that is started on this machine for the purpose."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from typing import Any

from bowerbird.errors import BowerbirdError, MissingExtraError
from bowerbird.flow.cluster import LOCAL, STORE_BYTES, answering
from bowerbird.serve.cluster.plan import Deployed
from bowerbird.serve.listening import PORT

__all__ = ["connect", "deploy", "hold", "stop"]

PROXY_SECONDS = 60
"""That a proxy may take to start: Ray's 5 are too few for its imports on a machine that is at work."""

ROOM = 64
"""Processors that a cluster started here claims to have: whoever does so wants it to run, not to wait for room."""


def connect(address: str = "") -> bool:
    """Connect to a Ray cluster. Whether it was started here, and so ends with this process.

    Args:
        address: as of `bowerbird.flow.cluster.Ray`.

    Raises:
        MissingExtraError: Ray is not installed.
        BowerbirdError: there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.serve
    except ImportError as error:
        raise MissingExtraError("ray[serve]", "ray") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it tells of every step
    if ray.is_initialized():
        return False
    # Bowerbird is installed on every machine of a cluster: no working directory is sent there.
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "lance is not fork-safe")
        try:
            found = answering(address)
            if found != LOCAL:
                ray.init(found, **quiet)
                return False
        except OSError as error:
            if address:
                raise BowerbirdError(
                    f"There is no Ray cluster at {address!r}.",
                    hint="Start one with `ray start --head`, or leave out the address to have one on this machine.",
                ) from error
        os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", str(PROXY_SECONDS))
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 is for work that nobody waits for
        ray.init(LOCAL, num_cpus=ROOM, include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
    return True


def deploy(
    deployed: Deployed,
    *,
    name: str = "bowerbird",
    host: str = "127.0.0.1",
    port: int = PORT,
) -> str:
    """Deploy the application, or replace the one of that name, and wait until it answers. Returns its address.

    Where it replaces one, the deployments are renewed replica by replica, and what is asked meanwhile is answered.

    Args:
        deployed: what is asked for.
        name: of the application.
        host: that Serve's proxies listen at; only where Serve does not run yet.
        port: likewise.

    Raises:
        StoreError: the index cannot be read.
        ModelError: there is no such model.
        BowerbirdError: a deployment could not be started.
    """
    from ray import serve
    from ray.exceptions import RayError

    from bowerbird.serve.cluster.deployments import application

    bound = application(deployed.to_args())
    try:
        serve.start(http_options={"host": host, "port": port})
    except (RayError, RuntimeError, TimeoutError) as error:
        raise BowerbirdError(
            f"Ray Serve could not start its proxies at {host}:{port}: {error}",
            hint="Is the port free? Give another one with --port.",
        ) from error
    try:
        serve.run(bound, name=name, route_prefix="/")
    except RuntimeError as error:
        raise BowerbirdError(
            f"The application {name!r} could not be deployed: {error}", hint="`serve status` says more."
        ) from error
    from ray.serve.context import _get_global_client

    at = _get_global_client().http_config  # Serve may run already, and listen elsewhere
    return f"http://{at.host}:{at.port}"


def stop(name: str = "bowerbird") -> None:
    """Take the application away; what it has accepted is finished first.

    Raises:
        BowerbirdError: there is none of that name.
    """
    from ray import serve

    if name not in serve.status().applications:
        raise BowerbirdError(f"There is no application {name!r} on this cluster.")
    serve.delete(name)


def hold(name: str) -> int:
    """Wait until this process is told to stop, by Ctrl-C or SIGTERM; then finish what was accepted, and end the cluster
    that was started here. Returns the signal.
    """
    import ray
    from ray import serve

    told: list[int] = []
    over = threading.Event()

    def end(number: int, _frame: object) -> None:
        told.append(number)
        over.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not over.wait(1.0):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop(name)
        serve.shutdown()
        ray.shutdown()
    return told[0]
