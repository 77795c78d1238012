"""One request until it is answered, again where that may help: what to send and how long to wait, with no network."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeAlias, TypeVar

import httpx2

from bowerbird.client.calls import Answer, Request
from bowerbird.client.retries import Attempts, Retries
from bowerbird.errors import ServiceError

__all__ = ["Steps", "exchange"]

R = TypeVar("R")

Steps: TypeAlias = "Generator[Request[Any] | float, Answer | Exception | None, R]"
"""Yields a request, and is sent its answer or what the network did instead; or seconds to wait, and is sent None."""

_TOO_MUCH = ("too_many_inputs", "too_many_tokens", "body_too_large")
"""What a service calls requests that it would take in pieces."""


def exchange(request: Request[R], retries: Retries, shown: str, *, heard: bool) -> Steps[list[R]]:
    """What was read; of a request that was split because it was too much at once, several.

    Args:
        request: that is sent.
        retries: bounds.
        shown: address of the service, for messages.
        heard: whether the service has answered before.

    Raises:
        BowerbirdError: the service refused.
        ServiceError: it could not be reached.
    """
    attempts = Attempts(request, retries, heard=heard)
    while True:
        outcome = yield request
        assert outcome is not None
        pause = attempts.pause(outcome)
        if pause is None:
            break
        yield pause
    if isinstance(outcome, Exception):
        raise unreachable(outcome, shown) from outcome
    if (outcome.status == 413 or outcome.code in _TOO_MUCH) and (halves := request.halves()):
        first = yield from exchange(halves[0], retries, shown, heard=True)
        second = yield from exchange(halves[1], retries, shown, heard=True)
        return [*first, *second]
    return [request.read(outcome)]


def unreachable(error: Exception, shown: str) -> ServiceError:
    """The error of a request that was not answered."""
    why = " ".join(str(error).split())[:200]
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return ServiceError(
            f"{shown} cannot be reached{f': {why}' if why else ''}.",
            hint="Check the address, and that the service runs: bowerbird serve photos.bower",
            code="unreachable",
        )
    if isinstance(error, httpx2.TimeoutException):
        return ServiceError(
            f"{shown} did not answer in time.",
            hint="Ask for less at once, or raise `timeout`.",
            code="timeout",
        )
    return ServiceError(
        f"The exchange with {shown} broke off: {why or type(error).__name__}.",
        hint="Try again.",
        code="connection",
    )
