"""`/v1/models`: what is served, and what is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from bowerbird.errors import ModelNotFoundError
from bowerbird.serve.api.bodies import answer
from bowerbird.serve.api.document import Answers, Routes
from bowerbird.serve.api.errors import ApiError
from bowerbird.serve.models import ModelState
from bowerbird.serve.service import Service


class ModelShown(BaseModel):
    """A model. What is known only of one in memory is null as long as it is not."""

    id: str = Field(description="What requests call it.")
    object: Literal["model"] = "model"
    created: int = Field(description="When it was loaded, seconds since 1970; 0: it is not.")
    owned_by: str
    kind: Literal["embedding", "reranker"]
    loaded: bool
    last_used: int | None = Field(description="When it was last asked, seconds since 1970.")
    modalities: list[str] | None = Field(description="What it takes: `text`, `image`.")
    dimensions: int | None = Field(description="Of its vectors.")
    max_tokens: int | None = Field(description="Of a text that it reads.")
    space: str | None = Field(description="Fingerprint: vectors of two spaces cannot be compared.")
    roles: list[str] | None = Field(description="Prompts that it has, such as `query`.")
    outputs: list[str] | None = Field(description="Of pictures.")
    numerics: dict[str, Any] | None = Field(description="By tower, the engine and precision that it runs in.")


class ModelList(BaseModel):
    """Every model that requests may name. The first of a kind is asked where nobody names one."""

    object: Literal["list"] = "list"
    data: list[ModelShown]


class ModelUnloaded(BaseModel):
    """It is not in memory any more."""

    id: str
    object: Literal["model"] = "model"
    unloaded: bool = Field(description="Whether it was there.")


_ID: dict[str, Any] = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "Of the model.",
    "schema": {"type": "string", "minLength": 1},
    "example": "mini",
}


def routes(to: Routes, service: Service) -> None:
    """Add them."""

    async def models_list(request: Request) -> Response:
        """What is served, in memory or not."""
        return answer({"object": "list", "data": list(map(_shown, await service.models()))})

    async def model_get(request: Request) -> Response:
        """One model."""
        wanted = _id(request)
        for state in await service.models():
            if state.id == wanted:
                return answer(_shown(state))
        raise ApiError(404, f"There is no model {wanted[:200]!r} here.", code="model_not_found", param="id")

    async def model_load(request: Request) -> Response:
        """Have a model in memory, so that the first request for it does not wait."""
        with _of_its_id():
            return answer(_shown(await service.load(_id(request))))

    async def model_unload(request: Request) -> Response:
        """Take a model out of memory, until it is asked for again. Requests that have begun are finished; models that
        the index is searched with stay.
        """
        wanted = _id(request)
        with _of_its_id():
            return answer({"id": wanted, "object": "model", "unloaded": await service.unload(wanted)})

    about: dict[str, Any] = {"tag": "Models"}
    to.add(
        "GET",
        "/v1/models",
        models_list,
        "models_list",
        summary="List models",
        answers=Answers(ModelList, "Every model."),
        **about,
    )
    to.add(
        "POST",
        "/v1/models/{id:anything}/load",
        model_load,
        "model_load",
        summary="Load a model",
        parameters=[_ID],
        answers=Answers(ModelShown, "The model, in memory.", (404,)),
        **about,
    )
    to.add(
        "POST",
        "/v1/models/{id:anything}/unload",
        model_unload,
        "model_unload",
        summary="Unload a model",
        parameters=[_ID],
        answers=Answers(ModelUnloaded, "It is not in memory.", (404, 409)),
        **about,
    )
    to.add(
        "GET",
        "/v1/models/{id:anything}",
        model_get,
        "model_get",
        summary="Show a model",
        parameters=[_ID],
        answers=Answers(ModelShown, "The model.", (404,)),
        **about,
    )


@contextmanager
def _of_its_id() -> Iterator[None]:
    """What is wrong with the model is wrong with the `id` of the path."""
    try:
        yield
    except ModelNotFoundError as error:
        error.param = "id"
        raise


def _id(request: Request) -> str:
    id_: str = request.path_params["id"]
    return id_


def _shown(state: ModelState) -> dict[str, Any]:
    loaded = state.loaded
    return {
        "id": state.id,
        "object": "model",
        "created": int(state.since),
        "owned_by": "bowerbird",
        "kind": state.kind,
        "loaded": loaded,
        "last_used": int(state.used) or None,
        "modalities": list(state.modalities) if loaded else None,
        "dimensions": state.dimensions or None,
        "max_tokens": state.max_tokens or None,
        "space": state.space or None,
        "roles": list(state.prompts) if loaded else None,
        "outputs": list(state.outputs) if loaded else None,
        "numerics": dict(state.numerics) if loaded else None,
    }
