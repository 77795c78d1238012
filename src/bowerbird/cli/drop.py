"""`bowerbird drop-model`: take a model out of an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.screen import IndexOption, say


@app.command("drop-model")
def drop_model(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="As `bowerbird info` names it, or its space.")
    ],
    index: IndexOption = "",
) -> None:
    """Take a model out of an index of several, with its vectors. Records and other models stay.

    \b
    bowerbird drop-model all-MiniLM-L6-v2
    bowerbird drop-model fashion-clip --index goods.bower
    """
    from bowerbird.search.index import Index
    from bowerbird.search.places import resolve

    opened = Index.open(resolve(index, Path.cwd(), model))
    gone = opened.drop_model(model)
    left = ", ".join(entry.name for entry in opened.manifest.models)
    say(f"Dropped {gone.name} (space {gone.space}); {left} {'stays' if ',' not in left else 'stay'}.")
