"""The application: routes, the OpenAPI document, and the door in front of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bowerbird.errors import BowerbirdError
from bowerbird.serve.api import docs, embeddings, health, index, models, records, rerank, search
from bowerbird.serve.api.astray import no_method, no_route
from bowerbird.serve.api.document import Routes
from bowerbird.serve.api.door import Door
from bowerbird.serve.api.errors import ApiError, error_of, response_of, told
from bowerbird.serve.api.inputs import Pictures
from bowerbird.serve.api.noted import Noted
from bowerbird.serve.api.schemas import invalid
from bowerbird.serve.keys import Keys
from bowerbird.serve.limits import Limits
from bowerbird.serve.service import Service

if TYPE_CHECKING:
    from bowerbird.serve.metrics import Metrics

__all__ = ["build", "document"]


def build(
    service: Service,
    *,
    fetch_urls: bool = False,
    show_paths: bool = False,
    keys: Keys | None = None,
    observers: Sequence[Callable[[Noted], None]] = (),
    cors: Sequence[str] = (),
    hosts: Sequence[str] = (),
    metrics: Metrics | None = None,
) -> Door:
    """The ASGI application of a service; `Door.app` is the FastAPI one behind the door.

    Args:
        service: that answers.
        fetch_urls: whether pictures at http(s) addresses are fetched.
        show_paths: whether answers tell where on this machine pictures lie.
        keys: see `Door`, as for all that follow.
        observers: told about every request.
        cors: origins whose pages may ask.
        hosts: names that requests may know this machine by.
        metrics: of the service, told at `/metrics`; None: nothing is measured.
    """
    app, embeddings_create = _application(service, fetch_urls=fetch_urls, show_paths=show_paths)
    if metrics is not None:
        metrics.route(app, service)
        observers = (*observers, metrics.request)
    door = Door(
        app,
        service.limits,
        keys=keys,
        observers=observers,
        cors=cors,
        hosts=hosts,
        direct={("POST", "/v1/embeddings"): embeddings_create},
        free=("/metrics",) if metrics is not None and metrics.public else (),
    )
    if metrics is not None:
        metrics.door = door
    return door


def document() -> dict[str, Any]:
    """The OpenAPI document, which is the same for every service."""
    app, _ = _application(_Nobody(), fetch_urls=False, show_paths=False)  # type: ignore[arg-type]
    return app.openapi()


class _Nobody:
    """Answers nothing."""

    limits = Limits()


def _application(
    service: Service, *, fetch_urls: bool, show_paths: bool
) -> tuple[FastAPI, embeddings.Endpoint]:
    """The FastAPI application, and what answers for embeddings."""
    import bowerbird

    @asynccontextmanager
    async def tended(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(service.tend())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    app = FastAPI(
        title="Bowerbird",
        version=bowerbird.__version__,
        lifespan=tended,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    pictures = Pictures(service.limits, fetch=fetch_urls)
    to = Routes(app)
    endpoint = embeddings.routes(to, service, pictures)
    search.routes(to, service, pictures, show_paths=show_paths)
    records.routes(to, service, pictures, show_paths=show_paths)
    rerank.routes(to, service)
    models.routes(to, service)
    index.routes(to, service)
    health.routes(to, service)
    docs.routes(app)

    async def refused(request: Request, error: Exception) -> Response:
        noted: Noted = request.scope["bowerbird"]
        # What the library did not raise reaches the door as well, which logs it.
        found = told(
            _as_error(error, app, request), noted.id, log=isinstance(error, (ApiError, BowerbirdError))
        )
        noted.code = found.code
        return response_of(found)

    for kind in (ApiError, BowerbirdError, RequestValidationError, HTTPException, TimeoutError, Exception):
        app.add_exception_handler(kind, refused)
    return app, endpoint


def _as_error(error: Exception, app: FastAPI, request: Request) -> ApiError:
    if isinstance(error, RequestValidationError):
        # Of parameters FastAPI says first where they are.
        found: ApiError = invalid([{**fault, "loc": fault["loc"][1:]} for fault in error.errors()])
        return found
    if isinstance(error, HTTPException):
        headers = {name: value for name, value in (error.headers or {}).items() if name.lower() != "allow"}
        if error.status_code == 404:
            return no_route(app, request)
        if error.status_code == 405:
            return no_method(app, request, headers)
        return ApiError(error.status_code, str(error.detail), headers=headers)
    return error_of(error)
