"""`bowerbird serve`: an index and its models as a service over HTTP."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from bowerbird.cli import app, served
from bowerbird.cli.ending import Deadline, exit_code, leave, unfinished
from bowerbird.cli.screen import say
from bowerbird.serve.listening import PORT


class LogFormat(str, Enum):
    """How what is logged is written."""

    text = "text"
    json = "json"


@app.command()
def serve(
    context: typer.Context,
    index: served.IndexPlace = "",
    models: served.Models = None,
    rerankers: served.Rerankers = None,
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
    writable: served.Writable = False,
    show_paths: served.ShowPaths = False,
    page: served.ForPeople = True,
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
    ] = PORT,
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
    public_metrics: served.PublicMetrics = False,
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

    options = Served(
        place=served.place_of(context, index, models),
        models=[_named(name) for name in models or []],
        rerankers=rerankers or (),
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
        limits=Limits(**served.limited(context)),
    )

    def started(what: str, address: str) -> None:
        named = f"{options.place}: " if options.place else ""
        further = f"  page {address}/" if page else ""
        say(f"Serving {named}{what} at {address}/v1  docs {address}/docs{further}")

    number = run(options, started=started, stopping=Deadline().set)
    if unfinished():
        leave(number)
    if code := exit_code(number):
        raise typer.Exit(code)


def _named(given: str) -> str | tuple[str, str]:
    """`NAME=SOURCE`, or a name that is its own source."""
    name, equals, source = given.partition("=")
    return (name, source) if equals and name and source else given
