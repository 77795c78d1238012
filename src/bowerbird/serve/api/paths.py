"""Ids in paths: any character may be in them, percent-encoded."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request

from bowerbird.serve.api.errors import ApiError

__all__ = ["ID", "id_of", "is_image", "not_found"]

ID: dict[str, Any] = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "Of the record, percent-encoded: `/` as `%2F`.",
    "schema": {"type": "string", "minLength": 1},
}

_RECORDS = b"/v1/records/"
_IMAGE = b"/image"


class _Anything(Convertor[str]):
    """`{id:anything}`: as Starlette's `path`, and line ends as well."""

    regex = r"[\s\S]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())


def id_of(request: Request) -> str:
    """The id in a path below `/v1/records`, of what was sent rather than of what it was decoded to: so a slash of the
    id, and one of the path, are told apart.

    Raises:
        ApiError: it is no UTF-8.
    """
    raw = _raw(request)
    if is_image(request):
        raw = raw[: -len(_IMAGE)]
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise ApiError(400, "The id is no UTF-8.", code="invalid_value", param="id") from None


def is_image(request: Request) -> bool:
    """Whether a path below `/v1/records` is that of a picture, rather than of a record that is called so."""
    raw = _raw(request)
    return raw.endswith(_IMAGE) and len(raw) > len(_IMAGE) and request.method in ("GET", "HEAD")


def not_found(id_: str) -> ApiError:
    """The error of an id that no record has."""
    return ApiError(404, f"There is no record {id_[:200]!r}.", code="record_not_found", param="id")


def _raw(request: Request) -> bytes:
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return raw.partition(b"?")[0].partition(_RECORDS)[2]
