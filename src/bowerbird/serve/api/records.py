"""`/v1/records`: what the index holds, added, listed, shown and removed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union

from fastapi import Query as Parameter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from bowerbird.errors import InputError, UnsupportedInputError
from bowerbird.record import Record
from bowerbird.serve.api.bodies import answer, form_of, is_form, json_of, of_fields
from bowerbird.serve.api.document import Answers, Routes
from bowerbird.serve.api.errors import ApiError, error_of, plain
from bowerbird.serve.api.examples import PICTURE
from bowerbird.serve.api.images import image_route
from bowerbird.serve.api.inputs import Pictures, check_pixels
from bowerbird.serve.api.memory import Account, account_of
from bowerbird.serve.api.paths import ID, id_of, not_found
from bowerbird.serve.api.schemas import ErrorDetail, Many, Strict, check_number, checked
from bowerbird.serve.api.shown import image_address, shown_attributes, shown_uri
from bowerbird.serve.indexed import Stored
from bowerbird.serve.service import Service

MOST_LISTED = 1000
"""Records of one page."""

MOST_ATTRIBUTES = 256
"""Of one record: each is a column of the index."""

MOST_TEXTS = 64
"""Of one record: each is embedded."""

MOST_COLUMNS = 1000
"""Attributes of all records together that requests may bring an index to."""

Value = Union[str, int, float, bool, None]  # noqa: UP007  pydantic reads it at run time


class RecordInput(Strict):
    """A record to add: a picture, texts that say what it is, or both."""

    id: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="Its own; a record of the same id is replaced. None: made of its content.",
    )
    image: str | None = Field(
        None,
        description="A data URL, base64, or an address where the service fetches them.",
        examples=[PICTURE],
    )
    text: str | None = Field(None, description="What the picture shows, or the record is about.")
    texts: Many[str] | None = Field(None, description="Several of these.")
    attributes: dict[Annotated[str, Field(min_length=1, max_length=256)], Value] = Field(
        default_factory=dict,
        max_length=MOST_ATTRIBUTES,
        description="What else is known of it; filters may ask for these.",
        examples=[{"price": 12.5, "brand": "acme"}],
    )


class RecordsRequest(Strict):
    """Records to add."""

    records: Many[RecordInput] = Field(min_length=1)


class RecordFields(Strict):
    """The fields of a form beside its files."""

    id: Many[str] = Field(default_factory=list)
    text: Many[str] = Field(default_factory=list)
    attributes: Many[dict[str, Value]] = Field(default_factory=list)


class RecordFailure(BaseModel):
    """Why one could not be added."""

    index: int
    id: str | None
    error: ErrorDetail


class RecordsAdded(BaseModel):
    """What became of the records, each at its own index."""

    object: Literal["records.added"] = "records.added"
    ids: list[str | None] = Field(description="One for each, in order; null for those that failed.")
    added: int = Field(description="How many are new.")
    changed: int = Field(description="How many replace one of the same id that had other bytes.")
    unchanged: int = Field(description="How many were there already; their attributes may have changed.")
    failed: list[RecordFailure]


class RecordShown(BaseModel):
    """A record as the index holds it."""

    object: Literal["record"] = "record"
    id: str
    text: str = Field(description="Its texts, one on a line.")
    attributes: dict[str, Any]
    image: str | None = Field(description="Path of its picture; null where it has none.")
    uri: str | None = Field(None, description="Where its picture lies, where that is shown.")


class RecordList(BaseModel):
    """Some records, in the order of their ids."""

    object: Literal["list"] = "list"
    data: list[RecordShown]
    has_more: bool = Field(description="Whether there are further ones, behind the last of these.")


class RecordRemoved(BaseModel):
    """It was there, and is no more."""

    object: Literal["record"] = "record"
    id: str
    deleted: bool


_EXAMPLES = {
    "a picture and its caption": {
        "records": [
            {
                "id": "red-square",
                "image": PICTURE,
                "text": "a red square on white",
                "attributes": {"price": 12.5, "brand": "acme"},
            }
        ]
    },
    "texts": {"records": [{"text": "deep sea fishing"}, {"text": "a note on gardens"}]},
}

_FORM = {
    "type": "object",
    "description": "Pictures as files. The other fields, where they are given, come once for each picture, in order.",
    "required": ["image"],
    "properties": {
        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "id": {"type": "array", "items": {"type": "string"}},
        "text": {"type": "array", "items": {"type": "string"}},
        "attributes": {"type": "array", "items": {"type": "string"}, "description": "A JSON object each."},
    },
}


def routes(to: Routes, service: Service, pictures: Pictures, *, show_paths: bool) -> None:
    """Add them."""

    def shown(record: Stored) -> dict[str, Any]:
        found = {
            "object": "record",
            "id": record.id,
            "text": record.text,
            "attributes": shown_attributes(record.attributes, record.uri, show_paths=show_paths),
            "image": image_address(record.id, record.attributes),
        }
        uri = shown_uri(record.uri, show_paths=show_paths)
        return {**found, "uri": uri} if uri else found

    async def records_list(
        after: Annotated[
            str, Parameter(description="An id: what comes behind it. None: from the beginning.")
        ] = "",
        limit: Annotated[int, Parameter(ge=1, le=MOST_LISTED, description="At most so many.")] = 100,
        where: Annotated[str, Parameter(description="A filter over the attributes.")] = "",
    ) -> Response:
        """List records in the order of their ids. Pages neither overlap nor skip a record that stays, whatever is added
        or removed in between.
        """
        page = await service.page(after=after, limit=limit, where=where, paths=show_paths)
        return answer({"object": "list", "data": list(map(shown, page.records)), "has_more": page.more})

    async def records_add(request: Request) -> Response:
        """Add records, or replace those of the same id. They are found as soon as this is answered.

        What cannot be added says why at its own index, and stops nothing; where all of them fail the answer is 400.
        Pictures are sent in the JSON, or uploaded as the fields `image` of a form. A request that is given up because
        it took too long may still be carried out: sending it again adds nothing twice.
        """
        asked, files = await _read(request, service.limits.inputs)
        return await _add(asked, files, service, pictures, account_of(request))

    async def record_get(request: Request) -> Response:
        """One record. Its id may hold any character, percent-encoded."""
        id_ = id_of(request)
        record = await service.record(id_)
        if record is None:
            raise not_found(id_)
        return answer(shown(record))

    async def record_delete(request: Request) -> Response:
        """Take a record out of the index. One that came from a folder is found there again when that is indexed."""
        id_ = id_of(request)
        if not await service.remove([id_]):
            raise not_found(id_)
        return answer({"object": "record", "id": id_, "deleted": True})

    about: dict[str, Any] = {"tag": "Records"}
    to.add(
        "GET",
        "/v1/records",
        records_list,
        "records_list",
        summary="List records",
        answers=Answers(RecordList, "Records, in the order of their ids.", (404,)),
        **about,
    )
    to.add(
        "POST",
        "/v1/records",
        records_add,
        "records_add",
        summary="Add records",
        body=RecordsRequest,
        examples=_EXAMPLES,
        form=_FORM,
        answers=Answers(RecordsAdded, "What became of each.", (404, 507)),
        **about,
    )
    image_route(to, service, record_get)
    to.add(
        "GET",
        "/v1/records/{id:anything}",
        record_get,
        "record_get",
        summary="Show a record",
        parameters=[ID],
        answers=Answers(RecordShown, "The record.", (404,)),
        **about,
    )
    to.add(
        "DELETE",
        "/v1/records/{id:anything}",
        record_delete,
        "record_delete",
        summary="Remove a record",
        parameters=[ID],
        answers=Answers(RecordRemoved, "It was removed.", (404, 507)),
        **about,
    )


async def _read(request: Request, most: int) -> tuple[list[RecordInput], list[bytes]]:
    """Records, and their pictures where they were uploaded."""
    if not is_form(request):
        return (await json_of(request, RecordsRequest, most)).records, []
    async with form_of(request, most) as form:
        fields, files = await of_fields(
            form, RecordFields, files="image", many=("id", "text"), objects=("attributes",)
        )
    if not files:
        raise ApiError(400, "The form has no picture.", code="invalid_form", param="image")
    check_number("records", len(files), most)
    for name in ("id", "text", "attributes"):
        given = len(getattr(fields, name))
        if given not in (0, len(files)):
            raise ApiError(
                400,
                f"{given} fields {name} came with {len(files)} pictures. Give one for each, or none.",
                code="invalid_form",
                param=name,
            )
    columns = {name: values for name in ("id", "text", "attributes") if (values := getattr(fields, name))}
    rows = ({name: values[place] for name, values in columns.items()} for place in range(len(files)))
    return [checked(RecordInput, row) for row in rows], files


async def _add(
    asked: Sequence[RecordInput],
    files: Sequence[bytes],
    service: Service,
    pictures: Pictures,
    account: Account,
) -> Response:
    await _check_columns(asked, service)
    images: list[bytes | None] = list(files) or [None] * len(asked)
    failed: dict[int, InputError] = {}
    sources: dict[int, str] = {}
    for index, one in enumerate(asked):
        try:
            _check_parts(one, service.limits.text_chars, uploaded=images[index] is not None)
            if one.image is not None:
                sources[index] = one.image
        except InputError as error:
            failed[index] = error
    found, bad = await pictures.read(sources, account)
    for index, data in found.items():
        images[index] = data
    failed = {**await asyncio.to_thread(check_pixels, images, service.limits), **failed, **bad}
    places = [index for index in range(len(asked)) if index not in failed]
    # Asked even with nothing to add: whoever may not add is told so in any case.
    added = await service.add(
        [
            Record(
                asked[i].id or "",
                images[i],
                _texts(asked[i]),
                asked[i].attributes,
                named=asked[i].id is not None,
            )
            for i in places
        ]
    )
    failed.update({places[index]: error for index, error in added.failed.items()})
    ids = dict(zip(places, added.ids, strict=True))
    if len(failed) == len(asked):
        first = _told(0, failed[0])
        if len(asked) > 1:
            first.errors = {i: plain(_told(i, one)) for i, one in failed.items()}
        raise first
    return answer(
        {
            "object": "records.added",
            "ids": [ids.get(index) or None for index in range(len(asked))],
            "added": added.added,
            "changed": added.changed,
            "unchanged": added.unchanged,
            "failed": [
                {"index": i, "id": asked[i].id, "error": plain(_told(i, one))}
                for i, one in sorted(failed.items())
            ],
        }
    )


def _told(index: int, error: InputError) -> ApiError:
    """What is told of one record, with the part of it that is at fault."""
    found = error_of(error)
    found.param = f"records.{index}.{error.param}".rstrip(".")
    return found


async def _check_columns(asked: Sequence[RecordInput], service: Service) -> None:
    """Nobody gets rid of a column again, so requests cannot make any number of them."""
    facts = await service.facts()
    known = set(facts.attributes) if facts is not None else set()
    new = {name for one in asked for name in one.attributes} - known
    if new and len(known) + len(new) > MOST_COLUMNS:
        raise ApiError(
            400,
            f"The index has {len(known)} attributes, and the request has {len(new)} that are new; {MOST_COLUMNS} are "
            "taken in all.",
            code="too_many_attributes",
            param="records",
        )


def _texts(one: RecordInput) -> tuple[str, ...]:
    return tuple(
        text for text in ([] if one.text is None else [one.text]) + (one.texts or []) if text.strip()
    )


def _check_parts(one: RecordInput, most: int, *, uploaded: bool) -> None:
    """See that a record has something, and not too much of it.

    Raises:
        UnsupportedInputError: it is not so.
    """
    if one.image is None and not uploaded and not _texts(one):
        raise UnsupportedInputError("The record has neither a picture nor a text.", hint="Give one.")
    if len(one.texts or ()) > MOST_TEXTS:
        raise UnsupportedInputError(
            f"The record has {len(one.texts or ()):,} texts; {MOST_TEXTS} are taken.",
            hint="Make several records of it.",
        )
    if any(len(text) > most for text in _texts(one)):
        raise UnsupportedInputError(f"A text has more than the {most:,} characters that are taken.")
