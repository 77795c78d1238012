"""`POST /v1/search`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from bowerbird.errors import InputError, ModelNotFoundError, UnsupportedInputError
from bowerbird.hits import Hit, Hits
from bowerbird.search.page import data_uri
from bowerbird.search.query import Query
from bowerbird.serve.api.bodies import answer, form_of, is_form, json_of, of_fields
from bowerbird.serve.api.document import Answers, Routes
from bowerbird.serve.api.errors import ApiError, error_of
from bowerbird.serve.api.examples import PICTURE
from bowerbird.serve.api.inputs import Pictures, check_pixels
from bowerbird.serve.api.memory import Account, account_of
from bowerbird.serve.api.noted import Noted
from bowerbird.serve.api.schemas import Many, Strict
from bowerbird.serve.api.shown import image_address, shown_attributes, shown_uri
from bowerbird.serve.indexed import Ask
from bowerbird.serve.service import Service

FIELDS = 256
"""Fields of a form that are taken."""

WHERE = 1 << 16
"""Characters of a filter: a longer one takes seconds to be read."""

TEXTS = 64
"""Texts of one question: each is embedded."""

UNLIKE = 64
"""Records that one question moves away from: each is looked up."""


class SearchRequest(Strict):
    """A question: words, a picture, a record to be like, or a blend of these."""

    text: str | Many[str] | None = Field(
        None, description="Words to look for; several texts are blended.", examples=["a red dress"]
    )
    texts: Many[str] | None = Field(None, description="Another name for `text`.")
    image: str | None = Field(
        None,
        description="A picture to look for: a data URL, base64, or an address where the service fetches them.",
    )
    like: str | None = Field(None, description="Id of a record: its neighbours.")
    weights: Many[float] | None = Field(
        None, description="One for each text, then one for the picture or the record; equal by default."
    )
    without: str | Many[str] | None = Field(None, description="Words to move away from.")
    unlike: str | Many[str] | None = Field(
        None, description="Ids of records to move away from: less like these."
    )
    among: str = Field(
        "",
        description="What is searched: `image`, `text`, `words` (BM25), or several with commas between; empty: "
        "pictures and texts.",
    )
    k: int = Field(10, ge=1, description="At most so many results.")
    offset: int = Field(0, ge=0, description="So many are left out first.")
    where: str = Field("", description="A filter over the attributes.", examples=["price < 100"])
    models: Many[str] | None = Field(
        None, description="Models of the index that are asked; none: the first; `all`: every one."
    )
    fusion: Literal["calibrated", "rank", "weighted", "raw"] = Field(
        "calibrated", description="How several parts and models become one list."
    )
    part_weights: dict[str, float] | None = Field(
        None, description="With `weighted`: for `image`, `text` and `words`."
    )
    min_match: float | None = Field(
        None, ge=0, le=1, description="Leave out what matches less; what came closest is in `below`."
    )
    threshold: float | None = Field(None, description="Leave out raw scores below it.")
    rerank: str = Field(
        "", description="`exact`, `mmr`, `mmr:DIVERSITY`, or `cross:MODEL` with a reranker of GET /v1/models."
    )
    thumbnails: bool = Field(False, description="Give small pictures with the results, as data URLs.")


class SearchResult(BaseModel):
    """One record that was found."""

    id: str
    score: float | None = Field(
        description="Higher is more alike; see `scale`. Null where a reranker said nothing."
    )
    match: float | None = Field(description="How surely it is what was asked for, 0 to 1.")
    part: str = Field(description="Which part of it matched: `image`, `text` or `words`.")
    model: str = Field(description="Under which model.")
    text: str = Field(description="Its texts, one on a line.")
    attributes: dict[str, Any]
    copies: int = Field(description="How many records hold the same bytes; they are shown as one.")
    image: str | None = Field(description="Path of its picture; null where it has none.")
    uri: str | None = Field(None, description="Where its picture lies, where that is shown.")
    thumbnail: str | None = Field(None, description="A small picture, where it was asked for.")


class SearchResponse(BaseModel):
    """The records that are most like the question, best first."""

    object: Literal["list"] = "list"
    data: list[SearchResult]
    scale: str = Field(description="What the scores are: of two scales they cannot be compared.")
    notes: list[str] = Field(description="What a person should know of how the question was read.")
    nothing_matches: bool = Field(description="A `min_match` was asked for, and nothing reached it.")
    below: list[SearchResult] = Field(description="Then: the best of what did not.")
    records: int = Field(description="How many records the index has.")


_EXAMPLES = {
    "words": {"text": "a red dress", "k": 5},
    "a picture": {"image": PICTURE, "k": 5},
    "both": {"text": "a circle", "image": PICTURE, "weights": [0.3, 0.7], "thumbnails": True},
    "words in texts": {"text": "deep sea", "among": "text,words", "min_match": 0.5},
}

_FORM = {
    "type": "object",
    "description": "The fields of the JSON body, texts as they are and all others as JSON, and the picture as a file.",
    "properties": {
        "image": {"type": "string", "format": "binary", "description": "The query picture."},
        "text": {"type": "array", "items": {"type": "string"}},
        "without": {"type": "array", "items": {"type": "string"}},
        "unlike": {"type": "array", "items": {"type": "string"}},
        "k": {"type": "integer", "minimum": 1, "default": 10},
        "offset": {"type": "integer", "minimum": 0, "default": 0},
        "weights": {"type": "string", "description": "Such as `0.3,0.7`, or as JSON."},
        "where": {"type": "string"},
        "min_match": {"type": "number", "minimum": 0, "maximum": 1},
        "thumbnails": {"type": "boolean", "default": False},
    },
}


def routes(to: Routes, service: Service, pictures: Pictures, *, show_paths: bool) -> None:
    """Add them."""

    async def search(request: Request) -> Response:
        """Find records by words, by a picture (in the JSON, or uploaded as the field `image` of a form), by another
        record, or by a blend of these.

        `match` says how surely a record is what was asked for; it can be compared between pictures and texts, and
        between models. With `min_match`, "nothing matches" is an answer: `data` is empty then, and `below` has what
        came closest.
        """
        asked, image = await _read(request, service.limits.inputs)
        ask = await _ask(asked, image, service, pictures, account_of(request), paths=show_paths)
        began = time.perf_counter()
        try:
            hits = await service.search(ask)
        except InputError as error:
            raise error_of(error, "image") from None
        except ModelNotFoundError as error:
            raise error_of(error, "rerank") from None
        noted: Noted = request.scope["bowerbird"]
        noted.stages["search"] = time.perf_counter() - began
        small: Mapping[str, bytes] = {}
        below = hits.below if hits.below is not None else hits[:0]
        if asked.thumbnails:
            small = await service.thumbnails([*hits.ids, *below.ids])
        facts = await service.facts()
        noted.note(model=",".join(ask.models))
        return answer(
            {
                "object": "list",
                "data": _results(hits, small, asked, show_paths=show_paths),
                "scale": hits.scale,
                "notes": hits.notes,
                "nothing_matches": hits.below is not None,
                "below": _results(below, small, asked, show_paths=show_paths),
                "records": facts.records if facts else 0,
            }
        )

    to.add(
        "POST",
        "/v1/search",
        search,
        "search",
        summary="Search by words, pictures, or both",
        tag="Search",
        body=SearchRequest,
        examples=_EXAMPLES,
        form=_FORM,
        answers=Answers(SearchResponse, "The records that are most like the question.", (404,)),
    )


async def _read(request: Request, most: int) -> tuple[SearchRequest, bytes | None]:
    if not is_form(request):
        return await json_of(request, SearchRequest, most), None
    async with form_of(request, FIELDS) as form:
        asked, files = await of_fields(
            form,
            SearchRequest,
            files="image",
            many=("text", "texts", "without", "unlike"),
            numbers=("weights",),
        )
    if len(files) > 1:
        raise ApiError(400, "One query picture is taken.", code="invalid_form", param="image")
    return asked, files[0] if files else None


async def _ask(
    asked: SearchRequest,
    image: bytes | None,
    service: Service,
    pictures: Pictures,
    account: Account,
    *,
    paths: bool,
) -> Ask:
    """What the service is asked.

    Raises:
        ApiError: more is asked than is allowed, or the picture cannot be had.
        QueryError: the question is empty or contradicts itself.
    """
    limits = service.limits
    if asked.k + asked.offset > limits.results:
        raise ApiError(
            400,
            f"Results beyond the first {limits.results:,} were asked for.",
            code="invalid_value",
            param="k",
        )
    if len(asked.where) > WHERE:
        raise ApiError(
            400, f"The filter has more than {WHERE:,} characters.", code="invalid_value", param="where"
        )
    texts, without = (*_listed(asked.text), *(asked.texts or ())), _listed(asked.without)
    _check_texts((*texts, *without), limits.text_chars)
    unlike = _listed(asked.unlike)
    if len(unlike) > UNLIKE:
        raise ApiError(
            400,
            f"{len(unlike)} records were given; {UNLIKE} are taken.",
            code="invalid_value",
            param="unlike",
        )
    if image is not None and asked.image is not None:
        raise ApiError(400, "Two query pictures were given.", code="invalid_value", param="image")
    try:
        if asked.image is not None:
            found, refused = await pictures.read({0: asked.image}, account)
            if refused:
                raise refused[0]
            image = found[0]
        if image is not None and (refused := check_pixels([image], limits)):
            raise refused[0]
    except InputError as error:
        raise error_of(error, "image") from None
    return Ask(
        Query(
            texts=texts,
            image=image,
            like=asked.like or "",
            weights=tuple(asked.weights or ()),
            without=without,
            among=asked.among,
            unlike=unlike,
        ),
        k=asked.k,
        offset=asked.offset,
        where=asked.where,
        models=tuple(asked.models or ()),
        fusion=asked.fusion,
        part_weights=asked.part_weights or {},
        min_match=asked.min_match,
        threshold=asked.threshold,
        rerank=asked.rerank,
        paths=paths,
    )


def _listed(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _check_texts(texts: Sequence[str], most: int) -> None:
    if len(texts) > TEXTS:
        raise ApiError(
            400, f"{len(texts)} texts were given; {TEXTS} are taken.", code="invalid_value", param="text"
        )
    if any(len(text) > most for text in texts):
        error = UnsupportedInputError(f"A text has more than the {most:,} characters that are taken.")
        raise error_of(error, "text")


def _results(
    hits: Hits, small: Mapping[str, bytes], asked: SearchRequest, *, show_paths: bool
) -> list[dict[str, Any]]:
    return [_result(hit, small, asked, show_paths=show_paths) for hit in hits]


def _result(
    hit: Hit, small: Mapping[str, bytes], asked: SearchRequest, *, show_paths: bool
) -> dict[str, Any]:
    attributes = dict(hit.attributes)
    uri = "" if hit.uri == hit.id else hit.uri
    found = {
        "id": hit.id,
        "score": hit.score,
        "match": hit.match,
        "part": hit.part,
        "model": hit.model,
        "text": attributes.pop("text", None) or "",
        "copies": attributes.pop("copies", 1),
        "attributes": shown_attributes(attributes, hit.uri, show_paths=show_paths),
        "image": image_address(hit.id, attributes),
    }
    if shown := shown_uri(uri or hit.id, show_paths=show_paths and bool(uri)):
        found["uri"] = shown
    if asked.thumbnails:
        found["thumbnail"] = data_uri(small.get(hit.id, b"")) or None
    return found
