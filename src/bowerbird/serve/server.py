"""The server process: it listens at once, loads its models, adds the page when it can, stops when told.

SIGTERM and Ctrl-C: nothing more is accepted, and what was accepted is finished. SIGHUP: keys are read again, and the
newest commit of the index is served. That is looked for every few seconds anyway.
"""

from __future__ import annotations

import importlib.util
import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from bowerbird.errors import BowerbirdError, MissingExtraError
from bowerbird.models.crossencoder import read_cross_card
from bowerbird.models.hub.fetch import check_name, here
from bowerbird.serve.allocation import give_back_large_blocks, without_collecting
from bowerbird.serve.callers import check_callers, open_doors
from bowerbird.serve.keys import Keys
from bowerbird.serve.limits import Limits
from bowerbird.serve.listening import PORT, Listening, listen
from bowerbird.serve.logs import AccessLog, logged
from bowerbird.serve.threads import in_thread
from bowerbird.serve.tracing import Tracing, tracing
from bowerbird.settings import settings

if TYPE_CHECKING:
    from bowerbird.serve.api.door import Noted
    from bowerbird.serve.service import LocalService
    from bowerbird.serve.tracing import Tracing

__all__ = ["Served", "Started", "Stopping", "serve"]

_LOG = logging.getLogger("bowerbird.serve")

Started: TypeAlias = Callable[[str, str], None]
"""Told what is served, and the address."""

Stopping: TypeAlias = Callable[[float, int], None]
"""Told by each signal to stop in how many seconds the process shall be gone, and the number of the signal."""

NEEDED = ("fastapi", "uvicorn", "httptools", "orjson", "prometheus_client")
"""Packages that nothing can be served without."""


@dataclass(frozen=True)
class Served:
    """What a server process serves, where, and to whom.

    Raises:
        BowerbirdError: an origin, a name or an address of those who may ask can be none.

    Attributes:
        place: of the index; empty: only models are served.
        models: names, or (name, source) pairs.
        rerankers: names of cross-encoders.
        host: address to listen on.
        port: 0: any that is free.
        uds: path of a socket file to listen on instead.
        certfile: of TLS, PEM; empty: none.
        keyfile: that belongs to it; empty: it is in the same file.
        keys_file: of API keys; see `bowerbird.serve.keys`. Those of `BOWERBIRD_API_KEYS` are taken too.
        writable: whether records can be added and removed.
        fetch_urls: whether pictures at http(s) addresses are fetched.
        any_model: whether requests may name any model.
        idle_seconds: after which a model that nobody asks is unloaded; 0: never.
        page: whether there is a page for people.
        show_paths: whether answers tell where on this machine pictures lie.
        cors: origins whose pages may ask; `*`: any.
        hosts: further names that requests may know this machine by; `*`: any. Where there are none, and keys are
            wanted or others can connect, it is any too.
        proxies: addresses whose `X-Forwarded-For` is believed; `*`: all.
        tend_seconds: between two looks at whether the index has a new commit.
        log_format: `text` or `json`.
        access_log: whether each request is logged.
        otlp: where traces are sent by OTLP over HTTP; empty: what `OTEL_EXPORTER_OTLP_ENDPOINT` says, if anything.
        public_metrics: whether /metrics needs no key.
        limits: of requests.
    """

    place: str = ""
    models: Sequence[str | tuple[str, str]] = ()
    rerankers: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int = PORT
    uds: str = ""
    certfile: str = ""
    keyfile: str = ""
    keys_file: str = ""
    writable: bool = False
    fetch_urls: bool = False
    any_model: bool = False
    idle_seconds: float = 0.0
    page: bool = True
    show_paths: bool = False
    cors: Sequence[str] = ()
    hosts: Sequence[str] = ()
    proxies: Sequence[str] = ()
    tend_seconds: float = 2.0
    log_format: str = "text"
    access_log: bool = True
    otlp: str = ""
    public_metrics: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_callers(origins=self.cors, hosts=self.hosts, proxies=self.proxies)


