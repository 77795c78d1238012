"""`bowerbird info`: what an index holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli import app, served
from bowerbird.cli.screen import IndexOption, ModelOption, bytes_, numerics_line, result

if TYPE_CHECKING:
    from bowerbird.search.index import Index
    from bowerbird.store.manifest import ModelEntry


@app.command()
def info(
    context: typer.Context,
    place: Annotated[
        str,
        typer.Argument(
            metavar="[INDEX]",
            help="An index, its address, or an indexed folder. Default: that of the current folder.",
            show_default=False,
        ),
    ] = "",
    index: IndexOption = "",
    model: ModelOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what an index holds: models, fingerprints, counts, size on disk, engine and precision.

    \b
    bowerbird info
    bowerbird info photos.bower --json
    """
    opened = _opened(context, place, index, model)
    facts = describe(opened)
    if as_json:
        result(json.dumps(facts, indent=1))
        return
    for heading, value in facts.items():
        if heading != "models" and value is not None:
            shown = (
                bytes_(value)
                if heading == "bytes"
                else ", ".join(value)
                if isinstance(value, list)
                else value
            )
            result(f"{heading:<12}{shown}")
    for entry in facts["models"]:
        result(f"\nmodel       {entry['name']}  (space {entry['space']})")
        if "unusable" in entry:
            result(f"  unusable  {entry['unusable']}")
        if entry["source"] != entry["name"]:
            result(f"  source    {entry['source']}")
        for option, value in entry["options"].items():
            result(f"  {option:<10}{value}")
        for column in entry["columns"]:
            result(
                f"  vectors   {column['name']}: {column['dimensions']} dimensions, "
                f"{column['modality']} output {column['output']}, of {column['records']:,} records"
            )
        result(f"  scores    {_calibrated(entry['calibration'])}")
        for heading, towers in (("written", entry["numerics"]), ("here", entry["numerics here"])):
            for tower, numerics in towers.items():
                for one in (numerics, *numerics.get("earlier", [])):
                    result(f"  {heading:<10}{tower} tower in {numerics_line(one)}")


def _opened(context: typer.Context, place: str, index: str, model: str) -> Index:
    """The index that is meant, by its place or by the option; the variable of the option gives way to the place."""
    from bowerbird.errors import BowerbirdError
    from bowerbird.search.index import Index
    from bowerbird.search.places import resolve

    if not place:
        return Index.open(resolve(index, Path.cwd(), model))
    source = context.get_parameter_source("index")
    if index and source is not None and source.name == "COMMANDLINE":
        raise BowerbirdError(
            "An index was given twice.", hint=f"Give one: bowerbird info {place}, or --index {index}"
        )
    return Index.open(served.named(place))


def describe(opened: Index) -> dict[str, Any]:
    """Facts about an index as plain data."""
    from bowerbird.record import Modality
    from bowerbird.store.table import ATTRIBUTES

    manifest = opened.manifest
    texts = any(column.modality == Modality.TEXT for column in opened.columns)
    return {
        "index": str(opened.path),
        "pictures": manifest.records,
        "failed": manifest.failed,
        "folders": list(manifest.roots),
        "bytes": opened.location.size(),
        "created": manifest.created,
        "updated": manifest.updated,
        "written by": f"bowerbird {manifest.written_by}, format {manifest.format}",
        "columns": [*ATTRIBUTES, *(["text"] if texts else []), *opened.table.attributes().names],
        "models": [_model(opened, entry) for entry in manifest.models],
    }


def _model(opened: Index, entry: ModelEntry) -> dict[str, Any]:
    from dataclasses import asdict

    from bowerbird.errors import BowerbirdError
    from bowerbird.store.filters import IsNull, Not

    facts = {
        "name": entry.name,
        "source": entry.source,
        "options": entry.options,
        "space": entry.space,
        "columns": [
            {**asdict(column), "records": opened.table.count(Not(IsNull(column.norm)))}
            for column in entry.columns
        ],
        "numerics": entry.numerics,
        "calibration": entry.calibration,
    }
    try:
        return {**facts, "numerics here": opened.encoder(entry.space).warm().numerics()}
    except BowerbirdError as error:
        return {**facts, "numerics here": {}, "unusable": error.message}


def _calibrated(told: Mapping[str, Any]) -> str:
    """When the scores of a model were measured, and on how much."""
    if not told:
        return "not calibrated yet"
    return f"calibrated {told.get('made', '')} on {told.get('records', 0):,} records"
