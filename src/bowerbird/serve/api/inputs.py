"""What requests give to be embedded: texts, and pictures by data URL, by address or as a prepared array."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import numpy as np

from bowerbird.errors import InputError, UnreadableError, UnsupportedInputError
from bowerbird.flow.web import WebFile, WebLimits
from bowerbird.media.policy import DecodePolicy
from bowerbird.serve.api.memory import Account
from bowerbird.serve.api.schemas import Tensor
from bowerbird.serve.encoders import Prepared
from bowerbird.serve.limits import Limits

P = ParamSpec("P")
T = TypeVar("T")


LARGE = 1 << 20
"""Characters of base64 that are decoded at once; of more, others would notice."""

SLICE = 1 << 18
"""Characters that are decoded in one step, whose length is a multiple of 4: between two, other threads may go on."""

AT_ONCE = 4
"""Pictures at addresses that are fetched at once for one request, so that none has all threads to itself."""


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

    async def read(
        self, sources: Mapping[int, str], account: Account
    ) -> tuple[dict[int, bytes], dict[int, InputError]]:
        """The bytes of a request's pictures; and why others cannot be had.

        Args:
            sources: by index, what the request says: a data URL, plain base64, or an address. All that is fetched may
                have as many bytes as a body.
            account: of the request; what is fetched is counted there.

        Raises:
            ApiError: 503, all requests together hold more than they may.
        """
        away = {index: source for index, source in sources.items() if _is_address(source)}
        here = {index: source for index, source in sources.items() if index not in away}
        found, refused = await beside(sum(map(len, here.values())), _decoded, here)
        if away:
            fetching = _Fetching(self._fetched, self._limits, account, sum(map(len, found.values())))
            await fetching.all(away)
            found.update(fetching.found)
            refused.update(fetching.refused)
        return found, refused

    async def _fetched(self, address: str) -> bytes:
        if self._threads is None:
            raise UnsupportedInputError(
                "This service does not fetch pictures from addresses.",
                hint="Send the picture itself as a data URL, or start the service with --fetch-urls.",
            )
        file = WebFile(address, self._web)
        return await asyncio.get_running_loop().run_in_executor(self._threads, file.read, self._policy)


class _Fetching:
    """The pictures of one request that are at addresses, a few at a time."""

    def __init__(
        self, fetched: Callable[[str], Awaitable[bytes]], limits: Limits, account: Account, had: int
    ) -> None:
        self._fetched = fetched
        self._most = limits.body_bytes
        self._account = account
        self._had = had
        self.found: dict[int, bytes] = {}
        self.refused: dict[int, InputError] = {}

    async def all(self, addresses: Mapping[int, str]) -> None:
        left = iter(addresses.items())
        tasks = [asyncio.ensure_future(self._some(left)) for _ in range(min(AT_ONCE, len(addresses)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _some(self, left: Iterator[tuple[int, str]]) -> None:
        for index, address in left:
            try:
                self.found[index] = await self._one(address)
            except InputError as error:
                self.refused[index] = error

    async def _one(self, address: str) -> bytes:
        self._account.check()
        if self._had < self._most:
            data = await self._fetched(address)
            if self._had + len(data) <= self._most:
                self._had += len(data)
                self._account.hold(len(data))
                return data
        raise UnsupportedInputError(
            f"The pictures of this request have more than {self._most:,} bytes together.",
            hint="Send fewer at once.",
        )


async def beside(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function gives, which decodes so many characters: beside the loop where that takes a while."""
    return await asyncio.to_thread(function, *args, **kwargs) if size > LARGE else function(*args, **kwargs)


def _is_address(source: str) -> bool:
    return source[:8].lower().startswith(("http://", "https://"))


def _decoded(sources: Mapping[int, str]) -> tuple[dict[int, bytes], dict[int, InputError]]:
    found: dict[int, bytes] = {}
    refused: dict[int, InputError] = {}
    for index, source in sources.items():
        try:
            found[index] = _of_text(source)
        except InputError as error:
            refused[index] = error
    return found, refused


def _of_text(source: str) -> bytes:
    if source[:5].lower() == "data:":
        return of_data_url(source)
    if "://" in source[:20]:
        raise UnsupportedInputError(
            f"Pictures at {source.partition('://')[0][:20]}:// addresses are not read.",
            hint="Give a data URL (data:image/jpeg;base64,...), or upload the file.",
        )
    return of_base64(source)


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
    tidy = data.strip().rstrip("=")
    tidy += "=" * (-len(tidy) % 4)
    try:
        if 0 <= tidy.find("=") < len(tidy) - 2:
            raise ValueError("padding before its end")
        found = b"".join(
            base64.b64decode(tidy[start : start + SLICE].replace("-", "+").replace("_", "/"), validate=True)
            for start in range(0, len(tidy), SLICE)
        )
    except (binascii.Error, ValueError) as error:
        raise UnsupportedInputError(
            f"The picture is neither a data URL nor base64: {error}.",
            hint="Give data:image/jpeg;base64,... with the bytes of the picture file.",
        ) from None
    if not found:
        raise UnreadableError("The picture has no bytes.", hint="Send the bytes of the picture file.")
    return found


def of_tensors(tensors: Mapping[int, Tensor]) -> tuple[dict[int, Prepared], dict[int, InputError]]:
    """By index, arrays that are ready for the network; and why others are not."""
    found: dict[int, Prepared] = {}
    refused: dict[int, InputError] = {}
    for index, one in tensors.items():
        try:
            found[index] = of_tensor(one.shape, one.data)
        except InputError as error:
            refused[index] = error
    return found, refused


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
