"""`bowerbird search`: ask an index."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli import app
from bowerbird.cli.screen import IndexOption, ModelOption, is_terminal, result, say

if TYPE_CHECKING:
    from bowerbird.hits import Hits
    from bowerbird.search.index import Index
    from bowerbird.search.query import Query


@app.command()
def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUERY", help="Words, or the path of a picture.", show_default=False),
    ] = None,
    image: Annotated[
        str, typer.Option(metavar="PICTURE", help="A picture to blend with the words.", show_default=False)
    ] = "",
    like: Annotated[
        str, typer.Option(metavar="ID|PATH", help="Neighbours of an indexed picture.", show_default=False)
    ] = "",
    weights: Annotated[
        str,
        typer.Option(
            metavar="W,W", help="Weights of the words and the picture, such as 0.6,0.4.", show_default=False
        ),
    ] = "",
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="WORDS", help="Words to move away from; may be repeated.", show_default=False),
    ] = None,
    where: Annotated[
        str,
        typer.Option(
            metavar="SQL", help="A filter, such as \"width > 1000 and format = 'JPEG'\".", show_default=False
        ),
    ] = "",
    top: Annotated[
        int, typer.Option("--top", "-k", min=1, envvar="BOWERBIRD_TOP", help="How many results.")
    ] = 10,
    among: Annotated[
        str,
        typer.Option(
            metavar="image|text",
            help="What is searched. Default: the pictures, if there are any.",
            show_default=False,
        ),
    ] = "",
    threshold: Annotated[
        float | None, typer.Option(help="Leave out results that score less.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Results as JSON.")] = False,
    sheet: Annotated[
        str, typer.Option(metavar="FILE", help="Write a contact sheet (HTML).", show_default=False)
    ] = "",
    open_: Annotated[bool, typer.Option("--open", help="Show a contact sheet in the browser.")] = False,
    index: IndexOption = "",
    model: ModelOption = "",
) -> None:
    """Search by words, by a picture, or by both.

    \b
    bowerbird search "a cat asleep on a sofa"
    bowerbird search holiday.jpg
    bowerbird search "a dress" --image look.jpg --weights 0.6,0.4 --without "stripes"
    bowerbird search --like ~/Pictures/cat.jpg --where "width > 1000"
    bowerbird search "a dress for a wedding" --among text

    On a terminal a table; in a pipe, one line of score<TAB>path for each result.
    """
    from bowerbird.models.encoder import load
    from bowerbird.search.index import Index
    from bowerbird.search.places import resolve

    query = read_query(" ".join(words or []), image, like, weights, tuple(without or ()), among)
    opened = Index.open(resolve(index, Path.cwd(), model), load(model) if model else None)
    hits = opened.ask(query, k=top, where=where, threshold=threshold)
    for note in hits.notes:
        say(note)
    if as_json:
        result(
            json.dumps(
                [_plain(row) for row in hits.to_dicts()], indent=1, default=_json_value, ensure_ascii=False
            )
        )
    elif is_terminal():
        _table(hits)
    else:
        from bowerbird.flow.files import from_uri

        for hit in hits:
            result(f"{hit.score:.4f}\t{from_uri(hit.uri)}")
    if not hits:
        limit = "" if threshold is None else f" at a score of {threshold:g} or more"
        say(f"Nothing matches{limit}.")
    if sheet or open_:
        _show(opened, query, hits, sheet, open_)


def read_query(
    words: str, image: str, like: str, weights: str, without: tuple[str, ...], among: str = ""
) -> Query:
    """What was asked for. Words that are the path of an existing picture are that picture."""
    from bowerbird.errors import QueryError
    from bowerbird.media.image import IMAGE_SUFFIXES
    from bowerbird.search.query import Query

    try:
        shares = tuple(float(part) for part in weights.split(",")) if weights else ()
    except ValueError:
        raise QueryError(
            f"--weights {weights!r} cannot be read.", hint="Give numbers such as 0.6,0.4."
        ) from None
    path = os.path.expanduser(words)
    looks_like_path = os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES and len(path) < 4096
    picture = Path(os.path.expanduser(image)) if image else None
    texts = (words,) if words or not (image or like) else ()
    if looks_like_path and os.path.isfile(path):
        if image:
            raise QueryError(
                "Two query pictures were given.", hint="Leave out --image, or give words to blend with it."
            )
        texts, picture = (), Path(path)
    elif looks_like_path and " " not in words.strip():
        raise QueryError(f"There is no picture {words}.", hint="Check the path; words need no file suffix.")
    return Query(texts=texts, image=picture, like=like, weights=shares, without=without, among=among)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    from bowerbird.flow.files import from_uri, printable

    return {"score": round(row.pop("score"), 6), "path": printable(from_uri(row["uri"])), **row}


def _json_value(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _table(hits: Hits) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bowerbird.flow.files import from_uri, printable
    from bowerbird.media.reading import one_line

    with_texts = any(hit.attributes.get("text") for hit in hits)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("score", justify="right")
    table.add_column("picture" if not with_texts else "record", overflow="fold")
    table.add_column("size", justify="right", style="dim")
    table.add_column("taken", style="dim")
    if with_texts:
        table.add_column("text", max_width=60, no_wrap=True, overflow="ellipsis")
    for hit in hits:
        taken = hit.attributes["taken_at"]
        path = one_line(printable(from_uri(hit.uri)))
        shown = os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path
        copies = f"  ({hit.attributes['copies']} copies)" if hit.attributes["copies"] != 1 else ""
        table.add_row(
            f"{hit.score:.3f}",
            Text(shown).append(copies, style="dim"),
            f"{hit.attributes['width']}x{hit.attributes['height']}" if hit.attributes["width"] else "",
            f"{taken:%Y-%m-%d}" if isinstance(taken, datetime) else "",
            *([one_line(hit.attributes["text"] or "")] if with_texts else ()),
        )
    if hits:
        Console(file=sys.stdout, highlight=False).print(table)


def _show(opened: Index, query: Query, hits: Hits, sheet: str, open_: bool) -> None:
    from bowerbird.search.sheet import contact_sheet, panel_of

    page = contact_sheet(
        [panel_of(opened, query, hits)], title=str(query), subtitle=f"{len(opened):,} pictures"
    )
    if sheet:
        target = Path(sheet).expanduser()
    else:
        from bowerbird.settings import settings

        target = settings().cache_path / "contact-sheet.html"
    from bowerbird.search.index import writable

    with writable(target):
        if not sheet:
            target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, "utf-8")
    if open_:
        import webbrowser

        webbrowser.open(target.absolute().as_uri())
    say(f"Contact sheet: {target}")