def serve(options: Served, *, started: Started | None = None, stopping: Stopping | None = None) -> int:
    """Serve until the process is told to stop.

    Args:
        options: what, where and to whom.
        started: told what is served and at which address, once requests are answered.
        stopping: told in how many seconds this will have returned, by a handler of signals; what hangs in a thread may
            hold it up, and Python waits for some threads when the process ends.

    Returns:
        the signal that ended it; 0: it ended by itself.

    Raises:
        MissingExtraError: the packages of a service are not installed.
        BowerbirdError: the port is taken, keys cannot be read, the index or a model cannot be opened.
    """
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name.replace("_", "-"), "serve")
    keys = Keys(options.keys_file, settings().api_keys)
    _check_tls(options)
    _check_models(options)
    listening = listen(options.host, options.port, options.uds)
    traces = tracing(options.otlp)
    give_back_large_blocks()
    try:
        with logged(options.log_format), without_collecting():
            for warning in open_doors(
                beyond="" if listening.is_local else options.host or "this machine",
                keys=bool(len(keys)),
                writable=options.writable,
                origins=options.cors,
                fetch_urls=options.fetch_urls,
                any_model=options.any_model,
            ):
                _LOG.warning(warning)
            return _run(options, keys, listening, traces, started, stopping)
    finally:
        listening.close()
        if traces is not None:
            traces.close()


def _run(
    options: Served,
    keys: Keys,
    listening: Listening,
    traces: Tracing | None,
    started: Started | None,
    stopping: Stopping | None,
) -> int:
    from bowerbird.serve.metrics import Metrics
    from bowerbird.serve.service import LocalService

    metrics = Metrics(public=options.public_metrics)
    service = LocalService(
        options.place,
        options.models,
        rerankers=options.rerankers,
        limits=options.limits,
        writable=options.writable,
        any_model=options.any_model,
        idle_seconds=options.idle_seconds,
        tend_seconds=options.tend_seconds,
        watch=metrics.batch,
    )
    metrics.scheduler = service.scheduler
    # Weights are read while the rest is imported, which takes as long.
    warming = in_thread("bowerbird-warm", lambda: _warmed(service))
    from bowerbird.serve.api.app import build
    from bowerbird.serve.running import Running

    observers: list[Callable[[Noted], None]] = [AccessLog()] if options.access_log else []
    if traces is not None:
        observers.append(traces)
    door = build(
        service,
        fetch_urls=options.fetch_urls,
        show_paths=options.show_paths,
        keys=keys,
        observers=observers,
        cors=options.cors,
        hosts=_hosts(options, keys, listening),
        metrics=metrics,
    )
    told = None if started is None else partial(started, _shown(service, keys))
    return Running(door, service, options, keys, listening, stopping).until_stopped(warming, told)


def _shown(service: LocalService, keys: Keys) -> str:
    """What is served, and who may do what, in a line."""
    facts = []
    if service.index is not None:
        facts.append(f"{len(service.index):,} record{'' if len(service.index) == 1 else 's'}")
    names = (*service.registry.names, *service.rerankers.names)
    facts.append(f"{'model' if len(names) == 1 else 'models'} {', '.join(names)}")
    if service.index is not None:
        facts.append("writable" if service.writable else "read-only")
    if len(keys):
        facts.append("1 key" if len(keys) == 1 else f"{len(keys)} keys")
    return ", ".join(facts)


def _hosts(options: Served, keys: Keys, listening: Listening) -> Sequence[str]:
    """Names that requests may know this machine by; none: any."""
    if "*" in options.hosts or (
        not options.hosts and (len(keys) or listening.path or not listening.is_local)
    ):
        return ()
    host = f"[{options.host}]" if ":" in options.host else options.host
    return (*options.hosts, "localhost", "127.0.0.1", "[::1]", host)


def _check_tls(options: Served) -> None:
    if options.keyfile and not options.certfile:
        raise BowerbirdError("A TLS key was given without its certificate.", hint="Give --certfile too.")
    if options.certfile:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.certfile, options.keyfile or None)
        except (OSError, ssl.SSLError) as error:
            raise BowerbirdError(
                f"The TLS certificate {options.certfile} cannot be used: {error.strerror or error}.",
                hint="Give PEM files that belong together, with --certfile and --keyfile.",
            ) from None


def _check_models(options: Served) -> None:
    """What can be seen to be wrong with the models without loading them: then nobody is told that they are served."""
    for one in options.models:
        check_name(one if isinstance(one, str) else one[1])
    for name in options.rerankers:
        check_name(name)
        if here(name) is not None:
            read_cross_card(name)


def _warmed(service: LocalService) -> None:
    for name in service.registry.names:
        service.registry.get(name)
    for name in service.rerankers.names:
        service.rerankers.get(name)
