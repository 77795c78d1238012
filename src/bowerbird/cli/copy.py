"""`bowerbird copy`: the same index in another store."""

from __future__ import annotations

from typing import Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.screen import Display, say


@app.command()
def copy(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="Directory or address of an index.", show_default=False)
    ],
    target: Annotated[
        str, typer.Argument(metavar="TO", help="Directory or address where none is.", show_default=False)
    ],
) -> None:
    """Copy an index to another place or store. Searches give the same results there.

    \b
    bowerbird copy photos.bower s3://bucket/photos.bower
    bowerbird copy photos.bower "postgresql://me@localhost/photos?table=holidays"
    bowerbird copy "postgresql://me@localhost/photos?table=holidays" again.bower

    No picture is read and nothing embedded. A copy that was interrupted goes on when the same command is given again.
    """
    from bowerbird.search.copying import copy_index
    from bowerbird.store.location import Location

    with Display("copying") as display:
        count = copy_index(source, target, progress=display)
    say(f"{count:,} {'record' if count == 1 else 'records'} copied to {Location.of(target)}")
