"""`bowerbird attention`: where in a picture a model finds something."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.screen import is_terminal, result, say


@app.command()
def attention(
    model: Annotated[
        str, typer.Argument(help="Directory or name of a model that takes pictures.", show_default=False)
    ],
    picture: Annotated[str, typer.Argument(help="A picture file.", show_default=False)],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where it is drawn (.png, .jpg, .webp), or .npy."
        ),
    ] = "heat.png",
    text: Annotated[
        str,
        typer.Option(help="What to look for. Default: what sets the picture apart.", show_default=False),
    ] = "",
    method: Annotated[
        str,
        typer.Option(
            help="occlusion, for any network; places and gradient, of its last map of features; rollout, of a "
            "transformer's attention.",
        ),
    ] = "occlusion",
) -> None:
    """Draw where in a picture a model finds what it is asked for.

    \b
    bowerbird attention my-model/ picture.jpg -o heat.png
    bowerbird attention mini cat.jpg --text "a cat"
    bowerbird attention clip-vit-base-patch32 cat.jpg --method rollout
    """
    from bowerbird.learn.attention import attention as heat_of
    from bowerbird.models.encoder import load

    # Differences between places are small: bf16 would blur them.
    found = heat_of(load(model, precision="exact"), Path(picture).expanduser(), text=text, method=method)
    found.save(output)
    x, y = found.strongest
    across, down = 100 * x / found.picture.width, 100 * y / found.picture.height
    if is_terminal():
        result(f"Strongest at {x:.0f}, {y:.0f}: {across:.0f} % across, {down:.0f} % down.")
        result("Hotter than half of that: from {}, {} to {}, {}.".format(*found.half()))
        if math.isfinite(found.score):
            result(f"Cosine of the whole picture: {found.score:.3f}")
    else:
        result(f"strongest\t{x:.0f}\t{y:.0f}")
        result("half\t" + "\t".join(map(str, found.half())))
        if math.isfinite(found.score):
            result(f"cosine\t{found.score:.4f}")
    say(f"Heat map: {output}")
