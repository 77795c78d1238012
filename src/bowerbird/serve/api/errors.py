"""Errors as OpenAI's clients know them: a status, and ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

from bowerbird.errors import (
    BowerbirdError,
    DecodeError,
    IndexBusyError,
    IndexReadOnlyError,
    InputError,
    LearnError,
    MissingExtraError,
    ModelFetchError,
    ModelNotFoundError,
    QueryError,
    ScaleError,
    StorageFullError,
    StoreError,
    UnreadableError,
    UnsupportedInputError,
)
from bowerbird.serve.batching import BusyError
from bowerbird.serve.models import ModelInUseError
from bowerbird.serve.service import NoIndexError, NotServedError

__all__ = ["ApiError", "error_of", "plain", "response_of"]


@dataclass
class ApiError(Exception):
    """What a client is told.

    Attributes:
        status: of HTTP.
        message: for people, with what to do about it.
        kind: OpenAI's `type`.
        code: for programs; empty: none.
        param: which part of the request is meant, such as `input.3`; empty: none.
        headers: further ones, such as `Retry-After`.
        errors: of several inputs, what was wrong with each, by index.
    """

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str = ""
    param: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


_STATUS: tuple[tuple[type[BaseException], int, str, str], ...] = (
    (NoIndexError, 404, "invalid_request_error", "no_index"),
    (NotServedError, 403, "invalid_request_error", "not_served"),
    (ModelNotFoundError, 404, "invalid_request_error", "model_not_found"),
    (ModelInUseError, 409, "invalid_request_error", "model_in_use"),
    (ModelFetchError, 503, "server_error", "model_unavailable"),
    (QueryError, 400, "invalid_request_error", "invalid_query"),
    (ScaleError, 400, "invalid_request_error", "invalid_query"),
    (UnreadableError, 400, "invalid_request_error", "unreadable_input"),
    (DecodeError, 400, "invalid_request_error", "undecodable_input"),
    (UnsupportedInputError, 400, "invalid_request_error", "unsupported_input"),
    (InputError, 400, "invalid_request_error", "invalid_input"),
    (IndexReadOnlyError, 403, "invalid_request_error", "read_only"),
    (StorageFullError, 507, "server_error", "storage_full"),
    (StoreError, 503, "server_error", "index_unavailable"),
    (MissingExtraError, 501, "server_error", "not_installed"),
    (LearnError, 400, "invalid_request_error", ""),
    (BowerbirdError, 500, "server_error", ""),
)
"""The first row whose class fits; what `error_of` does not list here is a defect."""


def error_of(error: BaseException, param: str = "") -> ApiError:
    """What a client is told of an error of the library."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        wait = {"Retry-After": str(max(1, round(error.seconds)))}
        code = "stopping" if error.stopping else "overloaded"
        return ApiError(503, str(error), "server_error", code, headers=wait)
    if isinstance(error, IndexBusyError):
        return ApiError(503, str(error), "server_error", "index_busy", headers={"Retry-After": "5"})
    if isinstance(error, TimeoutError):
        return ApiError(504, "The request took too long and was given up.", "server_error", "timeout")
    for kind, status, type_, code in _STATUS:
        if isinstance(error, kind):
            return ApiError(status, str(error), type_, code, getattr(error, "param", "") or param)
    return ApiError(500, "Something went wrong here; the log has the details.", "server_error", "internal")


def plain(error: ApiError) -> dict[str, Any]:
    """The inner object of the answer."""
    found: dict[str, Any] = {
        "message": error.message,
        "type": error.kind,
        "param": error.param or None,
        "code": error.code or None,
    }
    if error.errors:
        found["errors"] = [{"index": index, **one} for index, one in sorted(error.errors.items())]
    return found


def response_of(error: ApiError) -> Response:
    """The whole answer."""
    return Response(
        orjson.dumps({"error": plain(error)}),
        error.status,
        headers=dict(error.headers),
        media_type="application/json",
    )
