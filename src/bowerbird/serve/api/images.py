"""`GET /v1/records/{id}/image`: the pictures of indexed records, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from fastapi import Query as Parameter
from starlette.requests import Request
from starlette.responses import Response

from bowerbird.errors import InputError
from bowerbird.media.sniff import sniff
from bowerbird.record import content_id
from bowerbird.serve.api.document import Answers, Routes
from bowerbird.serve.api.errors import ApiError
from bowerbird.serve.api.paths import ID, id_of, is_image, not_found
from bowerbird.serve.service import Service

__all__ = ["MEDIA_TYPES", "image_route"]

MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "BMP": "image/bmp",
    "DIB": "image/bmp",
    "TIFF": "image/tiff",
    "JPEG2000": "image/jp2",
    "HEIF": "image/heic",
    "PPM": "image/x-portable-anymap",
    "TGA": "image/x-tga",
    "ICO": "image/x-icon",
    "PSD": "image/vnd.adobe.photoshop",
}
"""By Pillow's name of a format. What is none of these is not sent."""

FRESH_SECONDS = 300
"""For so long nobody asks again."""


def image_route(to: Routes, service: Service, record_get: Callable[[Request], Awaitable[Response]]) -> None:
    """Add it.

    Args:
        to: the application.
        service: that answers.
        record_get: answers for a record whose id ends as the path of a picture does.
    """

    async def record_image(
        request: Request,
        size: Annotated[
            Literal["thumbnail", "320", "480", "640", "960", "1280", "1920", "original"],
            Parameter(
                description="A JPEG of at most 224 pixels a side, or of at most so many, of the original where "
                "that can be read, else the thumbnail; or the picture as it was indexed."
            ),
        ] = "thumbnail",
    ) -> Response:
        """The picture of a record. Of which kind it is, is told from its bytes; what is no picture is never sent.

        `original` reads the picture where it was indexed; there is none of records that were added over HTTP.
        """
        if not is_image(request):
            return await record_get(request)
        id_ = id_of(request)
        data = await _picture(service, id_, size)
        if not data:
            raise await _nothing(service, id_, size)
        return _sent(request, data)

    to.add(
        "GET",
        "/v1/records/{id:anything}/image",
        record_image,
        "record_image",
        summary="Show the picture of a record",
        tag="Records",
        parameters=[ID],
        answers=Answers(
            None,
            "The picture.",
            (404,),
            content={
                kind: {"type": "string", "format": "binary"}
                for kind in ("image/jpeg", "image/png", "image/webp", "image/*")
            },
            more={304: {"description": "It has not changed since (`If-None-Match`)."}},
        ),
    )


async def _picture(service: Service, id_: str, size: str) -> bytes | None:
    if size == "thumbnail":
        return await service.thumbnail(id_)
    return await (_original(service, id_) if size == "original" else service.preview(id_, int(size)))


async def _original(service: Service, id_: str) -> bytes | None:
    try:
        return await service.original(id_)
    except InputError as error:
        raise ApiError(404, str(error), code="picture_not_found", param="id") from None


async def _nothing(service: Service, id_: str, size: str) -> ApiError:
    if await service.record(id_) is None:
        return not_found(id_)
    hint = " Ask for the thumbnail." if size == "original" else ""
    return ApiError(
        404, f"The record {id_[:200]!r} has no such picture.{hint}", code="picture_not_found", param="id"
    )


def _sent(request: Request, data: bytes) -> Response:
    kind = MEDIA_TYPES.get(sniff(data).format)
    if kind is None:
        raise ApiError(404, "What is there is no picture.", code="picture_not_found", param="id")
    tag = f'"{content_id(data)}"'
    headers = {
        "ETag": tag,
        "Cache-Control": f"private, max-age={FRESH_SECONDS}",
        "Content-Disposition": "inline",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or tag in (one.strip().removeprefix("W/") for one in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=kind)
