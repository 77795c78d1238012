"""When a request is sent again, and how long to wait before that."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from bowerbird.client.calls import Answer, Request

__all__ = ["Attempts", "Retries"]

BACKOFF = 0.25
"""Seconds before the second attempt, about; twice as long before each further one."""

LONGEST = 8.0
"""Seconds that are waited at the most where the service does not say how long."""

_AGAIN = (429, 502, 503, 504)
"""Too much at once, or nobody behind the door at the moment."""


@dataclass(frozen=True)
class Retries:
    """How often and how long.

    Attributes:
        most: further attempts.
        seconds: in which the last of them begins, from the first one on.
    """

    most: int = 5
    seconds: float = 60.0


class Attempts:
    """Those of one request.

    Args:
        request: that is sent.
        retries: bounds.
        heard: whether the service has answered before: then one that is not there is being restarted, perhaps; else
            the address is wrong, or nobody has started it.
    """

    def __init__(self, request: Request[Any], retries: Retries, *, heard: bool) -> None:
        self._heard = heard
        self._request = request
        self._retries = retries
        self._made = 0
        self._end = time.monotonic() + retries.seconds

    def pause(self, outcome: Answer | Exception) -> float | None:
        """Seconds to wait and then try again; None: it stays as it is.

        Args:
            outcome: the answer, or what the network did instead.
        """
        self._heard = self._heard or isinstance(outcome, Answer)
        wait = self._wished(outcome)
        self._made += 1
        if wait is None or self._made > self._retries.most or time.monotonic() + wait > self._end:
            return None
        return wait

    def _wished(self, outcome: Answer | Exception) -> float | None:
        import httpx2

        # A little more than asked, and not all at the same moment.
        backoff: float = min(LONGEST, BACKOFF * 2.0**self._made) * random.uniform(0.5, 1.0)
        if isinstance(outcome, Answer):
            if outcome.status not in _AGAIN or outcome.status in self._request.final:
                return None
            if not (self._request.repeatable or outcome.status == 429):
                return None
            asked = retry_after(outcome.headers)
            return backoff if asked is None else asked + backoff / 4
        if isinstance(outcome, (httpx2.ConnectError, httpx2.ConnectTimeout)):
            return backoff if self._heard else None  # nothing of it was seen
        broken = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
        return backoff if self._request.repeatable and isinstance(outcome, broken) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a service asks to wait: a number, or until a date; None where it does not say."""
    said = headers.get("retry-after", "").strip()
    if not said:
        return None
    try:
        if said.replace(".", "", 1).isdigit():
            return float(said)
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):
        return None
