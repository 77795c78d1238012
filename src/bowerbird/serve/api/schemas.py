"""The bodies of requests and answers, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import BaseModel, ConfigDict, FailFast, Field

__all__ = [
    "Embedding",
    "EmbeddingsRequest",
    "EmbeddingsResponse",
    "ErrorResponse",
    "ImageInput",
    "ImageUrlInput",
    "Many",
    "Tensor",
    "TensorInput",
    "TextInput",
    "check_number",
    "checked",
    "read",
]

LARGE = 64 << 10
"""Bytes of a body whose form is looked at before it is checked: what is wrong with a smaller one is soon told."""

MARKS = 1_000_000
"""Commas and brackets of a body: each may stand for a value, which takes up to a hundred times its place in memory."""

NAMES = 1024
"""Names in one object of a body; no request has as many."""

T = TypeVar("T")


class _FirstFault(FailFast):
    """As part of a type, which is hashed."""

    def __hash__(self) -> int:
        return hash(self.fail_fast)


Many = Annotated[list[T], _FirstFault()]
"""A list of which the first fault is told: of a million faults each would have to be written down."""


class Strict(BaseModel):
    """Unknown fields are refused: a misspelt one would be passed over in silence; and so are values of other types."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class TextInput(Strict):
    """A text."""

    type: Literal["text"] = "text"
    text: str


class ImageInput(Strict):
    """A picture: a data URL, the base64 of a picture file, or an address where the service fetches them."""

    type: Literal["image"] = "image"
    image: str = Field(examples=["data:image/jpeg;base64,/9j/4AAQ..."])


class ImageUrl(Strict):
    """Where a picture is."""

    url: str
    detail: str | None = None


class ImageUrlInput(Strict):
    """A picture in the words of OpenAI's chat API."""

    type: Literal["image_url"] = "image_url"
    image_url: ImageUrl | str


class Tensor(Strict):
    """float32 values, little-endian, in C order, as base64."""

    shape: Many[int] = Field(examples=[[3, 224, 224]], min_length=3, max_length=3)
    data: str


class TensorInput(Strict):
    """A picture that is ready for the network: shape (3, height, width), in the range that it was trained with."""

    type: Literal["tensor"] = "tensor"
    tensor: Tensor


Item = Union[str, TextInput, ImageInput, ImageUrlInput, TensorInput]  # noqa: UP007  pydantic reads it at run time


class EmbeddingsRequest(Strict):
    """OpenAI's request, extended to pictures."""

    model: str = Field("", description="A model of GET /v1/models; empty takes the first.", examples=["mini"])
    input: Item | Many[Item] | Many[int] | Many[Many[int]] = Field(
        description="A text, a picture, or a list of them. Arrays of tokens are refused: they are of another "
        "tokeniser.",
        examples=["a red dress", ["a red dress", {"image": "data:image/jpeg;base64,/9j/4AAQ..."}]],
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Keep the first so many and scale to length 1 again, for models trained so (Matryoshka).",
    )
    user: str | None = Field(None, description="Taken, and not used.")
    role: str = Field(
        "", description="A prompt of the model, such as `query` or `document`.", examples=["query"]
    )
    output: str = Field("", description="An output of the picture tower; empty: the one shared with texts.")
    preprocess: Literal["model", "none"] = Field(
        "model", description="`none`: pictures are tensors, ready for the network."
    )
    normalize: bool = Field(True, description="Scale vectors to length 1.")


class ErrorDetail(BaseModel):
    """What went wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None
    errors: list[ErrorAt] | None = Field(
        None, description="Where all of several inputs failed, why each did."
    )


class ErrorAt(BaseModel):
    """What was wrong with one of several inputs."""

    index: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """Every answer that is not 2xx."""

    error: ErrorDetail


class Embedding(BaseModel):
    """What became of one input."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str | None = Field(
        description="The vector; with encoding_format base64, its float32 bytes; null where there is an error."
    )
    note: str | None = Field(None, description="What a person should know, such as that a text was cut.")
    error: ErrorDetail | None = Field(None, description="Why there is no vector.")


class Usage(BaseModel):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """An entry for each input, in order. Where some failed they say why, and the others have their vectors."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


def read(kind: type[Any], body: bytes, most: int = 0) -> Any:
    """A body as a model.

    Args:
        kind: the model.
        body: of a request.
        most: entries that each of its lists may have; 0: any number.

    Raises:
        ApiError: it is no JSON, or not of this form; says where.
    """
    import orjson

    from bowerbird.serve.api.errors import ApiError

    large = len(body) > LARGE
    if large and sum(map(body.count, (b",", b"[", b"{"))) > MARKS:
        raise ApiError(413, "The body has too many values. Send less at once.", code="body_too_large")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is no JSON: {error}.", code="invalid_json") from None
    if large:
        _check_objects(value)
    if most and isinstance(value, dict):
        # Before they are made, one by one: while 100,000 are, nobody is answered.
        for name in kind.model_fields:
            if isinstance(given := value.get(name), list):
                check_number(name, len(given), most)
    return checked(kind, value)


def check_number(param: str, given: int, most: int) -> None:
    """Refuse more entries of a list than are taken.

    Args:
        param: the field that has them, such as `records`.
        given: how many.
        most: that are taken.

    Raises:
        ApiError: there are more.
    """
    from bowerbird.serve.api.errors import ApiError

    if given > most:
        raise ApiError(
            400,
            f"{given:,} {param.removesuffix('s')}s were given; {most:,} are taken at once. "
            "Send them in several requests.",
            code="too_many_inputs",
            param=param,
        )


def _check_objects(value: Any) -> None:
    """Pydantic writes down every name that it does not know; this is much faster."""
    from bowerbird.serve.api.errors import ApiError

    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict) and len(one) > NAMES:
            raise ApiError(400, f"An object has {len(one):,} fields.", code="invalid_value")
        inside = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        left += [each for each in inside if isinstance(each, (dict, list))]


def checked(kind: type[Any], value: Any) -> Any:
    """Plain data as a model.

    Raises:
        ApiError: it is not of this form; says where.
    """
    from pydantic import ValidationError

    from bowerbird.serve.api.errors import ApiError
    from bowerbird.serve.api.faults import fault_of

    try:
        return kind.model_validate(value)
    except ValidationError as error:
        faults: Any = error.errors(include_url=False, include_context=False, include_input=False)
        raise fault_of(faults, kind, value) from None
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.", code="invalid_json") from None


def invalid(faults: Any) -> Any:
    """The error of parameters that are not as they should be."""
    from bowerbird.serve.api.faults import fault_of

    return fault_of(faults, None, None)
