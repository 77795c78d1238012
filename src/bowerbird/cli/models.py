"""`bowerbird models`: what is available, and what is here."""

from __future__ import annotations

import json
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from bowerbird.cli import app
from bowerbird.cli.screen import bytes_, is_terminal, result, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import TaskID

    from bowerbird.models.hub.calls import Progress
    from bowerbird.models.hub.catalog import CatalogEntry
    from bowerbird.models.hub.fetch import Located
    from bowerbird.models.hub.receipts import Receipt

WIDE = 150
"""Columns of a terminal from which on the strengths of a model fit beside its facts."""

COLUMNS = ("name", "modalities", "dimensions", "bytes", "license", "from", "strengths")


class _ListByDefault(TyperGroup):
    """`models`, `models NAME` and `models --json` mean `models list ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the verb that is left out before the arguments."""
        if not args or not (args[0] in self.commands or args[0] in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


models = typer.Typer(
    cls=_ListByDefault,
    help="List models, describe some, or download one.\n\n"
    "\b\n"
    "bowerbird models\n"
    "bowerbird models ./my-model clip-vit-base-patch32\n"
    "bowerbird models pull clip-vit-base-patch32",
)
app.add_typer(models, name="models")


@models.command("list")
def list_(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models to describe; default: all with a name, and all pulled.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List models with their dimensions, size, modalities and where they come from; the default.

    \b
    bowerbird models
    bowerbird models ./my-model

    Nothing is downloaded. What is not on this machine is described from the catalogue; its size is approximate.
    """
    rows = [_described(name) for name in names] if names else _all()
    if as_json:
        result(json.dumps(rows, indent=1))
    elif is_terminal():
        _table(rows)
    else:
        for row in rows:
            result("\t".join(str(row[key]) for key in COLUMNS))


@models.command()
def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="A name of the catalogue, or a repository of the hub: ORG/NAME or ORG/NAME@REVISION."
        ),
    ],
    variant: Annotated[
        str,
        typer.Option(
            help="Which graphs, such as fp16 or quantized; default: the plain ones.", show_default=False
        ),
    ] = "",
    update: Annotated[bool, typer.Option("--update", help="Move to what the revision means now.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Download a model and check every file; afterwards it needs no network.

    \b
    bowerbird models pull clip-vit-base-patch32
    bowerbird models pull BAAI/bge-small-en-v1.5@main --update

    A model that is here already is checked, and what is damaged is fetched again. Prints the model's directory.
    """
    from bowerbird.models.hub import fetch

    try:
        with _bar(name) as progress:
            located = fetch.pull(name, variant=variant, update=update, progress=progress)
    except KeyboardInterrupt:
        say("Stopped early; files that are complete are kept, and the same command continues from there.")
        raise SystemExit(130) from None  # it has said so already
    say(_verified(name, located))
    result(json.dumps(_pulled(located), indent=1) if as_json else str(located.directory))


def _all() -> list[dict[str, Any]]:
    """Embedded, of the catalogue, and whatever else was pulled."""
    from bowerbird.models.hub.catalog import catalog, find_entry
    from bowerbird.models.hub.fetch import EMBEDDED
    from bowerbird.models.hub.receipts import receipts

    pulled = [receipt for receipt in receipts() if not receipt.lost()]
    by_repository = {receipt.repository.lower(): receipt for receipt in pulled}
    rows = [_loaded(EMBEDDED)]
    rows += [_of_catalog(entry, by_repository.get(entry.repository.lower())) for entry in catalog()]
    return rows + [_of_receipt(receipt) for receipt in pulled if not find_entry(receipt.repository)]


def _described(name: str) -> dict[str, Any]:
    from bowerbird.errors import ModelNotFoundError
    from bowerbird.models.hub.catalog import find_entry
    from bowerbird.models.hub.fetch import here

    entry = find_entry(name)
    try:
        located = here(name)
    except ModelNotFoundError:
        if entry is None:
            raise
        return _of_catalog(entry, None)
    if located:
        return _loaded(name)
    if entry:
        return _of_catalog(entry, None)
    raise ModelNotFoundError(f"{name} is not on this machine.", hint=f"Run: bowerbird models pull {name}")


def _loaded(name: str) -> dict[str, Any]:
    """A model on this machine, as its files describe it."""
    from bowerbird.models.encoder import load
    from bowerbird.models.hub.catalog import find_entry
    from bowerbird.models.hub.fetch import EMBEDDED

    encoder = load(name)
    card = encoder.card
    dimensions = {}
    if card.text:
        dimensions["text"] = encoder.text.dimensions
    if card.image:
        dimensions.update({output: encoder.image.dimensions(output) for output in encoder.image.outputs})
    entry = find_entry(name)
    return {
        "name": card.name,
        "modalities": "+".join(map(str, card.modalities)),
        "dimensions": ", ".join(f"{what} {size}" for what, size in dimensions.items()),
        "bytes": card.size,
        "license": card.license or (entry.license if entry else "?"),
        "from": "inside the package" if card.name == EMBEDDED else str(card.directory),
        "strengths": entry.strengths
        if entry
        else "Small and fast; pictures by simple words. Needs no download."
        if card.name == EMBEDDED
        else "",
        "here": True,
        "space": card.space,
    }


def _of_catalog(entry: CatalogEntry, receipt: Receipt | None) -> dict[str, Any]:
    source = f"hub: {entry.repository}" if entry.repository else f"export: {entry.export}"
    return {
        "name": entry.name,
        "modalities": "+".join(map(str, entry.modalities)),
        "dimensions": str(entry.dimensions),
        "bytes": receipt.size if receipt else entry.megabytes * 1_000_000,
        "license": entry.license,
        "from": str(receipt.directory) if receipt else source,
        "strengths": entry.strengths,
        "here": receipt is not None,
        "aliases": list(entry.aliases),
        "prompts": dict(entry.prompts),
        "verified": entry.verified,
        "known_from": entry.known_from,
    }


def _of_receipt(receipt: Receipt) -> dict[str, Any]:
    pin = "" if receipt.revision == "main" else f"@{receipt.revision}"
    return {
        "name": f"{receipt.repository}{pin}",
        "modalities": "?",
        "dimensions": "?",
        "bytes": receipt.size,
        "license": "?",
        "from": str(receipt.directory),
        "strengths": "",
        "here": True,
    }


def _pulled(located: Located) -> dict[str, Any]:
    receipt = located.receipt
    return {
        "name": located.name,
        "directory": str(located.directory),
        "repository": receipt.repository if receipt else "",
        "commit": located.revision,
        "files": {file.path: file.hash for file in receipt.files} if receipt else {},
        "repaired": list(located.repaired),
    }


def _verified(name: str, located: Located) -> str:
    """What the user may rely on."""
    from bowerbird.models.hub.fetch import EMBEDDED

    receipt = located.receipt
    if located.name == EMBEDDED and not located.revision:
        return f"{EMBEDDED} is inside the package; there is nothing to pull."
    if not located.revision:
        return f"{name} is a directory on this machine; there is nothing to pull, and nothing was checked."
    if receipt is None:
        return (
            f"{name} was put into the hub's cache by another program. It is complete as far as its own files tell; "
            f"{located.checked} of them were compared with the hashes that the cache names."
        )
    weights = sum(len(file.hash) == 64 for file in receipt.files)
    names = ", ".join(located.repaired)
    repaired = f"Fetched again, being damaged or missing: {names}. " if names else ""
    return (
        f"{repaired}{receipt.repository} at {receipt.commit[:12]}: {len(receipt.files)} files, {bytes_(receipt.size)}. "
        f"All are what the hub says: {weights} by SHA-256, {len(receipt.files) - weights} small ones by Git id."
    )


@contextmanager
def _bar(name: str) -> Iterator[Progress | None]:
    """A progress bar on a terminal; appears with the first byte."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    tasks: list[TaskID] = []

    def show(done: int, total: int) -> None:
        if not tasks:
            bar.start()
            tasks.append(bar.add_task(name, total=total))
        bar.update(tasks[0], completed=done, total=total)

    try:
        yield show
    finally:
        bar.stop()


def _table(rows: list[dict[str, Any]]) -> None:
    """One line of facts for each model, never cut; what it is good for stands beside or, on a narrow screen, below."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    beside = console.width >= WIDE
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("model", "takes", "dim", "size", "licence", "here", *(["strengths"] if beside else [])):
        table.add_column(
            heading, justify="right" if heading in ("size", "dim") else "left", no_wrap=heading != "strengths"
        )
    for row in rows:
        table.add_row(
            row["name"],
            row["modalities"],
            re.findall(r"\b\d+\b", row["dimensions"])[0],
            ("" if row["here"] else "~") + bytes_(row["bytes"]),
            row["license"],
            "yes" if row["here"] else row["from"].split(":")[0],
            *([row["strengths"]] if beside else []),
        )
    console = Console(highlight=False)
    console.print(table)
    if len(rows) == 1:
        for key in ("dimensions", "strengths", "from"):
            if rows[0][key] and not (beside and key == "strengths"):
                console.print(f"[dim]{key:<11}[/dim]{rows[0][key]}", soft_wrap=True)
    elif not beside:
        console.print(
            "[dim]`bowerbird models NAME` says what a model is good for and where it comes from.[/dim]"
        )
