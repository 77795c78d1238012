"""Lance's errors become ours: it has few types of error, so they are told apart by signs in their texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bowerbird.errors import BowerbirdError, IndexDamagedError, IndexReadOnlyError, QueryError, StoreError
from bowerbird.flow.remote import is_remote
from bowerbird.store.location import refusal


@contextmanager
def translated(path: str | Path, where: str = "") -> Iterator[None]:
    """Turn Lance's errors into ours.

    Args:
        path: of the table.
        where: a filter, as Lance was given it; what fails beside damage is then the filter's fault.
    """
    try:
        yield
    except BowerbirdError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise _translate(error, path, where) from error
    except BaseException as error:
        # A panic of the Rust side arrives as pyo3_runtime.PanicException, a BaseException.
        if type(error).__name__ == "PanicException":
            raise _translate(error, path, where) from error
        raise


_DAMAGE = (
    "LanceError(IO)",
    "Not found:",
    "was not found",
    "does not appear to be a Lance file",
    "metadata region",
    "is not aligned",
    "Protobuf",
)
# A defect of the caller: nobody may be told to delete an index because of it.
_ASKED_WRONGLY = ("Schema error", "FieldNotFound", "does not exist in schema", "already exists")


PLACE_IN_LANCE = re.compile(r",? ?\S+\.rs:\d+:\d+")


_NO_BUCKET = "NoSuchBucket"
_FORBIDDEN = re.compile(
    r"\b403 Forbidden|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|PermissionDenied"
)
_READING = re.compile(r"Error performing (GET|HEAD|list)", re.IGNORECASE)
_UNREACHABLE = re.compile(r"error sending request|HTTP error|retry_timeout|operation timed out|dns error")
_NO_CREDENTIALS = re.compile(r"credentials", re.IGNORECASE)


def _translate(error: BaseException, place: str | Path, where: str) -> StoreError | QueryError:
    # Lance ends its messages with the place in its own source.
    text = PLACE_IN_LANCE.sub("", " ".join(str(error).split()))[:600].rstrip(". ") + "."
    refused = refusal(error, place, text) or (_refusal_of_a_store(place, text) if is_remote(place) else None)
    if refused:
        return refused
    text = text if len(text) <= 300 else f"{text[:299]}…"
    damaged = any(sign in text for sign in _DAMAGE)
    if where and not damaged:
        return QueryError(
            f"Lance cannot answer the filter {where!r}: {text}",
            hint="`bowerbird info` lists the columns and what they hold.",
            param="where",
        )
    index = str(place).rpartition("/")[0]
    if not damaged and any(sign in text for sign in _ASKED_WRONGLY):
        return StoreError(f"The index at {index} cannot do that: {text}")
    return IndexDamagedError(
        f"The index at {index} cannot be read: {text}",
        hint="If it happens again, delete that directory and index the folder anew.",
    )


def _refusal_of_a_store(place: str | Path, text: str) -> StoreError | None:
    """The error for an object store that is not there or says no: nothing of the index is damaged."""
    if _NO_BUCKET in text:
        return StoreError(
            f"{place} lies in a bucket that does not exist.", hint="Check the name of the bucket."
        )
    if _FORBIDDEN.search(text):
        kind = StoreError if _READING.search(text) else IndexReadOnlyError
        return kind(
            f"{place} may not be used: the store refused access.",
            hint="Check the credentials, and what they are allowed to do.",
        )
    if _NO_CREDENTIALS.search(text):
        return StoreError(
            f"{place} cannot be asked for: there are no credentials.",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
        )
    if _UNREACHABLE.search(text):
        return StoreError(
            f"{place} cannot be reached.", hint="Check the network and the endpoint (AWS_ENDPOINT_URL)."
        )
    return None
