"""What tests of the service share: a small index of drawn pictures with captions, and a server for it."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import httpx2
from PIL import Image, ImageDraw
from tests.serve.servers import served

import bowerbird as bb
from bowerbird.serve.service import LocalService

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square")


def draw(colour: str, shape: str, *, size: int = 96, format: str = "PNG") -> bytes:
    """The bytes of a picture of a coloured shape on white."""
    image = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(image)
    box = (size // 6, size // 6, size - size // 6, size - size // 6)
    (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=colour)
    stream = io.BytesIO()
    image.save(stream, format)
    return stream.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    """The data URL of a picture file."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@pytest.fixture(scope="session")
def drawn() -> Callable[..., bytes]:
    """See `draw`."""
    return draw


@pytest.fixture(scope="session")
def index_path(tmp_path_factory: pytest.TempPathFactory, model: bb.Encoder) -> Path:
    """An index under `mini` that nobody changes: a picture for each colour and shape, with a caption and a price.

    Ids are `red-circle` and so on, and one is a text alone, of the id `notes/a b?.txt`.
    """
    folder = tmp_path_factory.mktemp("served")
    records = []
    for number, (colour, shape) in enumerate((c, s) for c in COLOURS for s in SHAPES):
        path = folder / f"{colour}-{shape}.png"
        path.write_bytes(draw(colour, shape))
        attributes = {"price": 5 * number, "brand": "acme" if number % 2 else "zenith"}
        records.append(bb.Record(path.stem, path, (f"a {colour} {shape}",), attributes))
    records.append(bb.Record("notes/a b?.txt", None, ("a note about deep sea fishing",), {"price": 1}))
    bb.Collection.from_items(records).embed(model).write(folder / "shapes.bower")
    return folder / "shapes.bower"


@pytest.fixture
def own_index(index_path: Path, tmp_path: Path) -> Path:
    """A copy of the index, to be changed."""
    return Path(shutil.copytree(index_path, tmp_path / index_path.name))


@pytest.fixture(scope="session")
def client(index_path: Path) -> Iterator[httpx2.Client]:
    """A client of a server with the index and `mini`, read-only."""
    with served(LocalService(str(index_path), ["mini"])) as client:
        yield client


@pytest.fixture
def writable(own_index: Path) -> Iterator[httpx2.Client]:
    """A client of a server with an index of its own that it may change."""
    with served(LocalService(str(own_index), ["mini"], writable=True)) as client:
        yield client
