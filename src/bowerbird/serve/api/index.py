"""`/v1/index`: what is searched."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from bowerbird.serve.api.bodies import answer
from bowerbird.serve.api.document import Answers, Routes
from bowerbird.serve.service import NoIndexError, Service


class IndexShown(BaseModel):
    """What is told of the index."""

    object: Literal["index"] = "index"
    name: str
    records: int = Field(description="How many it has.")
    models: list[str] = Field(description="Its models; the first is asked where nobody names one.")
    version: int = Field(description="Of what is searched at the moment; it grows with every commit.")
    attributes: dict[str, str] = Field(description="Names and types of what filters may ask for.")
    parts: list[str] = Field(description="Parts of records that can be searched: `image`, `text`.")
    writable: bool = Field(description="Whether records can be added and removed here.")


class IndexRefreshed(BaseModel):
    """What is searched from now on."""

    object: Literal["index"] = "index"
    refreshed: bool = Field(description="Whether there was anything new.")
    records: int
    version: int


def routes(to: Routes, service: Service) -> None:
    """Add them."""

    async def index_get(request: Request) -> Response:
        """What is searched, and what filters may ask for."""
        facts = await service.facts()
        if facts is None:
            raise _none()
        return answer(
            {
                "object": "index",
                "name": facts.name,
                "records": facts.records,
                "models": facts.models,
                "version": facts.version,
                "attributes": facts.attributes,
                "parts": facts.parts,
                "writable": facts.writable,
            }
        )

    async def index_refresh(request: Request) -> Response:
        """Search what was committed last from now on. The service looks by itself every second; this is for who cannot
        wait. Searches that have begun go on with what they began with.
        """
        refreshed = await service.refresh()
        facts = await service.facts()
        if facts is None:
            raise _none()
        return answer(
            {"object": "index", "refreshed": refreshed, "records": facts.records, "version": facts.version}
        )

    to.add(
        "GET",
        "/v1/index",
        index_get,
        "index_get",
        summary="Show the index",
        tag="Index",
        answers=Answers(IndexShown, "The index.", (404,)),
    )
    to.add(
        "POST",
        "/v1/index/refresh",
        index_refresh,
        "index_refresh",
        summary="Search the newest commit",
        tag="Index",
        answers=Answers(IndexRefreshed, "What is searched now.", (404,)),
    )


def _none() -> NoIndexError:
    return NoIndexError(
        "No index is served here.", hint="Start the service with one: bowerbird serve photos.bower"
    )
