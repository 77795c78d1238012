"""Pictures as what travels: the bytes of a picture file, or an array that is ready for the network."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.errors import DecodeError, InputError, UnsupportedInputError
from bowerbird.media.policy import DecodePolicy
from bowerbird.media.reading import one_line, read_bytes
from bowerbird.models.encoder import clean

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["data_url", "item", "picture_bytes"]

_PNG_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})
"""Of Pillow, that a PNG holds as they are."""


def item(value: Any, *, ready: bool = False) -> dict[str, Any] | str:
    """One input of `POST /v1/embeddings`.

    Args:
        value: a `str` is a text; a picture is whatever `Encoder.embed` takes.
        ready: arrays of floats are prepared for the network, as with `preprocess="none"`.

    Raises:
        InputError: it cannot be read, or is no input.
    """
    if isinstance(value, str):
        return clean(value)
    if ready:
        array = np.asarray(value)
        if array.ndim != 3 or array.dtype.kind != "f":
            raise UnsupportedInputError(
                f"An array of {array.dtype} with shape {array.shape} is not ready for the network.",
                hint="With preprocess='none', give float32 arrays (3, height, width).",
            )
        data = base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode("ascii")
        return {"type": "tensor", "tensor": {"shape": list(array.shape), "data": data}}
    return {"type": "image", "image": data_url(picture_bytes(value))}


def data_url(data: bytes) -> str:
    """The bytes of a picture file in JSON; what format they are of, the service finds out by itself."""
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode("ascii")


def picture_bytes(value: Any) -> bytes:
    """A picture as a file. Files go as they are; images and arrays as PNG, which loses nothing.

    Args:
        value: a `Path`, the bytes of a picture file, a Pillow image, a uint8 array, or what can be read.

    Raises:
        InputError: it cannot be read, or is no picture.
    """
    from PIL import Image

    if isinstance(value, bytes):
        return value
    if isinstance(value, Path):
        return read_bytes(value, DecodePolicy())
    if isinstance(value, Image.Image):
        return _png(value)
    if hasattr(value, "__array__"):
        from bowerbird.media.image import from_array

        array = np.asarray(value)
        from_array(array, "The array")
        return _png(Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array))
    if hasattr(value, "read"):  # what records are made from; see `bowerbird.media.reading.Readable`
        found: bytes = value.read(DecodePolicy())
        return found
    raise UnsupportedInputError(
        f"A {type(value).__name__} is no input.",
        hint="Give a text, a Path, the bytes of a picture file, a Pillow image, or a uint8 array (h, w, 3).",
    )


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    try:
        image.load()
        kept = image
        if image.mode not in _PNG_MODES:
            from bowerbird.media.image import from_pillow

            kept = from_pillow(image, DecodePolicy(), "The image").image
        # How it is turned is the service's to see, as with a file. Little is gained by pressing harder.
        kept.save(stream, "PNG", compress_level=1, exif=kept.getexif())
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001  a lazy image is decoded here, where Pillow raises what it likes
        raise DecodeError(
            f"The image cannot be taken: {one_line(error, 300) or type(error).__name__}."
        ) from None
    return stream.getvalue()
