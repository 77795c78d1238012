"""What requests hold in memory: each for itself, and all of them together."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from bowerbird.serve.api.errors import ApiError

__all__ = ["Account", "Memory", "account_of"]

_NAME = "bowerbird.account"
"""Of a request's account, in its scope."""


class Memory:
    """What all requests that are here hold together: bodies, pictures fetched for them, answers that are not taken yet.

    Args:
        most: bytes; beyond, requests are refused. One alone may have more.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def account(self, scope: Any) -> Account:
        """That of a request which begins; it is closed when the request is over."""
        found: Account = Account(self)
        scope[_NAME] = found
        return found


class Account:
    """What one request holds.

    Attributes:
        held: bytes.
    """

    __slots__ = ("_memory", "held")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.held = 0

    def hold(self, size: int) -> None:
        """It has so many bytes more."""
        self.held += size
        self._memory.held += size

    def check(self) -> None:
        """Raises:
        ApiError: 503, all requests hold more than they may together, and this is not the only one.
        """
        memory = self._memory
        if memory.held > memory.most and memory.held > self.held:
            raise ApiError(
                503,
                "More is being sent than can be kept in memory. Try again in 1 s.",
                "server_error",
                "overloaded",
                headers={"Retry-After": "1"},
            )

    def close(self) -> None:
        """It has nothing any more."""
        self.hold(-self.held)


def account_of(request: Request) -> Account:
    """That of a request."""
    found: Account = request.scope[_NAME]
    return found
