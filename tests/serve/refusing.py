"""A service that is too busy at first, with the very answers of the real one."""

from __future__ import annotations

from typing import Any

from bowerbird.serve.api.errors import ApiError, error_of, response_of
from bowerbird.serve.batching import BusyError


class Refusing:
    """An ASGI application around another that refuses the first requests of each path.

    Args:
        app: the other.
        status: 429 or 503.
        times: how many are refused.
    """

    def __init__(self, app: Any, status: int, times: int) -> None:
        self.app = app
        self.status = status
        self.times = times
        self.refused: dict[str, int] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and self.refused.setdefault(scope["path"], 0) < self.times:
            self.refused[scope["path"]] += 1
            await response_of(self._error())(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _error(self) -> ApiError:
        if self.status == 503:
            return error_of(BusyError(0.1))
        wait = {"Retry-After": "1"}
        return ApiError(429, "Too many.", "rate_limit_error", "rate_limit_exceeded", headers=wait)
