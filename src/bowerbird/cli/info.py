"""`bowerbird info`: what an index holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from bowerbird.cli import app
from bowerbird.cli.screen import IndexOption, ModelOption, bytes_, numerics_line, result


@app.command()
def info(
    index: IndexOption = "",
    model: ModelOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what an index holds: models, fingerprints, counts, size on disk, engine and precision.

    \b
    bowerbird info
    bowerbird info --index photos.bower --json
    """
    from bowerbird.search.index import Index
    from bowerbird.search.places import resolve

    opened = Index.open(resolve(index, Path.cwd(), model))
    facts = describe(opened)
    if as_json:
        result(json.dumps(facts, indent=1))
        return
    for heading, value in facts.items():
        if heading not in ("models", "numerics here"):
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
        if entry["source"] != entry["name"]:
            result(f"  source    {entry['source']}")
        for option, value in entry["options"].items():
            result(f"  {option:<10}{value}")
        for column in entry["columns"]:
            result(
                f"  vectors   {column['name']}: {column['dimensions']} dimensions, "
                f"{column['modality']} output {column['output']}"
            )
        for heading, towers in (("written", entry["numerics"]), ("here", facts["numerics here"])):
            for tower, numerics in towers.items():
                for one in (numerics, *numerics.get("earlier", [])):
                    result(f"  {heading:<10}{tower} tower in {numerics_line(one)}")


def describe(opened: Any) -> dict[str, Any]:
    """Facts about an index as plain data."""
    from dataclasses import asdict

    from bowerbird.record import Modality
    from bowerbird.store.table import ATTRIBUTES

    manifest = opened.manifest
    texts = any(column.modality == Modality.TEXT for column in opened.columns)
    opened.model.warm()
    return {
        "index": str(opened.path),
        "pictures": manifest.records,
        "failed": manifest.failed,
        "folders": list(manifest.roots),
        "bytes": sum(entry.stat().st_size for entry in _files(opened.path)),
        "created": manifest.created,
        "updated": manifest.updated,
        "written by": f"bowerbird {manifest.written_by}, format {manifest.format}",
        "columns": [*ATTRIBUTES, *(["text"] if texts else []), *opened.table.attributes().names],
        "numerics here": opened.model.numerics(),
        "models": [
            {
                "name": entry.name,
                "source": entry.source,
                "options": entry.options,
                "space": entry.space,
                "columns": [asdict(column) for column in entry.columns],
                "numerics": entry.numerics,
            }
            for entry in manifest.models
        ],
    }


def _files(path: Path) -> list[Path]:
    return [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
