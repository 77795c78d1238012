"""`bowerbird demo`: the main job on photographs that come with scikit-image, with no network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.screen import result, say, seconds_

if TYPE_CHECKING:
    from bowerbird.hits import Hits

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)

QUESTIONS = (
    "a cat",
    "a cup of coffee",
    "a motorcycle in a garage",
    "a rocket on the launch pad",
    "a man with a camera on a tripod",
)

LIKE = "motorcycle_left.png"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where index and contact sheet are written.")] = Path(
        "bowerbird-demo"
    ),
) -> None:
    """Index sample photographs with the embedded model, ask a few questions, write a contact sheet.

    \b
    pip install 'bowerbird\\[demo]'
    bowerbird demo
    """
    from bowerbird.errors import MissingExtraError
    from bowerbird.search.index import Index, writable
    from bowerbird.search.query import Query
    from bowerbird.search.sheet import contact_sheet, panel_of

    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise MissingExtraError("scikit-image", "demo")
    photographs = Path(spec.origin).parent / "data"
    path = out / "photos.bower"
    index = Index.open(path) if path.exists() else Index.create(path, "mini")
    report = index.add([photographs / name for name in PHOTOGRAPHS])
    say(f"{len(index)} photographs indexed ({report.added} new) in {seconds_(report.seconds)}: {path}\n")
    panels = []
    for query in (*(Query(texts=(text,)) for text in QUESTIONS), Query(like=str(photographs / LIKE))):
        hits = index.ask(query, k=4)
        _print(str(query), hits)
        panels.append(panel_of(index, query, hits))
    sheet = out / "contact-sheet.html"
    with writable(sheet):
        page = contact_sheet(panels, title="Bowerbird demo", subtitle=f"{len(index)} photographs, model mini")
        sheet.write_text(page, "utf-8")
    say(f"\nLook at {sheet} in a browser. Then try your own:  bowerbird index ~/Pictures")


def _print(question: str, hits: Hits) -> None:
    result(question)
    for hit in hits:
        result(f"  {hit.match:6.2f}  {hit.attributes['name']}")
