"""`POST /v1/rerank`, as Cohere and Jina have it."""

from __future__ import annotations

from typing import Any, Union

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from bowerbird.errors import InputError, UnsupportedInputError
from bowerbird.models.crossencoder import Judgement
from bowerbird.serve.api.bodies import answer, json_of
from bowerbird.serve.api.document import Answers, Routes
from bowerbird.serve.api.errors import ApiError, error_of, plain
from bowerbird.serve.api.schemas import ErrorDetail, Many, Strict
from bowerbird.serve.service import Service


class DocumentText(Strict):
    """A text."""

    text: str


class RerankRequest(Strict):
    """A question, and texts that may answer it."""

    model: str = Field("", description="A reranker of GET /v1/models; empty takes the first.")
    query: str = Field(min_length=1)
    documents: Many[Union[str, DocumentText]] = Field(min_length=1)  # noqa: UP007  pydantic reads it at run time
    top_n: int | None = Field(None, ge=1, description="Give only so many; none: all.")
    return_documents: bool = Field(False, description="Give the texts, too.")


class RerankResult(BaseModel):
    """One text."""

    index: int = Field(description="Its place among the documents.")
    relevance_score: float | None = Field(
        description="Higher is a better answer; null where there is an error."
    )
    document: DocumentText | None = None
    note: str | None = Field(None, description="What a person should know, such as that it was cut.")
    error: ErrorDetail | None = None


class RerankResponse(BaseModel):
    """The texts, best first; those that could not be judged come last."""

    model: str
    results: list[RerankResult]


_EXAMPLES = {
    "texts": {
        "query": "a red dress",
        "documents": ["a blue car", "a long red dress", {"text": "a red shirt"}],
        "top_n": 2,
        "return_documents": True,
    }
}


def routes(to: Routes, service: Service) -> None:
    """Add them."""

    async def rerank(request: Request) -> Response:
        """Say how well each text answers a question, and put the best first."""
        asked = await json_of(request, RerankRequest, service.limits.inputs)
        texts = [one if isinstance(one, str) else one.text for one in asked.documents]
        _check(asked.query, service)
        refused: dict[int, InputError] = {
            index: UnsupportedInputError(
                f"The text has {len(text):,} characters; {service.limits.text_chars:,} are taken."
            )
            for index, text in enumerate(texts)
            if len(text) > service.limits.text_chars
        }
        places = [index for index in range(len(texts)) if index not in refused]
        judged = await service.rerank(asked.model, asked.query, [texts[index] for index in places])
        model = asked.model or await _first(service)
        request.scope["bowerbird"].note(model=model)
        found = [_result(place, one) for place, one in zip(places, judged, strict=True)]
        found += [_failed(index, error) for index, error in refused.items()]
        found.sort(
            key=lambda one: (one["relevance_score"] is None, -(one["relevance_score"] or 0), one["index"])
        )
        if asked.return_documents:
            found = [{**one, "document": {"text": texts[one["index"]]}} for one in found]
        return answer({"model": model, "results": found[: asked.top_n]})

    to.add(
        "POST",
        "/v1/rerank",
        rerank,
        "rerank",
        summary="Put texts in order by how well they answer a question",
        tag="Rerank",
        body=RerankRequest,
        examples=_EXAMPLES,
        answers=Answers(RerankResponse, "The texts, best first.", (404,)),
    )


def _check(query: str, service: Service) -> None:
    limits = service.limits
    if not query.strip():
        raise ApiError(400, "The query is empty.", code="invalid_value", param="query")
    if len(query) > limits.text_chars:
        raise ApiError(400, "The query is too long.", code="invalid_value", param="query")


async def _first(service: Service) -> str:
    return next((one.id for one in await service.models() if one.kind == "reranker"), "")


def _result(place: int, judged: Judgement) -> dict[str, Any]:
    if judged.error is not None:
        return _failed(place, judged.error)
    found: dict[str, Any] = {"index": place, "relevance_score": judged.score}
    return {**found, "note": judged.note} if judged.note else found


def _failed(place: int, error: InputError) -> dict[str, Any]:
    return {
        "index": place,
        "relevance_score": None,
        "error": plain(error_of(error, f"documents.{place}")),
    }
