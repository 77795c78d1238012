"""Pictures of records in the size that is asked for: made from the originals, and kept within bounds."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import httpx2
import pytest

pytest.importorskip("fastapi")

from PIL import Image
from tests.serve.servers import served

import bowerbird as bb
from bowerbird.media.policy import DecodePolicy
from bowerbird.serve.previews import SIDES, Previews, preview
from bowerbird.serve.service import LocalService


@pytest.fixture(scope="module")
def photograph() -> bytes:
    """2400 x 1600 as it is stored, upright 1600 x 2400, with the date that it was taken on."""
    image = Image.linear_gradient("L").resize((2400, 1600)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x0132] = 6, "2024:05:31 12:00:00"
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    return stream.getvalue()


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory,
    model: bb.Encoder,
    photograph: bytes,
    drawn: Callable[..., bytes],
) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("previews")
    for name, data in (
        ("large.jpg", photograph),
        ("small.png", drawn("red", "circle")),
        ("gone.jpg", photograph + b"and more"),
    ):
        (folder / name).write_bytes(data)
    records = [bb.Record(path.stem, path) for path in sorted(folder.iterdir())]
    records.append(bb.Record("words", None, ("only words",)))
    bb.Collection.from_items(records).embed(model).write(folder / "index.bower")
    (folder / "gone.jpg").unlink()
    with served(LocalService(str(folder / "index.bower"))) as client:
        yield client


def shown(client: httpx2.Client, id_: str, size: int | str) -> Image.Image:
    answer = client.get(f"/v1/records/{id_}/image", params={"size": size})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    image = Image.open(io.BytesIO(answer.content))
    assert not image.getexif(), "what the file tells of its making is nobody's business"
    return image


@pytest.mark.parametrize("side", SIDES)
def test_the_long_side_is_what_was_asked_for(client: httpx2.Client, side: int) -> None:
    image = shown(client, "large", side)
    assert (image.height, abs(image.width - side / 1.5) <= 1) == (side, True)


def test_a_small_picture_is_not_enlarged(client: httpx2.Client, drawn: Callable[..., bytes]) -> None:
    original = Image.open(io.BytesIO(drawn("red", "circle")))
    assert shown(client, "small", 1920).size == original.size


def test_without_the_original_there_is_the_thumbnail(client: httpx2.Client) -> None:
    assert max(shown(client, "gone", 640).size) == max(shown(client, "gone", "thumbnail").size) <= 224


def test_what_cannot_be_shown(client: httpx2.Client) -> None:
    for id_ in ("words", "nobody"):
        assert client.get(f"/v1/records/{id_}/image", params={"size": "640"}).status_code == 404
    for size in ("641", "0", "99999", "-320", "large"):
        answer = client.get("/v1/records/large/image", params={"size": size})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "size"


def test_they_are_made_once_and_kept_within_bounds() -> None:
    made: list[str] = []
    kept = Previews(most=250)

    def get(content: str) -> bytes | None:
        return kept.get(content, 320, lambda: made.append(content) or b"x" * 100)

    for content in ("a", "b", "a", "c", "a", "b"):
        assert get(content) == b"x" * 100
    assert made == ["a", "b", "c", "b"], "the one that was not looked at for longest went"
    assert kept.get("d", 320, lambda: None) is None


def test_what_is_no_picture_has_none() -> None:
    assert preview(b"no picture", 320, DecodePolicy()) is None
