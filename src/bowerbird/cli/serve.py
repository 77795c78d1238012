"""`bowerbird serve`: an index and its models as a service over HTTP."""

from __future__ import annotations

import os
import signal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from bowerbird.cli import app
from bowerbird.cli.screen import say


class LogFormat(str, Enum):
    """How what is logged is written."""

    text = "text"
    json = "json"


def _limit(help: str, name: str) -> Any:
    """An option for a limit; its default is that of `Limits`."""
    return typer.Option(
        f"--{name}",
        min=0,
        envvar=f"BOWERBIRD_{name.replace('-', '_').upper()}",
        help=help,
        rich_help_panel="Limits",
    )


@app.command()
def serve(
    context: typer.Context,
    index: Annotated[
        str,
        typer.Argument(
            metavar="[INDEX]",
            envvar="BOWERBIRD_INDEX",
            help="An index, its address, or an indexed folder. Without it: that of the current folder, or only "
            "models where --model is given.",
            show_default=False,
        ),
    ] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            envvar="BOWERBIRD_MODEL",
            metavar="NAME|NAME=SOURCE",
            help="A model to serve, beside those of the index; may be repeated. With NAME=SOURCE requests call it "
            "NAME.",
            show_default=False,
        ),
    ] = None,
    reranker: Annotated[
        list[str] | None,
        typer.Option(
            "--reranker",
            envvar="BOWERBIRD_RERANKER",
            metavar="MODEL",
            help="A cross-encoder for /v1/rerank; may be repeated.",
            show_default=False,
        ),
    ] = None,
    any_model: Annotated[
        bool,
        typer.Option(
            "--any-model", envvar="BOWERBIRD_ANY_MODEL", help="Requests may name any model of the hub."
        ),
    ] = False,
    model_ttl: Annotated[
        float,
        typer.Option(
            "--model-ttl",
            min=0,
            envvar="BOWERBIRD_MODEL_TTL",
            metavar="SECONDS",
            help="Unload models that nobody asked for so long; 0: never.",
        ),
    ] = 0.0,
    writable: Annotated[
        bool,
        typer.Option("--writable", envvar="BOWERBIRD_WRITABLE", help="Records can be added and deleted."),
    ] = False,
    show_paths: Annotated[
        bool,
        typer.Option(
            "--show-paths", envvar="BOWERBIRD_SHOW_PATHS", help="Tell where on this machine pictures lie."
        ),
    ] = False,
    page: Annotated[
        bool, typer.Option("--page/--no-page", envvar="BOWERBIRD_PAGE", help="A page for people at /.")
    ] = True,
    host: Annotated[
        str,
        typer.Option(
            envvar="BOWERBIRD_HOST", help="Address to listen on; 0.0.0.0: all.", rich_help_panel="Where"
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            "-p",
            min=0,
            max=65535,
            envvar="BOWERBIRD_PORT",
            help="0: any that is free.",
            rich_help_panel="Where",
        ),
    ] = 8080,
    uds: Annotated[
        str,
        typer.Option(
            envvar="BOWERBIRD_UDS",
            metavar="PATH",
            help="Listen on a socket file instead.",
            show_default=False,
            rich_help_panel="Where",
        ),
    ] = "",
    certfile: Annotated[
        str,
        typer.Option(
            envvar="BOWERBIRD_CERTFILE",
            metavar="PEM",
            help="Speak TLS, with this certificate.",
            show_default=False,
            rich_help_panel="Where",
        ),
    ] = "",
    keyfile: Annotated[
        str,
        typer.Option(
            envvar="BOWERBIRD_KEYFILE",
            metavar="PEM",
            help="The certificate's private key.",
            show_default=False,
            rich_help_panel="Where",
        ),
    ] = "",
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            "--proxy",
            envvar="BOWERBIRD_PROXY",
            metavar="ADDRESS",
            help="Believe X-Forwarded-For of this proxy; may be repeated.",
            show_default=False,
            rich_help_panel="Where",
        ),
    ] = None,
    api_keys: Annotated[
        str,
        typer.Option(
            "--api-keys",
            envvar="BOWERBIRD_API_KEYS_FILE",
            metavar="FILE",
            help="Requests must show a key of this file: one on each line, and behind it, if you like, name=, "
            "scope=read|write|admin, rate= and concurrent=. Keys of BOWERBIRD_API_KEYS are taken too. Read again on "
            "SIGHUP.",
            show_default=False,
            rich_help_panel="Who",
        ),
    ] = "",
    cors: Annotated[
        list[str] | None,
        typer.Option(
            "--cors",
            envvar="BOWERBIRD_CORS",
            metavar="ORIGIN",
            help="Pages of this origin may ask, such as https://shop.example; may be repeated.",
            show_default=False,
            rich_help_panel="Who",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            envvar="BOWERBIRD_ALLOW_HOST",
            metavar="NAME",
            help="A name that requests may know this machine by, such as behind a proxy; may be repeated.",
            show_default=False,
            rich_help_panel="Who",
        ),
    ] = None,
    fetch_urls: Annotated[
        bool,
        typer.Option(
            "--fetch-urls",
            envvar="BOWERBIRD_FETCH_URLS",
            help="Fetch pictures from public http(s) addresses that requests name.",
            rich_help_panel="Who",
        ),
    ] = False,
    rate: Annotated[int, _limit("Requests a minute of one key, or one address; 0: any number.", "rate")] = 0,
    concurrent: Annotated[
        int, _limit("Requests at once of one key, or one address; 0: any number.", "concurrent")
    ] = 0,
    queue_seconds: Annotated[
        float,
        _limit("Seconds of work that may wait; what comes beyond is told to come back.", "queue-seconds"),
    ] = 3.0,
    max_body: Annotated[int, _limit("Bytes of one request.", "max-body")] = 64 << 20,
    max_inputs: Annotated[int, _limit("Texts and pictures of one request.", "max-inputs")] = 2048,
    connections: Annotated[int, _limit("Connections at once.", "connections")] = 1000,
    request_seconds: Annotated[
        float, _limit("Seconds that a request may take once it is here.", "request-seconds")
    ] = 60.0,
    drain_seconds: Annotated[
        float, _limit("Seconds to finish what was accepted when told to stop.", "drain-seconds")
    ] = 30.0,
    log_format: Annotated[
        LogFormat,
        typer.Option("--log-format", envvar="BOWERBIRD_LOG_FORMAT", help="How each request is logged."),
    ] = LogFormat.text,
    access_log: Annotated[
        bool,
        typer.Option(
            "--access-log/--no-access-log", envvar="BOWERBIRD_ACCESS_LOG", help="A line for each request."
        ),
    ] = True,
    otlp: Annotated[
        str,
        typer.Option(
            envvar="BOWERBIRD_OTLP",
            metavar="URL",
            help="Send OpenTelemetry traces there, such as http://localhost:4318; OTEL_EXPORTER_OTLP_ENDPOINT is "
            "read too.",
            show_default=False,
        ),
    ] = "",
    public_metrics: Annotated[
        bool,
        typer.Option(
            "--public-metrics", envvar="BOWERBIRD_PUBLIC_METRICS", help="Tell /metrics without a key."
        ),
    ] = False,
) -> None:
    """Serve an index and its models: an HTTP API at /v1, a page at /, docs at /docs.

    \b
        bowerbird serve                                   the index of the current folder
        bowerbird serve photos.bower --port 8080
        bowerbird serve --model mini                      only a model, for any client of OpenAI's
        bowerbird serve photos.bower --model text-embedding-3-small=mini
        bowerbird serve photos.bower --host 0.0.0.0 --api-keys keys.txt --rate 600

    It listens on this machine alone unless --host says otherwise. SIGTERM and Ctrl-C finish what was accepted; SIGHUP
    reads the keys again and serves the newest commit of the index, as happens by itself within seconds.
    """
    from bowerbird.serve.limits import Limits
    from bowerbird.serve.server import Served
    from bowerbird.serve.server import serve as run

    source = context.get_parameter_source("model")
    named = source is not None and source.name == "COMMANDLINE"
    options = Served(
        place=_place(index, model or [], only_models=named),
        models=[_named(name) for name in model or []],
        rerankers=reranker or (),
        host=host,
        port=port,
        uds=uds,
        certfile=certfile,
        keyfile=keyfile,
        keys_file=api_keys,
        writable=writable,
        fetch_urls=fetch_urls,
        any_model=any_model,
        idle_seconds=model_ttl,
        page=page,
        show_paths=show_paths,
        cors=cors or (),
        hosts=allow_host or (),
        proxies=proxy or (),
        log_format=log_format.value,
        access_log=access_log,
        otlp=otlp,
        public_metrics=public_metrics,
        limits=Limits(
            body_bytes=max_body,
            bodies_bytes=max(max_body, Limits().bodies_bytes),
            inputs=max_inputs,
            connections=connections,
            per_minute=rate,
            concurrent=concurrent,
            queue_seconds=queue_seconds,
            request_seconds=request_seconds,
            drain_seconds=drain_seconds,
        ),
    )

    def started(address: str) -> None:
        further = f"  page {address}/" if page else ""
        say(
            f"Serving {options.place or ', '.join(model or [])} at {address}/v1  docs {address}/docs{further}"
        )

    if run(options, started=started) == signal.SIGINT:
        raise typer.Exit(130)


def _named(given: str) -> str | tuple[str, str]:
    """`NAME=SOURCE`, or a name that is its own source."""
    name, equals, source = given.partition("=")
    return (name, source) if equals and name and source else given


def _place(given: str, models: list[str], *, only_models: bool) -> str:
    """The index to serve; empty: only models."""
    from bowerbird.errors import IndexNotFoundError
    from bowerbird.search.places import resolve
    from bowerbird.store import manifest as manifests

    if not given:
        if only_models:
            return ""
        try:
            return str(resolve("", Path.cwd()))
        except IndexNotFoundError as error:
            if models:
                return ""
            raise IndexNotFoundError(
                error.message, hint=f"{error.hint}  Or serve a model alone: bowerbird serve --model mini"
            ) from None
    folder = Path(os.path.expanduser(given))
    if folder.is_dir() and not manifests.exists(folder.absolute()):
        return str(resolve("", folder.absolute()))
    return str(resolve(given, Path.cwd()))
