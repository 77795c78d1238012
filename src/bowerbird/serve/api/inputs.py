"""What requests give to be embedded: texts, and pictures by data URL, by address or as a prepared array."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bowerbird.errors import InputError, UnreadableError, UnsupportedInputError
from bowerbird.flow.web import WebFile, WebLimits
from bowerbird.media.policy import DecodePolicy
from bowerbird.serve.encoders import Prepared
from bowerbird.serve.limits import Limits


class Pictures:
    """Turns what requests say of pictures into bytes.

    Args:
        limits: of the service.
        fetch: whether pictures at http(s) addresses are fetched; never from addresses that are not public.
    """

    def __init__(self, limits: Limits, *, fetch: bool = False) -> None:
        self._limits = limits
        self._web = WebLimits(
            max_bytes=limits.fetch_bytes, seconds=limits.fetch_seconds, retries=0, public_only=True
        )
        self._policy = DecodePolicy(max_bytes=limits.fetch_bytes, seconds=limits.fetch_seconds)
        # Threads of their own: strangers' servers may be slow, and nothing else should wait for them.
        self._threads = ThreadPoolExecutor(max(1, limits.fetches), "bowerbird-fetch") if fetch else None

    async def read(self, source: str, had: int = 0) -> bytes:
        """The bytes of a picture that is given as a data URL, as plain base64, or by its address.

        Args:
            source: what the request says.
            had: bytes of the request's other pictures so far; all may have as many as a body.

        Raises:
            InputError: it is none of these, addresses are not fetched here, or it cannot be had.
        """
        head = source[:8].lower()
        if head.startswith("data:"):
            return of_data_url(source)
        if head.startswith(("http://", "https://")):
            return await self._fetched(source, had)
        if "://" in source[:20]:
            raise UnsupportedInputError(
                f"Pictures at {source.partition('://')[0][:20]}:// addresses are not read.",
                hint="Give a data URL (data:image/jpeg;base64,...), or upload the file.",
            )
        return of_base64(source)

    async def _fetched(self, address: str, had: int) -> bytes:
        if self._threads is None:
            raise UnsupportedInputError(
                "This service does not fetch pictures from addresses.",
                hint="Send the picture itself as a data URL, or start the service with --fetch-urls.",
            )
        file = WebFile(address, self._web)
        if had < self._limits.body_bytes:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, file.read, self._policy)
            if had + len(found) <= self._limits.body_bytes:
                return found
        raise UnsupportedInputError(
            f"The pictures of this request have more than {self._limits.body_bytes:,} bytes together.",
            hint="Send fewer at once.",
        )


def of_data_url(source: str) -> bytes:
    """What is in ``data:image/png;base64,...``.

    Raises:
        UnsupportedInputError: it is not of that form.
    """
    head, comma, data = source.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise UnsupportedInputError(
            "The data URL is not of the form data:image/...;base64,...",
            hint="Encode the bytes of the picture file as base64.",
        )
    return of_base64(data)


def of_base64(data: str) -> bytes:
    """Bytes of base64; the URL-safe alphabet and missing padding are taken too.

    Raises:
        UnsupportedInputError: it is no base64, or is empty.
    """
    tidy = data.strip().replace("-", "+").replace("_", "/")
    try:
        found = base64.b64decode(tidy + "=" * (-len(tidy) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnsupportedInputError(
            f"The picture is neither a data URL nor base64: {error}.",
            hint="Give data:image/jpeg;base64,... with the bytes of the picture file.",
        ) from None
    if not found:
        raise UnreadableError("The picture has no bytes.", hint="Send the bytes of the picture file.")
    return found


def of_tensor(shape: Sequence[int], data: str) -> Prepared:
    """An array that is ready for the network: float32, little-endian, in C order.

    Raises:
        UnsupportedInputError: the bytes do not fill the shape.
    """
    raw = of_base64(data)
    count = int(np.prod(shape, dtype=np.int64)) if all(side > 0 for side in shape) else 0
    if len(shape) != 3 or count * 4 != len(raw):
        raise UnsupportedInputError(
            f"A tensor of shape {list(shape)} does not take {len(raw)} bytes.",
            hint="Give the shape [3, height, width], and that many float32 values, little-endian, as base64.",
        )
    return Prepared(np.frombuffer(raw, "<f4").reshape(tuple(shape)).astype(np.float32, copy=False))


def check_pixels(pictures: Sequence[Any], limits: Limits) -> dict[int, InputError]:
    """Which pictures have too many pixels, by what their files say of themselves, unread: one alone, or all together.

    Args:
        pictures: of a request; those that are no bytes are passed over.
        limits: of the service.
    """
    from PIL import Image

    refused: dict[int, InputError] = {}
    total = 0
    for index, data in enumerate(pictures):
        if not isinstance(data, bytes):
            continue
        try:
            with Image.open(io.BytesIO(data)) as opened:
                pixels = opened.width * opened.height
        except Exception:  # noqa: BLE001  decoding will say what is wrong with it
            continue
        total += pixels
        if pixels > limits.pixels:
            refused[index] = UnsupportedInputError(
                f"The picture has {pixels:,} pixels, more than the {limits.pixels:,} that are taken here.",
                hint="Send a smaller one.",
            )
        elif total > limits.request_pixels:
            refused[index] = UnsupportedInputError(
                f"The pictures of this request have more than {limits.request_pixels:,} pixels together.",
                hint="Send fewer at once.",
            )
    return refused
