"""`bowerbird search`: ask an index."""

from __future__ import annotations

import json
import math
import os
import sys
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeAlias

import typer

from bowerbird.cli import app
from bowerbird.cli.screen import IndexOption, is_terminal, result, say

if TYPE_CHECKING:
    from bowerbird.hits import Hits
    from bowerbird.search.index import Index
    from bowerbird.search.query import Query
    from bowerbird.search.rerank import Reranker


ModelsOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        envvar="BOWERBIRD_MODEL",
        metavar="NAME|both|all",
        help="Which of the index's models are asked; may be repeated. Default: the first.",
        show_default=False,
    ),
]


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
    offset: Annotated[int, typer.Option(min=0, help="So many results are left out first.")] = 0,
    among: Annotated[
        str,
        typer.Option(
            metavar="image,text,words",
            help="What is searched: pictures, texts, the words in the texts. Default: pictures and texts.",
            show_default=False,
        ),
    ] = "",
    min_match: Annotated[
        float | None,
        typer.Option(
            "--min-match",
            envvar="BOWERBIRD_MIN_MATCH",
            help="Leave out what matches less, 0 to 1: the same for pictures and texts, under any model.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Leave out raw scores below this; of one part and model.", show_default=False),
    ] = None,
    fusion: Annotated[
        str, typer.Option(metavar="calibrated|rank|weighted|raw", help="How several parts become one list.")
    ] = "calibrated",
    part_weights: Annotated[
        str,
        typer.Option(
            "--part-weights",
            metavar="PART=W,...",
            help="With --fusion weighted, such as image=0.7,text=0.3.",
            show_default=False,
        ),
    ] = "",
    rerank: Annotated[
        str,
        typer.Option(
            metavar="exact|mmr|cross:MODEL", help="A second look at the first results.", show_default=False
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Results as JSON.")] = False,
    sheet: Annotated[
        str, typer.Option(metavar="FILE", help="Write a contact sheet (HTML).", show_default=False)
    ] = "",
    open_: Annotated[bool, typer.Option("--open", help="Show a contact sheet in the browser.")] = False,
    index: IndexOption = "",
    model: ModelsOption = None,
) -> None:
    """Search by words, by a picture, or by both.

    \b
    bowerbird search "a cat asleep on a sofa"
    bowerbird search holiday.jpg
    bowerbird search "a dress" --image look.jpg --weights 0.6,0.4 --without "stripes"
    bowerbird search --like ~/Pictures/cat.jpg --where "width > 1000"
    bowerbird search "a dress for a wedding" --min-match 0.5 --model both
    bowerbird search "linen 42" --among words,text --rerank mmr

    On a terminal a table; in a pipe, one line of match<TAB>path for each result. A match of 0.5 or more is likely what
    was asked for, between any two of words and pictures, under any model.
    """
    from bowerbird.search.index import Index
    from bowerbird.search.places import resolve

    query = read_query(" ".join(words or []), image, like, weights, tuple(without or ()), among)
    opened = Index.open(resolve(index, Path.cwd(), model or (), below=True))
    hits = opened.ask(
        query,
        k=top,
        offset=offset,
        where=where,
        models=model or (),
        fusion=fusion,
        part_weights=_weights_of_parts(part_weights),
        min_match=min_match,
        threshold=threshold,
        rerank=_reranker(rerank),
    )
    for note in hits.notes:
        say(note)
    if as_json:
        shown = hits if hits or hits.below is None else hits.below
        result(strict_json([_plain(row, passes=shown is hits) for row in shown.to_dicts()]))
    elif is_terminal():
        print_table(hits)
    else:
        from bowerbird.flow.files import from_uri

        for hit in hits:
            result(f"{hit.match:.4f}\t{from_uri(hit.uri)}")
    _remark(hits, min_match, threshold, offset, table=not as_json)
    if sheet or open_:
        _show(opened, query, hits, sheet, open_)


def _reranker(name: str) -> Reranker | None:
    from bowerbird.search.rerank import reranker

    return reranker(name) if name else None


def _weights_of_parts(given: str) -> dict[str, float] | None:
    """`image=0.7,text=0.3` as numbers by part."""
    from bowerbird.errors import QueryError

    found: dict[str, float] = {}
    for piece in filter(None, given.split(",")):
        part, _, weight = piece.partition("=")
        try:
            found[part.strip()] = float(weight)
        except ValueError:
            raise QueryError(
                f"--part-weights {given!r} cannot be read.",
                hint="Give parts and numbers: image=0.7,text=0.3.",
            ) from None
    return found or None


LIKELY = 0.5
"""A best match below this is said to be none."""


def _remark(
    hits: Hits, min_match: float | None, threshold: float | None, offset: int, *, table: bool
) -> None:
    """Say where nothing matches, and what came nearest: as a table, unless that is among the results already."""
    if hits:
        if min_match is None and not offset and hits.match is not None and max(hits.match) < LIKELY:
            say(f"Nothing here is surely what you asked for: the best match is {max(hits.match):.2f}.")
        return
    if hits.below:
        nearest = "The nearest were:" if table else 'The nearest have "passes": false.'
        say(f"Nothing matches: no result reaches {min_match:g}. {nearest}")
        if table:
            print_table(hits.below, file=sys.stderr)
        return
    limit = "" if threshold is None else f" at a score of {threshold:g} or more"
    say(f"Nothing {'more ' if offset else ''}matches{limit}.")


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


def _plain(row: dict[str, Any], *, passes: bool) -> dict[str, Any]:
    """A result for JSON; attributes that are called like what is added here get an underscore behind their names."""
    from bowerbird.flow.files import from_uri, printable

    told: dict[str, Any] = {name: round(row.pop(name), 6) for name in ("match", "score") if name in row}
    path = printable(from_uri(row["uri"] or ""))
    known = {f"{name}_" if name in ("path", "passes") else name: value for name, value in row.items()}
    return {**told, "passes": passes, "path": path, **known}


def strict_json(value: object) -> str:
    """JSON that every reader takes, for people too: numbers that are not finite, which it does not know, are null."""
    return json.dumps(_finite(value), indent=1, default=_json_value, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_value(value: object) -> str:
    return value.isoformat() if isinstance(value, (datetime, date)) else str(value)


def print_table(hits: Hits, file: TextIO | None = None) -> None:
    """Results as a table for people, on stdout or another stream."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bowerbird.flow.files import from_uri, printable
    from bowerbird.media.reading import one_line

    with_texts = any(hit.attributes.get("text") for hit in hits)
    with_parts, with_models = len(set(hits.parts)) > 1, len(set(hits.models)) > 1
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("match", justify="right")
    table.add_column("score", justify="right", style="dim")
    table.add_column("picture" if not with_texts else "record", overflow="fold")
    if with_parts:
        table.add_column("by", style="dim")
    if with_models:
        table.add_column("model", style="dim")
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
            f"{hit.match:.2f}",
            f"{hit.score:.3f}",
            Text(shown).append(copies, style="dim"),
            *([hit.part] if with_parts else ()),
            *([hit.model] if with_models else ()),
            f"{hit.attributes['width']}x{hit.attributes['height']}" if hit.attributes["width"] else "",
            f"{taken:%Y-%m-%d}" if isinstance(taken, datetime) else "",
            *([one_line(str(hit.attributes["text"] or ""))] if with_texts else ()),
        )
    if hits:
        Console(file=file or sys.stdout, highlight=False).print(table)


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
