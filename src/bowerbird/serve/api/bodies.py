"""Bodies of requests: JSON, or a form with uploaded files, read by hand and checked against a model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response

from bowerbird.serve.api.errors import ApiError
from bowerbird.serve.api.schemas import checked, read

__all__ = ["answer", "field_value", "form_of", "is_form", "json_of", "of_fields"]

M = TypeVar("M", bound=BaseModel)


def is_form(request: Request) -> bool:
    """Whether the body is a form with files.

    Raises:
        ApiError: it is neither that nor JSON.
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        # A little of it can unfold to more than there is memory.
        raise ApiError(
            415,
            f"The body is compressed ({coding[:20]}), which is not taken. Send it as it is, without Content-Encoding.",
            code="unsupported_media_type",
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return True
    if kind in ("", "application/json") or kind.endswith("+json"):
        return False
    raise ApiError(
        415,
        f"The body is {kind[:80]}; JSON is taken here. Send it with the header Content-Type: application/json.",
        code="unsupported_media_type",
    )


async def json_of(request: Request, kind: type[M], most: int = 0) -> M:
    """The body as a model; see `read`.

    Raises:
        ApiError: it is no JSON, or not of this form; says where.
    """
    if is_form(request):
        raise ApiError(
            415,
            "The body is a form; JSON is taken here. Send it with the header Content-Type: application/json.",
            code="unsupported_media_type",
        )
    found: M = read(kind, await request.body(), most)
    return found


@asynccontextmanager
async def form_of(request: Request, most: int) -> AsyncIterator[FormData]:
    """The body as a form, whose files are closed in the end.

    Args:
        request: of which.
        most: fields, and files, that are taken.

    Raises:
        ApiError: it is malformed, or has more.
    """
    from starlette.exceptions import HTTPException
    from starlette.formparsers import MultiPartException

    try:
        form = await request.form(max_files=most, max_fields=most)
    except (HTTPException, MultiPartException) as error:
        said = error.detail if isinstance(error, HTTPException) else error.message
        raise ApiError(400, f"The form cannot be read: {said}", code="invalid_form") from None
    try:
        yield form
    finally:
        await form.close()


async def of_fields(
    form: FormData,
    kind: type[M],
    *,
    files: str,
    many: Sequence[str] = (),
    objects: Sequence[str] = (),
    numbers: Sequence[str] = (),
) -> tuple[M, list[bytes]]:
    """A form as the model that JSON would be, and the bytes of its files.

    Fields that hold texts are taken as they are, all others as JSON.

    Args:
        form: of which.
        kind: the model.
        files: name of the field with files.
        many: fields that may come several times, and become lists.
        objects: likewise, of JSON each.
        numbers: fields of several numbers, which may stand with commas between them.

    Raises:
        ApiError: a field is not as it should be.
    """
    uploads: list[bytes] = []
    values: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != files:
                raise ApiError(
                    400, f"Files are taken in the field {files!r}.", code="invalid_form", param=name
                )
            uploads.append(await value.read())
        elif name in many:
            values.setdefault(name, []).append(value)
        elif name in objects:
            values.setdefault(name, []).append(_parsed(value))
        elif name in values:
            raise ApiError(400, f"{name} comes several times.", code="invalid_form", param=name)
        else:
            values[name] = field_value(kind, name, _list(value) if name in numbers else value)
    return checked(kind, values), uploads


def field_value(kind: type[BaseModel], name: str, text: str) -> Any:
    """A field of a form as a model takes it: texts as they are, all others as JSON."""
    field = kind.model_fields.get(name)
    if field is None or field.annotation is str:
        return text
    return _parsed(text)


def _list(text: str) -> str:
    """Numbers with commas between them as JSON has them."""
    return text if text.lstrip().startswith("[") else f"[{text}]"


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def answer(body: Mapping[str, Any], status: int = 200, **headers: str) -> Response:
    """An answer of JSON; what JSON does not know is written as text, numbers that are none as null."""
    written = orjson.dumps(body, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(written, status, headers=headers, media_type="application/json")


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
