"""`/health`: whether the process lives, and whether it can answer."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from bowerbird.serve.api.bodies import answer
from bowerbird.serve.api.document import Answers, Routes
from bowerbird.serve.api.errors import ApiError, plain
from bowerbird.serve.api.schemas import ErrorDetail
from bowerbird.serve.service import Readiness, Service

FRESH_SECONDS = 1.0
"""What was found out is told again for so long: who asks often keeps no model busy."""

LONGEST = 20.0
"""Seconds that finding out may take: what hangs is not ready."""


class Live(BaseModel):
    """It lives."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Whether it can answer, found out by doing it."""

    ready: bool
    checks: dict[str, str] = Field(description="By name, `ok` or what is wrong.")


class NotReady(Ready):
    """It cannot."""

    error: ErrorDetail


def routes(to: Routes, service: Service) -> None:
    """Add them."""
    asking = asyncio.Lock()
    known: list[tuple[float, Readiness]] = []

    async def health_live(request: Request) -> Response:
        """Whether the process answers at all. If it does not, it should be started again."""
        return answer({"status": "ok"})

    async def health_ready(request: Request) -> Response:
        """Whether requests should be sent here: runs every model that is in memory, and reads the index."""
        async with asking:
            if not known or time.monotonic() - known[0][0] > FRESH_SECONDS:
                found = await _found(service)
                known[:] = [(time.monotonic(), found)]
            found = known[0][1]
        body = {"ready": found.ready, "checks": dict(found.checks)}
        if found.ready:
            return answer(body)
        wrong = ", ".join(f"{name}: {said}" for name, said in found.checks.items() if said != "ok")
        error = ApiError(503, f"Not ready. {wrong}", "server_error", "not_ready")
        return answer({**body, "error": plain(error)}, 503, **{"Retry-After": "1"})

    to.add(
        "GET",
        "/health/live",
        health_live,
        "health_live",
        summary="Is the process alive",
        tag="Health",
        answers=Answers(Live, "It is."),
        public=True,
    )
    to.app.add_api_route("/health", health_ready, methods=["GET", "HEAD"], include_in_schema=False)
    to.add(
        "GET",
        "/health/ready",
        health_ready,
        "health_ready",
        summary="Can the service answer",
        tag="Health",
        answers=Answers(
            Ready, "It can.", more={503: {"model": NotReady, "description": "It cannot; the checks say why."}}
        ),
        public=True,
    )


async def _found(service: Service) -> Readiness:
    try:
        return await asyncio.wait_for(service.ready(), LONGEST)
    except asyncio.TimeoutError:
        return Readiness(False, {"service": f"has said nothing for {LONGEST:g} s"})
