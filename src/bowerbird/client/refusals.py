"""What a service refuses, as the same errors that the library raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bowerbird.errors import (
    BowerbirdError,
    DecodeError,
    IndexBusyError,
    IndexNotFoundError,
    IndexReadOnlyError,
    InputError,
    InputErrors,
    ModelFetchError,
    ModelNotFoundError,
    QueryError,
    ServiceError,
    StorageFullError,
    StoreError,
    UnreadableError,
    UnsupportedInputError,
)

__all__ = ["input_error", "refusal"]

_INPUT: Mapping[str, type[InputError]] = {
    "undecodable_input": DecodeError,
    "unreadable_input": UnreadableError,
    "unsupported_input": UnsupportedInputError,
    "invalid_input": InputError,
}

_CODES: Mapping[str, type[BowerbirdError]] = {
    **_INPUT,
    "model_not_found": ModelNotFoundError,
    "model_unavailable": ModelFetchError,
    "invalid_query": QueryError,
    "read_only": IndexReadOnlyError,
    "storage_full": StorageFullError,
    "index_busy": IndexBusyError,
    "index_unavailable": StoreError,
    "no_index": IndexNotFoundError,
}
"""What services call their errors; of the others `ServiceError` tells."""


def input_error(said: Mapping[str, Any]) -> InputError:
    """What is said of one input, as an error."""
    kind = _INPUT.get(str(said.get("code")), InputError)
    return kind(str(said.get("message") or "The service gave no reason."))


def refusal(status: int, said: Mapping[str, Any], request_id: str, content: bytes) -> BowerbirdError:
    """The error of a whole answer. One of the library's own has a `ServiceError` as its cause.

    Args:
        status: of HTTP.
        said: the object under `error`.
        request_id: of the request.
        content: the body, for where nothing is said.
    """
    code = str(said.get("code") or "")
    message = str(said.get("message") or "") or _unsaid(status, content)
    told = ServiceError(message, status=status, code=code, request_id=request_id)
    several = said.get("errors")
    if isinstance(several, list) and several and code in _INPUT:
        errors = {int(one["index"]): input_error(one) for one in several}
        found: BowerbirdError = InputErrors(errors, len(errors))
    elif code in _CODES:
        found = _CODES[code](message)
    else:
        return told
    found.__cause__ = told
    return found


def _unsaid(status: int, content: bytes) -> str:
    shown = " ".join(content[:200].decode("utf-8", "replace").split())
    return f"The service answered with HTTP {status}{f': {shown}' if shown else ''}."
