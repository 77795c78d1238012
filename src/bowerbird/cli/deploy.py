"""`bowerbird deploy`: the service on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.records import Address
from bowerbird.cli.screen import result, say

if TYPE_CHECKING:
    from bowerbird.serve.cluster.plan import Deployed


@app.command()
def deploy(
    index: Annotated[
        str,
        typer.Argument(
            metavar="INDEX",
            help="Directory or address of the index, which every machine of the cluster reaches; none: only models.",
            show_default=False,
        ),
    ] = "",
    on: Annotated[str, typer.Option("--on", metavar="WHERE", help="ray: the only one so far.")] = "ray",
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", envvar="BOWERBIRD_MODEL", help="A further model; may be repeated.", show_default=False
        ),
    ] = None,
    rerankers: Annotated[
        list[str] | None,
        typer.Option(
            "--reranker",
            envvar="BOWERBIRD_RERANKER",
            help="A cross-encoder; may be repeated.",
            show_default=False,
        ),
    ] = None,
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
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="Whether there is a page for people.")
    ] = True,
    writable: Annotated[
        bool,
        typer.Option("--writable", envvar="BOWERBIRD_WRITABLE", help="Let requests add and remove records."),
    ] = False,
    fetch_urls: Annotated[
        bool,
        typer.Option(
            "--fetch-urls", envvar="BOWERBIRD_FETCH_URLS", help="Fetch pictures at public addresses."
        ),
    ] = False,
    api_keys: Annotated[
        str,
        typer.Option(
            "--api-keys",
            metavar="FILE",
            envvar="BOWERBIRD_API_KEYS_FILE",
            help="API keys, one on a line. Only their digests leave this machine.",
            show_default=False,
        ),
    ] = "",
    address: Address = "",
    host: Annotated[
        str, typer.Option("--host", envvar="BOWERBIRD_HOST", help="Address that the proxies listen on.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", envvar="BOWERBIRD_PORT", help="Port of the proxies.")] = 8000,
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
) -> None:
    """Serve an index and its models from a Ray cluster, in parts that scale apart.

    bowerbird deploy photos.bower --on ray --min 0 --max 8

    bowerbird deploy photos.bower --config photos.yaml && serve deploy photos.yaml

    Without a cluster, one is started on this machine, which ends with Ctrl-C.
    """
    from bowerbird.errors import BowerbirdError
    from bowerbird.serve.cluster.plan import Deployed

    if on != "ray":
        raise BowerbirdError(f"There is no deploying on {on!r}.", hint="Use --on ray.")
    keys = _keys(api_keys)
    local = host in ("127.0.0.1", "localhost", "::1")
    deployed = Deployed(
        index=_there(index),
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
        fetch_urls=fetch_urls,
        keys=keys,
        hosts=("localhost", "127.0.0.1", "[::1]") if local and not keys else (),
    )
    if not keys and not local:
        say(f"ANYBODY who can reach {host}:{port} may use this service: --host without --api-keys.")
    if config:
        _write(config, deployed, name, host, port)
        return
    _run(deployed, name, host, port, address)


def _there(index: str) -> str:
    """The index as other machines name it."""
    if not index:
        return ""
    from bowerbird.store.location import Location

    return str(Location.of(index))


def _keys(file: str) -> tuple[str, ...]:
    """The keys of a file and of the environment, as lines with their digests."""
    from bowerbird.serve.cluster.plan import digest_line
    from bowerbird.serve.keys import Keys
    from bowerbird.settings import settings

    return tuple(digest_line(key) for key in Keys(file, settings().api_keys))


def _write(config: str, deployed: Deployed, name: str, host: str, port: int) -> None:
    from bowerbird.serve.cluster.plan import as_yaml

    text = as_yaml(deployed, name=name, host=host, port=port)
    if config == "-":
        result(text.rstrip("\n"))
        return
    Path(config).write_text(text, "utf-8")
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
        hold(name)
    else:
        say("It goes on without this command: `serve status` says how it is, `serve shutdown` ends it.")
