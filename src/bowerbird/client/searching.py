"""`search` and `rerank`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.client.calls import Answer, Call, Request, one, written
from bowerbird.client.pictures import data_url, picture_bytes
from bowerbird.client.refusals import input_error
from bowerbird.errors import InputError, QueryError
from bowerbird.hits import Hits

__all__ = ["Relevance", "rerank", "search"]


@dataclass(frozen=True)
class Relevance:
    """How well a document answers a question.

    Attributes:
        index: of the document in the call.
        score: higher is better; of one model, scores can be compared. None when there is an error.
        error: why there is no score.
        note: what a person should know, such as that a text was cut; usually empty.
    """

    index: int
    score: float | None = None
    error: InputError | None = None
    note: str = ""


def search(  # noqa: PLR0913  what a question may have
    text: str | Path | Sequence[str] | None = None,
    *,
    k: int = 10,
    image: Any = None,
    like: str = "",
    weights: Sequence[float] = (),
    without: str | Sequence[str] = (),
    unlike: str | Sequence[str] = (),
    among: str = "",
    offset: int = 0,
    where: str = "",
    models: str | Sequence[str] = (),
    fusion: str = "",
    part_weights: Mapping[str, float] | None = None,
    min_match: float | None = None,
    threshold: float | None = None,
    rerank: str = "",
) -> Call[Hits]:
    """The records most like a question, as of `Index.search`.

    Args:
        text: words (a `str`), or a picture (a `Path`); several strings are blended.
        k: at most this many results.
        image: a picture to blend with the words: a `Path` on this machine, the bytes of a picture file, a Pillow
            image, or a uint8 array (h, w, 3).
        like: id of an indexed record: its neighbours.
        weights: one for each text, then one for the picture; equal by default.
        without: words to move away from.
        unlike: ids of indexed records to move away from.
        among: what is searched: `image`, `text`, `words`, or several with commas between.
        offset: so many results are left out first.
        where: a filter, such as ``width > 1000``.
        models: which of the index's models are asked; none: the first.
        fusion: how several parts and models become one list; empty: `calibrated`.
        part_weights: with `weighted`.
        min_match: leave out what matches less, 0 to 1. Where nothing is left, `Hits.below` has the best of it.
        threshold: leave out results whose raw score is less.
        rerank: such as `mmr`, as the service takes it.

    Returns:
        the same type as of `Index.search`. `uris` holds where pictures lie only as far as the service tells it, else
        the names of their files, else ids; times among the attributes are texts.

    Raises:
        QueryError: it cannot be asked.
        InputError: the query picture cannot be read.
        IndexNotFoundError: the service has no index.
        ServiceError: the service cannot be reached, or refuses.
    """
    if isinstance(text, Path):
        if image is not None:
            raise QueryError(
                "Two query pictures were given.", hint="Give one as the query, or blend words with `image`."
            )
        text, image = None, text
    if isinstance(models, str):
        models = [models] if models else []
    body = {
        "texts": [text] if isinstance(text, str) else list(text or ()),
        "like": like,
        "weights": list(weights),
        "without": [without] if isinstance(without, str) else list(without),
        "unlike": [unlike] if isinstance(unlike, str) else list(unlike),
        "among": among,
        "k": k,
        "offset": offset,
        "where": where,
        "models": list(models),
        "fusion": fusion,
        "part_weights": dict(part_weights or {}),
        "min_match": min_match,
        "threshold": threshold,
        "rerank": rerank,
    }
    said = {name: value for name, value in body.items() if value not in ("", None, [], {})}
    return Call(_searches(said, image), lambda read: read[0], blocking=image is not None)


def _searches(said: Mapping[str, Any], image: Any) -> Iterator[Request[Hits]]:
    whole = {**said, "image": data_url(picture_bytes(image))} if image is not None else said
    yield Request("POST", "/v1/search", _hits, body=written(whole))


def rerank(
    query: str, documents: Sequence[str], *, model: str = "", top: int | None = None
) -> Call[list[Relevance]]:
    """How well documents answer a question, best first; those that could not be judged come last.

    Args:
        query: the question.
        documents: texts.
        model: a cross-encoder of the service; empty: its first.
        top: at most so many; None: all.

    Raises:
        ModelNotFoundError: the service has no such cross-encoder.
        InputErrors: none of the documents could be judged.
        ServiceError: the service cannot be reached, or refuses.
    """
    body = {"query": query, "documents": list(documents), "model": model, "top_n": top}
    said = {name: value for name, value in body.items() if value not in ("", None)}
    return one(Request("POST", "/v1/rerank", _relevances, body=written(said)))


def _relevances(answer: Answer) -> list[Relevance]:
    said = answer.fields()
    try:
        return [_relevance(entry) for entry in said["results"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise answer.misread(error) from None


def _relevance(entry: Mapping[str, Any]) -> Relevance:
    if entry.get("error"):
        return Relevance(int(entry["index"]), error=input_error(entry["error"]))
    return Relevance(int(entry["index"]), float(entry["relevance_score"]), note=str(entry.get("note") or ""))


def _hits(answer: Answer) -> Hits:
    said = answer.fields()
    try:
        below = _listed(said["below"], said, None) if said.get("nothing_matches") else None
        return _listed(said["data"], said, below)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise answer.misread(error) from None


def _listed(data: Sequence[Mapping[str, Any]], said: Mapping[str, Any], below: Hits | None) -> Hits:
    told = [{**entry.get("attributes", {}), **_beside(entry)} for entry in data]
    names = dict.fromkeys(name for one in told for name in one)
    # A number that is none is null on its way.
    calibrated = not data or any(entry.get("match") is not None for entry in data)
    return Hits(
        ids=[str(entry["id"]) for entry in data],
        scores=np.asarray([entry["score"] for entry in data], np.float32),
        scale=str(said.get("scale") or ""),
        uris=[str(entry.get("uri") or entry["attributes"].get("name") or entry["id"]) for entry in data],
        attributes={name: [one.get(name) for one in told] for name in names},
        notes=tuple(map(str, said.get("notes") or ())),
        match=np.asarray([entry["match"] for entry in data], np.float32) if calibrated else None,
        parts=[str(entry.get("part") or "") for entry in data],
        models=[str(entry.get("model") or "") for entry in data],
        below=below,
    )


def _beside(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the library has among the attributes, and the service beside them."""
    return {name: entry[name] for name in ("text", "copies") if name in entry}
