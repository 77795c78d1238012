"""The map as a page: a canvas to drag and zoom, with cards for points, a search box and a list for the keyboard."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from bowerbird.flow.files import from_uri, printable
from bowerbird.judge.atlas import Atlas
from bowerbird.search.page import clean, document, embedded, escaped, resource, style_with


def atlas_page(atlas: Atlas, *, place: str) -> str:
    """Lay out a map as one self-contained HTML page.

    Args:
        atlas: what is on it.
        place: the index, as people call it.
    """
    notes = "".join(f"<li>{escaped(note)}</li>" for note in _notes(atlas))
    body = (
        f"{embedded('data', _data(atlas))}"
        '<main class="map">\n<div class="bar wrap">\n'
        '<label class="find"><span class="vh">Highlight points by name or text</span>'
        '<input id="find" type="search" placeholder="Highlight by name or text" autocomplete="off" spellcheck="false">'
        '</label>\n<div id="legend" class="legend" role="group" aria-label="What is shown"></div>\n'
        '<div class="zoom" role="group" aria-label="Zoom"><button type="button" id="out" aria-label="Zoom out">'
        '\N{MINUS SIGN}</button><button type="button" id="fit">Fit</button><button type="button" id="in" '
        'aria-label="Zoom in">+</button></div>\n</div>\n'
        '<div class="sheet wrap"><div class="stage"><canvas id="canvas" tabindex="0" role="img" '
        'aria-label="Map of the records; the list beside it holds the same"></canvas>'
        '<div id="card" class="card" hidden></div></div>\n'
        '<section class="side" aria-label="Records"><p id="count" class="sum" role="status"></p>'
        '<ol id="list" class="list" role="list"></ol></section></div>\n'
        f'<ul class="notes wrap" role="list">{notes}</ul>\n'
        '<noscript><p class="wrap">The map is drawn by a script, which does not run here.</p></noscript>\n</main>\n'
    )
    pictures = int(np.count_nonzero(~atlas.texts))
    counts = [
        f"{number:,} {what}{'' if number == 1 else 's'}"
        for number, what in ((pictures, "picture"), (len(atlas.texts) - pictures, "text"))
        if number
    ]
    return document(
        place,
        body,
        style=style_with(("bowerbird.judge", "atlas.css")),
        script=resource("bowerbird.judge", "atlas.js"),
        brand="Bowerbird map",
        subtitle=f"{' and '.join(counts)} by {atlas.model}: near to each other is what is alike",
    )


def _notes(atlas: Atlas) -> list[str]:
    if atlas.corrected:
        gap = "Pictures and texts are each centred by their mean, so that they meet; --raw leaves them apart."
    elif atlas.texts.any() and not atlas.texts.all():
        gap = "Vectors are as stored: pictures and texts lie apart by their modality gap."
    else:
        gap = ""
    return [*atlas.notes, *([gap] if gap else []), f"Drawn with {atlas.method}."]


def _data(atlas: Atlas) -> dict[str, Any]:
    """What the script reads: numbers packed, little-endian."""
    assert np.isfinite(atlas.places).all()  # a point that lies nowhere would be packed as one in a corner
    paths = [printable(from_uri(uri)) if uri else "" for uri in atlas.uris]
    folders = list(dict.fromkeys(path.rpartition("/")[0] for path in paths))
    numbers = {folder: at for at, folder in enumerate(folders)}
    colours = atlas.colours
    return {
        "places": _packed(np.rint(atlas.places * 65535), "<u2"),
        "texts": _packed(atlas.texts, "u1"),
        "owners": _packed(atlas.owners, "<u4"),
        "names": [clean(name) for name in atlas.names],
        "captions": [clean(caption) for caption in atlas.captions],
        "folders": [clean(folder) for folder in folders],
        "folder": _packed([numbers[path.rpartition("/")[0]] for path in paths], "<u4"),
        "files": [clean(path.rpartition("/")[2]) for path in paths],
        # What is no plain path, such as one that is not valid Unicode, is linked as it is stored.
        "links": {str(at): uri for at, uri in enumerate(atlas.uris) if "://" in uri},
        "pictures": {
            str(at): base64.b64encode(data).decode("ascii") for at, data in atlas.thumbnails.items()
        },
        "colours": None
        if colours is None
        else {
            "name": colours.name,
            "labels": [clean(label) for label in colours.labels],
            "scale": colours.scale,
            "values": list(colours.values),
        },
    }


def _packed(values: Any, kind: str) -> str:
    return base64.b64encode(np.asarray(values).astype(kind).tobytes()).decode("ascii")
