"""`bowerbird map`: every record of an index as a point."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.screen import result, say


@app.command("map")
def map_(
    index: Annotated[
        str,
        typer.Argument(
            metavar="[INDEX]",
            help="Directory of an index. Default: that of the current folder.",
            show_default=False,
        ),
    ] = "",
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where the page (HTML) is written.")
    ] = "map.html",
    model: Annotated[
        str, typer.Option(help="Which of the index's models. Default: the first.", show_default=False)
    ] = "",
    colour: Annotated[
        str,
        typer.Option(metavar="ATTRIBUTE", help="Colour points by this, such as brand.", show_default=False),
    ] = "",
    raw: Annotated[bool, typer.Option("--raw", help="Leave the modality gap as it is.")] = False,
    points: Annotated[int, typer.Option(min=1, help="How many points, at most.")] = 50_000,
    thumbnails: Annotated[int, typer.Option(min=0, help="Pictures that can be seen, at most.")] = 2000,
    method: Annotated[str, typer.Option(help="umap, pca, or auto: umap where it is installed.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of every choice.")] = 0,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Draw a map: every picture and text a point, near to what is like it. One file that needs nothing else.

    \b
    bowerbird map photos.bower -o map.html
    bowerbird map photos.bower --colour brand --open
    bowerbird map photos.bower --raw --thumbnails 500
    """
    from bowerbird.judge.atlas import atlas
    from bowerbird.judge.atlas_page import atlas_page
    from bowerbird.search.index import Index, writable
    from bowerbird.search.places import resolve

    opened = Index.open(resolve(index, Path.cwd()))
    drawn = atlas(
        opened,
        model=model,
        colour=colour,
        raw=raw,
        points=points,
        thumbnails=thumbnails,
        method=method,
        seed=seed,
    )
    for note in drawn.notes:
        say(note)
    state = "centred by modality" if drawn.corrected else "vectors as stored"
    say(f"{drawn.model}, drawn with {drawn.method}; {state}.")
    target = Path(output).expanduser()
    with writable(target):
        target.write_text(atlas_page(drawn, place=Path(opened.path).name), "utf-8")
    result(str(target))
    if open_:
        import webbrowser

        webbrowser.open(target.absolute().as_uri())
