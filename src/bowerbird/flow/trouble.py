"""What the failure of a call to an object store means, in words; one place for all client libraries."""

from __future__ import annotations

from typing import NamedTuple

from bowerbird.errors import UnreadableError
from bowerbird.media.reading import one_line


class Trouble(NamedTuple):
    """Why a store did not do what it was asked.

    Attributes:
        kind: `missing`, `bucket`, `forbidden`, `credentials`, `timeout`, `unreachable` or `other`.
        said: the end of a sentence that begins with an address.
        hint: what to do.
    """

    kind: str
    said: str
    hint: str


_SAID = {
    "bucket": ("lies in a bucket that does not exist", "Check the name of the bucket."),
    "missing": ("does not exist", "Check the address; the object may have been deleted."),
    "forbidden": (
        "may not be used: the store refused access",
        "Check the credentials, and what they are allowed to do.",
    ),
    "credentials": (
        "cannot be asked for: there are no credentials",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
    ),
    "timeout": ("took too long to answer", "Try again; check the network and the store."),
    "unreachable": ("cannot be reached: {}", "Check the network and the endpoint (AWS_ENDPOINT_URL)."),
    "other": ("could not be read or written: {}", "Check the address and the store."),
}
_NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
}
_TIMEOUTS = {"TimeoutError", "ConnectTimeoutError", "ReadTimeoutError", "ServerTimeoutError"}
_BROKEN = {"ConnectionError", "EndpointConnectionError", "HTTPClientError", "ClientConnectionError"}


def trouble(error: Exception) -> Trouble:
    """What the failure of a call to an object store means."""
    # By the names of classes: the client libraries that define them need not be installed.
    names = {kind.__name__ for kind in type(error).__mro__}
    answer = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    code = answer.get("Error", {}).get("Code", "") if isinstance(answer, dict) else ""
    signs = {
        "bucket": code == "NoSuchBucket",
        "missing": isinstance(error, (FileNotFoundError, IsADirectoryError)),
        "forbidden": isinstance(error, PermissionError),
        "credentials": names & _NO_CREDENTIALS,
        "timeout": names & _TIMEOUTS,
        "unreachable": names & _BROKEN,
    }
    kind = next((kind for kind, found in signs.items() if found), "other")
    said, hint = _SAID[kind]
    reason = one_line(getattr(error, "strerror", None) or error, 300).rstrip(".") or type(error).__name__
    return Trouble(kind, said.format(reason), hint)


def unreadable(uri: str, error: Exception) -> UnreadableError:
    """The error for an address whose store did not give what was asked of it."""
    found = trouble(error)
    return UnreadableError(f"{one_line(uri)} {found.said}.", hint=found.hint)
