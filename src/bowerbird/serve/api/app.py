"""The application: routes, the OpenAPI document, and the door in front of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bowerbird.serve.api.door import Door, Noted
from bowerbird.serve.api.embeddings import embeddings
from bowerbird.serve.api.errors import ApiError, error_of, response_of
from bowerbird.serve.api.inputs import Pictures
from bowerbird.serve.api.schemas import EmbeddingsRequest, EmbeddingsResponse, ErrorResponse, invalid
from bowerbird.serve.keys import Keys
from bowerbird.serve.service import Service

__all__ = ["build"]


def build(
    service: Service,
    *,
    fetch_urls: bool = False,
    show_paths: bool = False,
    keys: Keys | None = None,
    observers: Sequence[Callable[[Noted], None]] = (),
    cors: Sequence[str] = (),
    hosts: Sequence[str] = (),
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
    """
    import bowerbird

    app = FastAPI(title="Bowerbird", version=bowerbird.__version__)
    pictures = Pictures(service.limits, fetch=fetch_urls)

    async def post_embeddings(request: Request) -> Response:
        return await embeddings(request, service, pictures)

    app.add_api_route(
        "/v1/embeddings",
        post_embeddings,
        methods=["POST"],
        summary="Embed texts and pictures",
        responses={200: {"model": EmbeddingsResponse}, "4XX": {"model": ErrorResponse}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": EmbeddingsRequest.model_json_schema()}},
            }
        },
    )

    async def told(request: Request, error: Exception) -> Response:
        return response_of(_as_error(error))

    for kind in (ApiError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, told)
    return Door(
        app,
        service.limits,
        keys=keys,
        observers=observers,
        cors=cors,
        hosts=hosts,
        direct={("POST", "/v1/embeddings"): post_embeddings},
    )


def _as_error(error: Exception) -> ApiError:
    if isinstance(error, RequestValidationError):
        found: ApiError = invalid(error.errors())
        return found
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    return error_of(error)
