"""`bowerbird compare`: one question to several models of an index, side by side."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.given import JsonOption
from bowerbird.cli.screen import IndexOption, is_terminal, result, say

if TYPE_CHECKING:
    from bowerbird.hits import Hit, Hits
    from bowerbird.search.index import Index
    from bowerbird.search.query import Query


@app.command()
def compare(
    words: Annotated[list[str], typer.Argument(metavar="QUERY", help="Words, or the path of a picture.")],
    models: Annotated[
        str, typer.Option(metavar="A,B", help="Models of the index. Default: all.", show_default=False)
    ] = "all",
    where: Annotated[
        str, typer.Option(metavar="SQL", help="A filter, as of `bowerbird search`.", show_default=False)
    ] = "",
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many results.")] = 5,
    together: Annotated[
        bool, typer.Option("--together/--apart", help="Show what all models together find, too.")
    ] = True,
    sheet: Annotated[
        str, typer.Option(metavar="FILE", help="Write a contact sheet (HTML).", show_default=False)
    ] = "",
    as_json: JsonOption = False,
    index: IndexOption = "",
) -> None:
    """Ask several models of an index the same, and show their results side by side.

    \b
    bowerbird compare "flowing red evening dress" --models clip-vit-base-patch32,fashion-clip
    bowerbird compare dress.jpg --sheet compared.html

    A model that cannot answer is told of, and has an empty column.
    """
    from bowerbird.cli.search import read_query, strict_json
    from bowerbird.search.entries import labels
    from bowerbird.search.index import Index
    from bowerbird.search.places import resolve

    query = read_query(" ".join(words), "", "", "", ())
    opened = Index.open(resolve(index, Path.cwd(), models))
    entries = opened.entries(models)
    names = labels(entries, (TOGETHER,))
    found, able = _apart(opened, query, top, where, {name: space for space, name in names.items()})
    if together and len(able) > 1:
        found[TOGETHER] = opened.ask(query, k=top, where=where, models=able)
    if len(entries) == 1:
        say(f"The index holds one model, {entries[0].name}: there is nothing to compare it with.")
    if as_json:
        rows = {
            name: [
                {"id": h.id, "match": round(h.match, 6), "score": round(h.score, 6), "part": h.part}
                for h in hits
            ]
            for name, hits in found.items()
        }
        result(strict_json(rows))
    else:
        _side_by_side(found)
    if sheet:
        from bowerbird.search.index import writable
        from bowerbird.search.sheet import contact_sheet, panel_of

        panels = [
            replace(panel, note=" ".join(hits.notes)) if hits.notes and not hits else panel
            for name, hits in found.items()
            for panel in [panel_of(opened, query, hits, heading=name)]
        ]
        target = Path(sheet).expanduser()
        page = contact_sheet(
            panels, title=str(query), subtitle=f"{len(opened):,} records, {len(entries)} models"
        )
        with writable(target):
            target.write_text(page, "utf-8")
        say(f"Contact sheet: {target}")


TOGETHER = "together"
"""The column of what all models find; no model is called so."""


def _apart(
    opened: Index, query: Query, top: int, where: str, names: Mapping[str, str]
) -> tuple[dict[str, Hits], list[str]]:
    """What each model finds, by its name, and the spaces of those that could answer; notes are said.

    Args:
        opened: the index.
        query: what is asked.
        top: at most so many results of each.
        where: a filter.
        names: the space of each model, by what it is called here.

    Raises:
        BowerbirdError: none of them could answer; what was wrong with the first.
    """
    import numpy as np

    from bowerbird.errors import BowerbirdError
    from bowerbird.hits import Hits

    found: dict[str, Hits] = {}
    able: list[str] = []
    refused: list[BowerbirdError] = []
    for name, space in names.items():
        try:
            found[name] = opened.ask(query, k=top, where=where, models=space)
            able.append(space)
        except BowerbirdError as error:
            refused.append(error)
            found[name] = Hits((), np.zeros(0, np.float32), "", (), notes=(str(error),))
    if not able:
        raise refused[0]
    notes: dict[str, list[str]] = {}
    for name, hits in found.items():
        for note in hits.notes:
            notes.setdefault(note, []).append(name)
    for note, several in notes.items():
        say(note if len(several) == len(found) else f"{', '.join(several)}: {note}")
    return found, able


def _side_by_side(found: dict[str, Hits]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not is_terminal():
        for name, hits in found.items():
            for hit in hits:
                result(f"{name}\t{hit.match:.4f}\t{_name(hit)}")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", justify="right", style="dim")
    for name in found:
        table.add_column(name, overflow="fold", ratio=1)
    for rank in range(max(map(len, found.values()), default=0)):
        cells = [
            f"{hits[rank].match:.2f}  {_name(hits[rank])}" if rank < len(hits) else ""
            for hits in found.values()
        ]
        table.add_row(str(rank + 1), *cells)
    Console(file=sys.stdout, highlight=False).print(table)


def _name(hit: Hit) -> str:
    from bowerbird.flow.files import from_uri, printable
    from bowerbird.media.reading import one_line

    path = from_uri(hit.uri)
    text = str(hit.attributes.get("text") or "")
    return one_line(printable(os.path.basename(path)) or hit.id) + (f"  “{one_line(text)}”" if text else "")
