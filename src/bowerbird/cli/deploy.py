"""`bowerbird deploy`: the service on a Ray cluster."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli import app, served
from bowerbird.cli.records import Address
from bowerbird.cli.screen import result, say
from bowerbird.serve.listening import PORT

if TYPE_CHECKING:
    from bowerbird.serve.cluster.plan import Deployed

LOCAL = ("127.0.0.1", "localhost", "::1")


@app.command()
def deploy(
    context: typer.Context,
    index: served.IndexPlace = "",
    on: Annotated[str, typer.Option("--on", metavar="WHERE", help="ray: the only one so far.")] = "ray",
    models: served.Models = None,
    rerankers: served.Rerankers = None,
    least: Annotated[
        int,
        typer.Option(
            "--min",
            min=0,
            envvar="BOWERBIRD_MIN_REPLICAS",
            help="Replicas of each encoder and of the search service; 0: none as long as nobody asks.",
        ),
    ] = 1,
    most: Annotated[
        int, typer.Option("--max", min=1, envvar="BOWERBIRD_MAX_REPLICAS", help="Likewise, at the most.")
    ] = 4,
    target: Annotated[
        float,
        typer.Option(
            "--target",
            envvar="BOWERBIRD_TARGET_REQUESTS",
            help="Requests that a replica is meant to have at once; with more of them others are started.",
        ),
    ] = 8.0,
    idle: Annotated[
        float,
        typer.Option(
            "--idle",
            envvar="BOWERBIRD_IDLE_SECONDS",
            help="Seconds after which a replica that is not needed ends.",
        ),
    ] = 300.0,
    cpus: Annotated[
        float,
        typer.Option("--cpus", help="Processors for each replica of an encoder; a part of one is allowed."),
    ] = 1.0,
    gpus: Annotated[float, typer.Option("--gpus", help="GPUs likewise.")] = 0.0,
    search_cpus: Annotated[
        float, typer.Option("--search-cpus", help="Processors for each replica of the search service.")
    ] = 1.0,
    ingress: Annotated[
        int,
        typer.Option(
            "--ingress", min=1, help="Replicas of the ingress at the most; several only with --no-page."
        ),
    ] = 1,
    writable: served.Writable = False,
    show_paths: served.ShowPaths = False,
    page: served.ForPeople = True,
    api_keys: served.KeysFile = "",
    cors: served.Cors = None,
    allow_host: served.AllowHost = None,
    fetch_urls: served.FetchUrls = False,
    rate: served.Rate = served.USUAL.per_minute,
    concurrent: served.Concurrent = served.USUAL.concurrent,
    queue_seconds: served.QueueSeconds = served.USUAL.queue_seconds,
    max_body: served.MaxBody = served.USUAL.body_bytes,
    max_inputs: served.MaxInputs = served.USUAL.inputs,
    connections: served.Connections = served.USUAL.connections,
    request_seconds: served.RequestSeconds = served.USUAL.request_seconds,
    drain_seconds: served.DrainSeconds = served.USUAL.drain_seconds,
    public_metrics: served.PublicMetrics = False,
    address: Address = "",
    host: Annotated[
        str, typer.Option("--host", envvar="BOWERBIRD_HOST", help="Address that the proxies listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", "-p", min=1, max=65535, envvar="BOWERBIRD_PORT", help="Port that the proxies listen on."
        ),
    ] = PORT,
    name: Annotated[str, typer.Option("--name", help="Of the application.")] = "bowerbird",
    config: Annotated[
        str,
        typer.Option(
            "--config",
            metavar="FILE|-",
            help="Write a Serve config file, for `serve deploy`, rather than deploy.",
            show_default=False,
        ),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Write over a --config file that says something else.")
    ] = False,
) -> None:
    """Serve an index and its models from a Ray cluster, in parts that scale apart.

    bowerbird deploy photos.bower --on ray --min 0 --max 8

    bowerbird deploy photos.bower --config photos.yaml && serve deploy photos.yaml

    Without a cluster, one is started on this machine, which ends with Ctrl-C. Only digests of keys leave this
    machine.
    """
    from bowerbird.errors import BowerbirdError
    from bowerbird.serve.callers import open_doors
    from bowerbird.serve.cluster.plan import Deployed, as_yaml

    if on != "ray":
        raise BowerbirdError(f"There is no deploying on {on!r}.", hint="Use --on ray.")
    keys = _keys(api_keys)
    deployed = Deployed(
        index=served.place_of(context, index, models),
        models=tuple(models or ()),
        rerankers=tuple(rerankers or ()),
        min_replicas=least,
        max_replicas=most,
        target=target,
        idle_seconds=idle,
        cpus=cpus,
        gpus=gpus,
        search_cpus=search_cpus,
        ingress=ingress,
        page=page,
        writable=writable,
        show_paths=show_paths,
        fetch_urls=fetch_urls,
        public_metrics=public_metrics,
        keys=keys,
        cors=tuple(cors or ()),
        hosts=_hosts(tuple(allow_host or ()), host, keys),
        limits=_unusual(served.limited(context)),
    )
    for warning in open_doors(
        beyond="" if host in LOCAL else f"{host}:{port}",
        keys=bool(keys),
        writable=writable,
        origins=deployed.cors,
        fetch_urls=fetch_urls,
    ):
        say(warning)
    if config:
        _write(config, as_yaml(deployed, name=name, host=host, port=port), force=force)
        return
    _run(deployed, name, host, port, address)


def _hosts(allowed: tuple[str, ...], host: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    """Names that requests may know the ingress by; none: any."""
    if "*" in allowed or (not allowed and (keys or host not in LOCAL)):
        return ()
    return (*allowed, "localhost", "127.0.0.1", "[::1]")


def _unusual(limits: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Limits that are not the usual ones: what has to be written down."""
    return {name: value for name, value in limits.items() if value != getattr(served.USUAL, name)} or None


def _keys(file: str) -> tuple[str, ...]:
    """The keys of a file and of the environment, as lines with their digests."""
    from bowerbird.serve.cluster.plan import digest_line
    from bowerbird.serve.keys import Keys
    from bowerbird.settings import settings

    return tuple(digest_line(key) for key in Keys(file, settings().api_keys))


def _write(config: str, text: str, *, force: bool) -> None:
    """The config file, which somebody may have edited since it was written."""
    from bowerbird.errors import BowerbirdError

    if config == "-":
        result(text.rstrip("\n"))
        return
    path = Path(config)
    try:
        if not force and path.exists() and path.read_bytes() != text.encode():
            raise BowerbirdError(
                f"{config} is there already, and says something else.",
                hint="Give another name, --config - to see what would be written, or --force to write over it.",
            )
        path.write_text(text, "utf-8")
    except OSError as error:
        raise BowerbirdError(
            f"The config file {config} cannot be written: {error.strerror or error}.",
            hint="Give a file in a folder that exists and that you may write to, or --config - for the screen.",
        ) from None
    say(f"{config}: deploy it with `serve deploy {config}`.")


def _run(deployed: Deployed, name: str, host: str, port: int, address: str) -> None:
    from bowerbird.serve.cluster.start import connect, deploy, hold

    own = connect(address)
    if own:
        say("No cluster runs here; one is started on this machine.")
    where = deploy(deployed, name=name, host=host, port=port)
    result(where)
    if own:
        say("Ctrl-C ends it.")
        if hold(name) == signal.SIGINT:
            raise typer.Exit(130)
    else:
        say("It goes on without this command: `serve status` says how it is, `serve shutdown` ends it.")
