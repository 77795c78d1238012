"""`bowerbird gap`: how far apart pictures and texts lie in an index, before and after correction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.given import JsonOption
from bowerbird.cli.screen import is_terminal, result, say

if TYPE_CHECKING:
    from bowerbird.judge.gap import Gap


@app.command()
def gap(
    index: Annotated[
        str,
        typer.Argument(
            metavar="[INDEX]",
            help="Directory of an index. Default: that of the current folder.",
            show_default=False,
        ),
    ] = "",
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="Write a page (HTML).", show_default=False),
    ] = "",
    model: Annotated[
        str, typer.Option(help="Which of the index's models. Default: the first.", show_default=False)
    ] = "",
    sample: Annotated[int, typer.Option(min=1, help="Records that are drawn, at most.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Say how far apart pictures and texts lie, as stored and with each modality centred.

    \b
    bowerbird gap photos.bower
    bowerbird gap photos.bower -o gap.html
    bowerbird gap photos.bower --model fashion-clip --json
    """
    from bowerbird.judge.gap import gap_of
    from bowerbird.search.index import Index
    from bowerbird.search.places import resolve

    opened = Index.open(resolve(index, Path.cwd()))
    found, parts = gap_of(opened, model, sample=sample, seed=seed)
    if as_json:
        result(json.dumps(found.to_json(), indent=1))
    else:
        _lines(found)
    if output:
        from bowerbird.judge.gap_page import gap_page
        from bowerbird.search.index import writable

        target = Path(output).expanduser()
        with writable(target):
            target.write_text(gap_page(found, parts, place=Path(opened.path).name), "utf-8")
        say(f"The gap is drawn in {target}.")


def _lines(found: Gap) -> None:
    from bowerbird.judge.gap import in_words
    from bowerbird.judge.gap_page import figures

    source = "query sentences, since the index holds no texts" if found.source == "bank" else "texts"
    heading = f"{found.model}, {found.output}: {found.pictures:,} pictures, {found.texts:,} {source}"
    if not is_terminal():
        result(f"model\t{found.model}")
        for name, before, after, _ in figures(found):
            result("\t".join((name, *("" if value is None else f"{value:.4f}" for value in (before, after)))))
        result(f"correction\t{found.correction}")
        return
    result(heading + (f", {found.pairs:,} together" if found.pairs else ""))
    result("")
    result(f"{'':<42}{'as stored':>10}{'centred':>10}")
    for name, before, after, why in figures(found):
        shown = "".join(" " * 10 if value is None else f"{value:>10.3f}" for value in (before, after))
        result(f"{name:<42}{shown}   {why}".rstrip())
    result("")
    for sentence in in_words(found):
        result(sentence)
    result(f"Correction in this index: {found.correction}.")
    if found.rough:
        result("There are few vectors: the figures are rough.")
