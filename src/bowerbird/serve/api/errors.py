"""Errors as OpenAI's clients know them: a status, and ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

from bowerbird.errors import (
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
from bowerbird.serve.encoders import TooManyTokensError
from bowerbird.serve.models import ModelInUseError
from bowerbird.serve.service import NoIndexError, NotServedError, ReadOnlyError

__all__ = ["ApiError", "error_of", "plain", "response_of", "told"]

_LOG = logging.getLogger("bowerbird.serve")


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
        hidden: what happened, where the message does not say it; for the log alone.
    """

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str = ""
    param: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    hidden: BaseException | None = None

    def __str__(self) -> str:
        return self.message


_STATUS: tuple[tuple[type[BaseException], int, str, str, str], ...] = (
    (NoIndexError, 404, "invalid_request_error", "no_index", ""),
    (ReadOnlyError, 403, "invalid_request_error", "read_only", ""),
    (NotServedError, 403, "invalid_request_error", "not_served", ""),
    (ModelNotFoundError, 404, "invalid_request_error", "model_not_found", ""),
    (ModelInUseError, 409, "invalid_request_error", "model_in_use", ""),
    (ModelFetchError, 503, "server_error", "model_unavailable", "The model cannot be had at the moment."),
    (QueryError, 400, "invalid_request_error", "invalid_query", ""),
    (ScaleError, 400, "invalid_request_error", "invalid_query", ""),
    (UnreadableError, 400, "invalid_request_error", "unreadable_input", ""),
    (DecodeError, 400, "invalid_request_error", "undecodable_input", ""),
    (TooManyTokensError, 400, "invalid_request_error", "too_many_tokens", ""),
    (UnsupportedInputError, 400, "invalid_request_error", "unsupported_input", ""),
    (InputError, 400, "invalid_request_error", "invalid_input", ""),
    (IndexReadOnlyError, 403, "invalid_request_error", "read_only", "The index cannot be changed."),
    (StorageFullError, 507, "server_error", "storage_full", "No space is left where the index lies."),
    (IndexBusyError, 503, "server_error", "index_busy", "Another process is writing to the index."),
    (StoreError, 503, "server_error", "index_unavailable", "The index cannot be used at the moment."),
    (MissingExtraError, 501, "server_error", "not_installed", ""),
    (LearnError, 400, "invalid_request_error", "", ""),
    (Exception, 500, "server_error", "internal", "Something went wrong here."),
)
"""The first row whose class fits, and what is said in the place of the error's own words, which may name paths of the
server; empty: its own. What is only listed as an `Exception` is a defect."""

_WAIT: dict[str, str] = {"index_busy": "5"}
"""By code, after how many seconds to come back."""


def error_of(error: BaseException, param: str = "") -> ApiError:
    """What a client is told of an error of the library."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        wait = {"Retry-After": str(max(1, round(error.seconds)))}
        code = "stopping" if error.stopping else "overloaded"
        return ApiError(503, str(error), "server_error", code, headers=wait)
    if isinstance(error, TimeoutError):
        return ApiError(504, "The request took too long and was given up.", "server_error", "timeout")
    _, status, kind, code, said = next(row for row in _STATUS if isinstance(error, row[0]))
    found = ApiError(status, said or str(error), kind, code, getattr(error, "param", "") or param)
    if code in _WAIT:
        found.headers = {"Retry-After": _WAIT[code]}
    found.hidden = error if said else None
    return found


def told(error: BaseException, request_id: str, *, log: bool = True) -> ApiError:
    """What a client is told of an error that ended its request; what it is not told, the log has.

    Args:
        error: any.
        request_id: that both know the request by.
        log: whether to write it there; else somebody else does.
    """
    found = error_of(error)
    if (hidden := found.hidden) is not None:
        if log and found.status == 500:
            _LOG.error("Request %s failed.", request_id, exc_info=hidden)
        elif log:
            _LOG.warning("Request %s failed: %s", request_id, hidden)
        found.message += f" The log of the service has the details, under the request id {request_id}."
        found.hidden = None
    return found


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
