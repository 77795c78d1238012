"""What a service is: its models, its index, and whether it is well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bowerbird.client.calls import Answer, Call, Request, one, segment

__all__ = ["Health", "ServedIndex", "ServedModel", "health", "index", "load", "models", "refresh", "unload"]


@dataclass(frozen=True)
class ServedModel:
    """A model of a service.

    Attributes:
        id: what requests call it.
        loaded: whether it is in memory.
        kind: `embedding` or `reranker`.
        dimensions: of its vectors; None as long as that is not known.
        details: what else the service tells of it, as it says it.
    """

    id: str
    loaded: bool
    kind: str
    dimensions: int | None
    details: Mapping[str, Any]


@dataclass(frozen=True)
class ServedIndex:
    """What is told of the index.

    Attributes:
        name: what people call it.
        records: how many.
        models: names of its models, the first being asked where nobody names one.
        parts: of records, that can be searched.
        attributes: names and types of what filters may ask for.
        version: of what is searched at the moment; it grows with every commit.
        details: all that the service tells, as it says it.
    """

    name: str
    records: int
    models: tuple[str, ...]
    parts: tuple[str, ...]
    attributes: Mapping[str, str]
    version: int
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Health:
    """Whether the service can answer, found out there by doing it.

    Attributes:
        ready: all checks passed.
        checks: by name, `ok` or what went wrong.
    """

    ready: bool
    checks: Mapping[str, str] = field(default_factory=dict)


def models() -> Call[list[ServedModel]]:
    """The models of the service, the first being asked where nobody names one.

    Raises:
        ServiceError: the service cannot be reached, or refuses.
    """

    def read(answer: Answer) -> list[ServedModel]:
        said = answer.fields()
        try:
            return [_model(answer, entry) for entry in said["data"]]
        except (KeyError, TypeError) as error:
            raise answer.misread(error) from None

    return one(Request("GET", "/v1/models", read))


def load(model: str) -> Call[ServedModel]:
    """Have a model in memory; takes as long as that does.

    Raises:
        ModelNotFoundError: the service has no such model.
        ServiceError: the service cannot be reached, or refuses.
    """

    def read(answer: Answer) -> ServedModel:
        return _model(answer, answer.fields())

    return one(Request("POST", f"/v1/models/{segment(model)}/load", read))


def unload(model: str) -> Call[bool]:
    """Take a model out of memory. Whether it was there.

    Raises:
        ModelNotFoundError: the service has no such model.
        ServiceError: the service cannot be reached, or refuses.
    """

    def read(answer: Answer) -> bool:
        return bool(answer.fields().get("unloaded"))

    return one(Request("POST", f"/v1/models/{segment(model)}/unload", read))


def index() -> Call[ServedIndex]:
    """What is told of the index.

    Raises:
        IndexNotFoundError: the service has no index.
        ServiceError: the service cannot be reached, or refuses.
    """

    def read(answer: Answer) -> ServedIndex:
        said = answer.fields()
        try:
            return ServedIndex(
                name=str(said["name"]),
                records=int(said["records"]),
                models=tuple(said["models"]),
                parts=tuple(said["parts"]),
                attributes=dict(said["attributes"]),
                version=int(said["version"]),
                details=said,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise answer.misread(error) from None

    return one(Request("GET", "/v1/index", read))


def refresh() -> Call[bool]:
    """Have the service search what was committed last. Whether there was anything new.

    Raises:
        IndexNotFoundError: the service has no index.
        ServiceError: the service cannot be reached, or refuses.
    """

    def read(answer: Answer) -> bool:
        return bool(answer.fields().get("refreshed"))

    return one(Request("POST", "/v1/index/refresh", read))


def health() -> Call[Health]:
    """Whether the service can answer: it runs its models and asks its store. Needs no key.

    Raises:
        ServiceError: the service cannot be reached.
    """

    def read(answer: Answer) -> Health:
        found = answer if answer.status == 503 else answer.checked()
        said = found.said if isinstance(found.said, dict) else {}
        if answer.status == 503 and "checks" not in said:
            answer.checked()
        return Health(
            answer.status == 200, {str(name): str(value) for name, value in said.get("checks", {}).items()}
        )

    return one(Request("GET", "/health/ready", read, final=(503,)))


def _model(answer: Answer, entry: Any) -> ServedModel:
    try:
        return ServedModel(
            str(entry["id"]),
            bool(entry.get("loaded", True)),
            str(entry.get("kind") or "embedding"),
            entry.get("dimensions"),
            dict(entry),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise answer.misread(error) from None
