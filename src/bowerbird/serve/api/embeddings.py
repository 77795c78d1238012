"""`POST /v1/embeddings`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import orjson
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from bowerbird.errors import (
    InputError,
    ModelFetchError,
    ModelNotFoundError,
    UnreadableError,
    UnsupportedInputError,
)
from bowerbird.models.encoder import Outcome
from bowerbird.serve.api.bodies import field_value, form_of, is_form
from bowerbird.serve.api.document import Answers, Routes
from bowerbird.serve.api.errors import ApiError, error_of, plain
from bowerbird.serve.api.examples import PICTURE
from bowerbird.serve.api.inputs import Pictures, beside, check_pixels, of_tensors
from bowerbird.serve.api.memory import Account, account_of
from bowerbird.serve.api.schemas import (
    EmbeddingsRequest,
    EmbeddingsResponse,
    ImageInput,
    ImageUrlInput,
    Tensor,
    TensorInput,
    TextInput,
    check_number,
    checked,
    read,
)
from bowerbird.serve.encoders import Answer
from bowerbird.serve.limits import Limits
from bowerbird.serve.service import Service

_EXAMPLES = {
    "texts": {"model": "", "input": ["a red dress", "deep sea fishing"]},
    "a text and a picture": {
        "input": [{"text": "a red square"}, {"image": PICTURE}],
        "encoding_format": "base64",
    },
}

_FORM = {
    "type": "object",
    "description": "Pictures as files, and texts, as fields `input`, in order; the other fields as in JSON.",
    "required": ["input"],
    "properties": {
        "input": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "model": {"type": "string"},
        "encoding_format": {"type": "string", "enum": ["float", "base64"], "default": "float"},
        "dimensions": {"type": "integer", "minimum": 1},
        "role": {"type": "string"},
        "output": {"type": "string"},
        "normalize": {"type": "boolean", "default": True},
    },
}

Endpoint = Callable[[Request], Awaitable[Response]]


def routes(to: Routes, service: Service, pictures: Pictures) -> Endpoint:
    """Add them; the endpoint is what may be asked past the application, too."""
    known: list[str] = []

    async def first() -> str:
        """The model that is asked where none is named, which stays the same: asked for once."""
        if not known:
            known.extend([one.id for one in await service.models() if one.kind == "embedding"][:1])
        return known[0] if known else ""

    async def embeddings_create(request: Request) -> Response:
        """Embed texts, pictures, or both, as OpenAI defines it: any of its clients can ask.

        Pictures are data URLs in the JSON (`{"image": ...}`, or OpenAI's `image_url`), or files in a form. Each input
        is answered at its own index: where some cannot be embedded they say why in `error`, and the others have their
        vectors; where none can the answer is 400. Vectors of pictures and texts of one model can be compared.
        """
        return await _embeddings(request, service, pictures, first)

    to.add(
        "POST",
        "/v1/embeddings",
        embeddings_create,
        "embeddings_create",
        summary="Embed texts and pictures",
        tag="Embeddings",
        body=EmbeddingsRequest,
        examples=_EXAMPLES,
        form=_FORM,
        answers=Answers(EmbeddingsResponse, "An entry for each input, in order.", (404,)),
    )
    return embeddings_create


async def _embeddings(
    request: Request, service: Service, pictures: Pictures, first: Callable[[], Awaitable[str]]
) -> Response:
    limits = service.limits
    if is_form(request):
        asked, items = await _form(request, limits.inputs)
    else:
        asked = read(EmbeddingsRequest, await request.body(), limits.inputs)
        items = _listed(asked)
    check_number("input", len(items), limits.inputs)
    inputs, refused = await _inputs(items, asked, service, pictures, account_of(request))
    places = [index for index in range(len(items)) if index not in refused]
    answer = Answer([])
    if places:
        try:
            answer = await service.embed(
                asked.model,
                [inputs[index] for index in places],
                output=asked.output,
                role=asked.role,
                normalize=asked.normalize,
            )
        except (ModelNotFoundError, ModelFetchError) as error:
            raise error_of(error, "model") from None
        except InputError as error:  # of all inputs together
            raise error_of(error, "input") from None
    outcomes: list[Outcome] = [Outcome(index, error=refused.get(index)) for index in range(len(items))]
    for place, outcome in zip(places, answer.outcomes, strict=True):
        outcomes[place] = outcome
    if not asked.model:
        asked.model = await first()
    request.scope["bowerbird"].note(model=asked.model, answer=answer)
    several = len(items) > 1 or isinstance(asked.input, list)
    return _response(asked, outcomes, answer, several=several)


async def _form(request: Request, most: int) -> tuple[EmbeddingsRequest, Sequence[Any]]:
    """A form as the request that JSON would be, and its inputs: texts, and the bytes of files."""
    items: list[str | bytes] = []
    values: dict[str, Any] = {"input": "given beside it"}
    async with form_of(request, most) as form:
        for name, value in form.multi_items():
            if name == "input":
                items.append(await value.read() if isinstance(value, UploadFile) else value)
            elif isinstance(value, UploadFile):
                raise ApiError(400, "Files are taken in the field 'input'.", code="invalid_form", param=name)
            else:
                values[name] = field_value(EmbeddingsRequest, name, value)
    if not items:
        raise ApiError(400, "The input is empty.", code="invalid_value", param="input")
    return checked(EmbeddingsRequest, values), items


def _listed(asked: EmbeddingsRequest) -> Sequence[Any]:
    given = asked.input
    items = given if isinstance(given, list) else [given]
    if not items:
        raise ApiError(400, "The input is empty.", code="invalid_value", param="input")
    if isinstance(items[0], (int, list)):
        raise ApiError(
            400,
            "Arrays of tokens are of another tokeniser than this model's. Send texts; in LangChain, set "
            "check_embedding_ctx_length=False.",
            code="tokens_not_supported",
            param="input",
        )
    return items


async def _inputs(
    items: Sequence[Any],
    asked: EmbeddingsRequest,
    service: Service,
    pictures: Pictures,
    account: Account,
) -> tuple[dict[int, Any], dict[int, InputError]]:
    """By index: what the model is given, or why that cannot be."""
    found: dict[int, Any] = {}
    refused: dict[int, InputError] = {}
    sources: dict[int, str] = {}
    tensors: dict[int, Tensor] = {}
    for index, item in enumerate(items):
        try:
            _check(item, asked, service.limits)
        except InputError as error:
            refused[index] = error
            continue
        if isinstance(item, (str, bytes)):
            found[index] = item
        elif isinstance(item, TextInput):
            found[index] = item.text
        elif isinstance(item, TensorInput):
            tensors[index] = item.tensor
        else:
            sources[index] = _source(item)
    if sources or tensors:
        size = sum(len(one.data) for one in tensors.values())
        for had, bad in (
            await pictures.read(sources, account),
            await beside(size, of_tensors, tensors),
        ):
            found.update(had)
            refused.update(bad)
    if any(isinstance(value, bytes) for value in found.values()):
        given = [found.get(index) for index in range(len(items))]
        refused.update(await asyncio.to_thread(check_pixels, given, service.limits))
    return found, refused


def _check(item: Any, asked: EmbeddingsRequest, limits: Limits) -> None:
    """See that an input can be taken.

    Raises:
        InputError: it cannot.
    """
    text = item if isinstance(item, str) else item.text if isinstance(item, TextInput) else None
    if text is not None:
        if not text:
            raise UnsupportedInputError("The text is empty.", hint="Leave it out.")
        if len(text) > limits.text_chars:
            raise UnsupportedInputError(
                f"The text has {len(text):,} characters; {limits.text_chars:,} are taken.",
                hint="Cut it: the model reads its beginning only.",
            )
    elif isinstance(item, TensorInput):
        if asked.preprocess != "none":
            raise UnsupportedInputError(
                "A tensor is taken with preprocess=none only.", hint='Add "preprocess": "none".'
            )
    elif asked.preprocess == "none":
        raise UnsupportedInputError(
            "With preprocess=none a picture is a tensor.",
            hint='Give {"tensor": {"shape": [3, h, w], "data": "<base64>"}}.',
        )
    elif isinstance(item, bytes) and not item:
        raise UnreadableError("The picture has no bytes.", hint="Send the bytes of the picture file.")


def _source(item: ImageInput | ImageUrlInput) -> str:
    """What a request says of a picture."""
    if isinstance(item, ImageInput):
        return item.image
    return item.image_url if isinstance(item.image_url, str) else item.image_url.url


def _response(
    asked: EmbeddingsRequest, outcomes: Sequence[Outcome], answer: Answer, *, several: bool
) -> Response:
    failed = {outcome.index: outcome.error for outcome in outcomes if outcome.error}
    if len(failed) == len(outcomes):
        errors = {
            index: plain(error_of(one, f"input.{index}"))
            for index, one in enumerate(o.error for o in outcomes)
            if one
        }
        first = error_of(outcomes[0].error or InputError("?"), "input.0" if several else "input")
        if several:
            first.errors = errors
        raise first
    width = asked.dimensions
    data = []
    for index, outcome in enumerate(outcomes):
        entry: dict[str, Any] = {"object": "embedding", "index": index, "embedding": None}
        if outcome.vector is None:
            assert outcome.error is not None
            entry["error"] = plain(error_of(outcome.error, f"input.{index}"))
        else:
            vector = outcome.vector if width is None else _shortened(outcome.vector, width, asked.normalize)
            entry["embedding"] = (
                base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode("ascii")
                if asked.encoding_format == "base64"
                else vector
            )
            notes = [outcome.note] if outcome.note else []
            if width is not None and width < outcome.vector.shape[-1]:
                notes.append(
                    f"the first {width} of {outcome.vector.shape[-1]} dimensions; nothing here says that the model "
                    "was trained to be cut so"
                )
            if notes:
                entry["note"] = "; ".join(notes)
        data.append(entry)
    body = {
        "object": "list",
        "data": data,
        "model": asked.model,
        "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
    }
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _shortened(vector: Any, width: int, normalize: bool) -> Any:
    """The first dimensions, scaled to length 1 again."""
    if width > vector.shape[-1]:
        raise ApiError(
            400,
            f"The model has vectors of {vector.shape[-1]} dimensions; {width} were asked for.",
            code="invalid_value",
            param="dimensions",
        )
    cut = np.ascontiguousarray(vector[..., :width])
    if not normalize:
        return cut
    return cut / np.maximum(np.linalg.norm(cut, axis=-1, keepdims=True), np.float32(1e-12))
