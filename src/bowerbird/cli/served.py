"""What `bowerbird serve` and `bowerbird deploy` are both told: what is served, to whom, and up to which limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from bowerbird.serve.limits import Limits

USUAL = Limits()


def _who(*names: str, envvar: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, envvar=envvar, help=help, rich_help_panel="Who", **more)


def _limit(name: str, help: str) -> Any:
    envvar = f"BOWERBIRD_{name.replace('-', '_').upper()}"
    return typer.Option(f"--{name}", min=0, envvar=envvar, help=help, rich_help_panel="Limits")


IndexPlace: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="[INDEX]",
        envvar="BOWERBIRD_INDEX",
        help="An index, its address, or an indexed folder. Without it: that of the current folder, or only models "
        "where --model is given.",
        show_default=False,
    ),
]
Models: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        envvar="BOWERBIRD_MODEL",
        metavar="NAME|NAME=SOURCE",
        help="A model to serve, beside those of the index; may be repeated. With NAME=SOURCE requests call it NAME.",
        show_default=False,
    ),
]
Rerankers: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--reranker",
        envvar="BOWERBIRD_RERANKER",
        metavar="MODEL",
        help="A cross-encoder for /v1/rerank; may be repeated.",
        show_default=False,
    ),
]
Writable: TypeAlias = Annotated[
    bool, typer.Option("--writable", envvar="BOWERBIRD_WRITABLE", help="Records can be added and deleted.")
]
ShowPaths: TypeAlias = Annotated[
    bool, typer.Option("--show-paths", envvar="BOWERBIRD_SHOW_PATHS", help="Tell where pictures lie.")
]
ForPeople: TypeAlias = Annotated[
    bool, typer.Option("--page/--no-page", envvar="BOWERBIRD_PAGE", help="A page for people at /.")
]
PublicMetrics: TypeAlias = Annotated[
    bool,
    typer.Option("--public-metrics", envvar="BOWERBIRD_PUBLIC_METRICS", help="Tell /metrics without a key."),
]

KeysFile: TypeAlias = Annotated[
    str,
    _who(
        "--api-keys",
        envvar="BOWERBIRD_API_KEYS_FILE",
        metavar="FILE",
        help="Requests must show a key of this file: one on each line, and behind it, if you like, name=, "
        "scope=read|write|admin, rate= and concurrent=. Keys of BOWERBIRD_API_KEYS are taken too.",
        show_default=False,
    ),
]
Cors: TypeAlias = Annotated[
    list[str] | None,
    _who(
        "--cors",
        envvar="BOWERBIRD_CORS",
        metavar="ORIGIN",
        help="Pages of this origin may ask, such as https://shop.example; may be repeated.",
        show_default=False,
    ),
]
AllowHost: TypeAlias = Annotated[
    list[str] | None,
    _who(
        "--allow-host",
        envvar="BOWERBIRD_ALLOW_HOST",
        metavar="NAME",
        help="A name that requests may know this machine by, such as behind a proxy; may be repeated.",
        show_default=False,
    ),
]
FetchUrls: TypeAlias = Annotated[
    bool,
    _who(
        "--fetch-urls",
        envvar="BOWERBIRD_FETCH_URLS",
        help="Fetch pictures from public http(s) addresses that requests name.",
    ),
]

Rate: TypeAlias = Annotated[
    int, _limit("rate", "Requests a minute of one key, or one address; 0: any number.")
]
Concurrent: TypeAlias = Annotated[
    int, _limit("concurrent", "Requests at once of one key, or one address; 0: any number.")
]
QueueSeconds: TypeAlias = Annotated[
    float, _limit("queue-seconds", "Seconds of work that may wait; what comes beyond is told to come back.")
]
MaxBody: TypeAlias = Annotated[int, _limit("max-body", "Bytes of one request.")]
MaxInputs: TypeAlias = Annotated[int, _limit("max-inputs", "Texts and pictures of one request.")]
Connections: TypeAlias = Annotated[
    int, _limit("connections", "Connections at once; half of them from one address that is no proxy.")
]
RequestSeconds: TypeAlias = Annotated[
    float, _limit("request-seconds", "Seconds that a request may take once it is here.")
]
DrainSeconds: TypeAlias = Annotated[
    float, _limit("drain-seconds", "Seconds to finish what was accepted when told to stop.")
]


def limited(context: typer.Context) -> Mapping[str, Any]:
    """What the options of a command say of `Limits`, by name of the limit."""
    told = context.params
    return {
        "body_bytes": told["max_body"],
        "bodies_bytes": max(told["max_body"], USUAL.bodies_bytes),
        "inputs": told["max_inputs"],
        "connections": told["connections"],
        "per_minute": told["rate"],
        "concurrent": told["concurrent"],
        "queue_seconds": told["queue_seconds"],
        "request_seconds": told["request_seconds"],
        "drain_seconds": told["drain_seconds"],
    }


def place_of(context: typer.Context, index: str, models: list[str] | None) -> str:
    """The index to serve; empty: only models.

    Args:
        context: of the command: whether models were named there, or are the user's usual ones.
        index: what was given.
        models: likewise.

    Raises:
        IndexNotFoundError: nothing was given, and the current folder has none.
    """
    from bowerbird.errors import IndexNotFoundError
    from bowerbird.search.places import resolve

    if not index:
        source = context.get_parameter_source("models")
        if source is not None and source.name == "COMMANDLINE":
            return ""
        try:
            return str(resolve("", Path.cwd()))
        except IndexNotFoundError as error:
            if models:
                return ""
            command = f"bowerbird {context.info_name} --model mini"
            raise IndexNotFoundError(
                error.message, hint=f"{error.hint}  Or serve a model alone: {command}"
            ) from None
    return named(index)


def named(index: str) -> str:
    """The index that a word names: its path or address, or a folder that is indexed.

    Raises:
        IndexNotFoundError: there is none.
    """
    from bowerbird.search.places import resolve
    from bowerbird.store import manifest as manifests

    folder = Path(os.path.expanduser(index))
    if folder.is_dir() and not manifests.exists(folder.absolute()):
        return str(resolve("", folder.absolute()))
    return str(resolve(index, Path.cwd()))
