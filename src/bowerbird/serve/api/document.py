"""Routes, and the OpenAPI document that is made of them.

Bodies are read by hand (see `bodies`), so the document is told here what they are: each request's schema is one of the
components, as if FastAPI had read it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bowerbird.serve.api.errors import ApiError
from bowerbird.serve.api.schemas import ErrorResponse

__all__ = ["Answers", "Routes"]

_REFERENCE = "#/components/schemas/{model}"

_ERRORS = {
    400: "The request is not as it should be; `param` says where.",
    401: "No key was shown, or one that is not known.",
    403: "Not allowed: by the key, or by how the service was started.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    409: "Not while it is in use.",
    413: "The body is too large.",
    415: "The body is of another media type.",
    429: "Too many requests of one key; `Retry-After` says when to come back.",
    500: "A defect; the log has the details, by the request's id.",
    501: "A package that this needs is not installed where the service runs.",
    503: "Too much is waiting, or something cannot be reached; `Retry-After` says when to come back.",
    504: "It took too long and was given up.",
    507: "No space is left where the index lies.",
}

ASKED = (400, 401, 403, 429, 500, 503, 504)
"""What any route of the API may answer."""

WITH_BODY = (408, 413, 415)
"""What those with a body may answer beside that."""

_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]

TAGS = {
    "Embeddings": "Texts and pictures become vectors.",
    "Search": "The index, asked by words, by pictures, or by both.",
    "Records": "What the index holds.",
    "Rerank": "Texts, judged by a cross-encoder.",
    "Models": "What is served, and what is in memory.",
    "Index": "What is searched.",
    "Health": "For whoever looks after the service. Needs no key.",
}

_ABOUT = """Embeddings of pictures and text, and search by meaning.

Any OpenAI client is a client of `/v1/embeddings`. Errors are OpenAI's: `{"error": {"message", "type", "param",
"code"}}`. Where one request has several inputs, each is answered at its own index, errors included. Every answer
carries `x-request-id`.
"""


@dataclass(frozen=True)
class Answers:
    """What a route answers.

    Attributes:
        model: of the JSON of a 200; None: `content` says what it is.
        about: the 200, in a sentence.
        errors: statuses beside those that every route has.
        content: by media type, a schema each, where the answer is no JSON.
        more: what else is answered, by status, as FastAPI takes it.
    """

    model: type[BaseModel] | None
    about: str
    errors: Sequence[int] = ()
    content: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[int, dict[str, Any]] = field(default_factory=dict)


class Routes:
    """Adds routes to an application, with all that the document says of them.

    Args:
        app: they are added to.
    """

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._bodies: dict[str, dict[str, Any]] = {}
        app.openapi = self.document  # type: ignore[method-assign]

    def add(  # noqa: PLR0913  what is said of a route
        self,
        method: str,
        path: str,
        endpoint: Callable[..., Awaitable[Response]],
        name: str,
        *,
        summary: str,
        tag: str,
        answers: Answers,
        body: type[BaseModel] | None = None,
        examples: Mapping[str, Any] | None = None,
        form: Mapping[str, Any] | None = None,
        parameters: Sequence[Mapping[str, Any]] = (),
        public: bool = False,
    ) -> None:
        """Add one.

        Args:
            method: of HTTP; GET answers HEAD, too.
            path: with the names of its parameters.
            endpoint: answers; its docstring is the description.
            name: of the operation, as clients call the method.
            summary: a few words.
            tag: one of `TAGS`.
            answers: see there.
            body: what the JSON of a request is.
            examples: of requests that work as they stand, by title.
            form: the JSON schema of a multipart form that is taken in its stead.
            parameters: beside those that FastAPI reads.
            public: needs no key.
        """
        extra: dict[str, Any] = {"security": [] if public else _SECURITY}
        if parameters:
            extra["parameters"] = list(parameters)
        if body is not None:
            content: dict[str, Any] = {"application/json": {"schema": self._component(body)}}
            if examples:
                content["application/json"]["examples"] = {
                    title: {"value": value} for title, value in examples.items()
                }
            if form:
                content["multipart/form-data"] = {"schema": dict(form)}
            extra["requestBody"] = {"required": True, "content": content}
        options: dict[str, Any] = {"summary": summary, "tags": [tag], "openapi_extra": extra}
        statuses = sorted({*answers.errors, *(() if public else ASKED), *(WITH_BODY if body else ())})
        responses: dict[int | str, dict[str, Any]] = {200: _ok(answers)}
        responses.update((status, said) for status, said in answers.more.items())
        responses.update({s: {"model": ErrorResponse, "description": _ERRORS[s]} for s in statuses})
        known = {one["name"] for one in parameters if one["in"] == "query"}
        known |= set(inspect.signature(endpoint).parameters) - {"request"}
        options["dependencies"] = [] if public else [Depends(_only(known))]
        self.app.add_api_route(
            path,
            endpoint,
            methods=[method],
            operation_id=name,
            name=name,
            response_class=Response
            if answers.content
            else JSONResponse,  # what answers are, for the document
            responses=responses,
            **options,
        )
        if method == "GET":
            self.app.add_api_route(
                path,
                endpoint,
                methods=["HEAD"],
                name=f"{name}_head",
                include_in_schema=False,
                dependencies=options["dependencies"],
            )

    def _component(self, model: type[BaseModel]) -> dict[str, str]:
        schema = model.model_json_schema(ref_template=_REFERENCE)
        self._bodies.update(schema.pop("$defs", {}))
        self._bodies[model.__name__] = schema
        return {"$ref": _REFERENCE.format(model=model.__name__)}

    def document(self) -> dict[str, Any]:
        """The OpenAPI document."""
        app = self.app
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=_ABOUT,
                routes=app.routes,
                tags=[{"name": name, "description": about} for name, about in TAGS.items()],
                license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
            )
            components = made.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            schemas.update({name: one for name, one in self._bodies.items() if name not in schemas})
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A key of the service."},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            }
            _without_fastapis_own(made)
            app.openapi_schema = made
        return app.openapi_schema


def _only(known: Collection[str]) -> Callable[[Request], Awaitable[None]]:
    """Refuses parameters that the route does not have: a misspelt one would be passed over in silence."""

    async def check(request: Request) -> None:
        for name in request.query_params:
            if name not in known:
                near = get_close_matches(name, known, 1)
                meant = f" Did you mean {near[0]}?" if near else ""
                has = f"There are {', '.join(sorted(known))}." if known else "The route has none."
                said = f"There is no parameter {name[:60]!r}.{meant} {has}"
                raise ApiError(400, said, code="invalid_value", param=name[:60])

    return check


def _ok(answers: Answers) -> dict[str, Any]:
    found: dict[str, Any] = {"description": answers.about}
    if answers.model is not None:
        found["model"] = answers.model
    if answers.content:
        found["content"] = {kind: {"schema": schema} for kind, schema in answers.content.items()}
    return found


def _without_fastapis_own(document: dict[str, Any]) -> None:
    """Parameters that are wrong are answered like everything else that is wrong, with 400."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
