"""What is sent and how answers are read, without any network: `Client` and `AsyncClient` carry it out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from bowerbird.client.refusals import refusal
from bowerbird.errors import QueryError, ServiceError

__all__ = ["Answer", "Call", "Request", "one", "segment", "written"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: of HTTP.
        headers: by name, in lower case.
        content: the body.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def request_id(self) -> str:
        """That the service's log knows the request by."""
        return self.headers.get("x-request-id", "")

    @cached_property
    def said(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None

    @property
    def error(self) -> Mapping[str, Any]:
        """What is said of what went wrong; empty where nothing is."""
        inner = self.said.get("error") if isinstance(self.said, dict) else None
        return inner if isinstance(inner, dict) else {}

    @property
    def code(self) -> str:
        """Name of what went wrong; empty where it has none."""
        return str(self.error.get("code") or "")

    def checked(self) -> Answer:
        """Itself.

        Raises:
            BowerbirdError: it is no answer but a refusal.
        """
        if 200 <= self.status < 300:
            return self
        raise refusal(self.status, self.error, self.request_id, self.content)

    def refused_inputs(self, count: int) -> dict[int, Mapping[str, Any]] | None:
        """What was wrong with each input, where all failed and the whole is refused for that; else None.

        Args:
            count: of inputs.
        """
        if self.status != 400 or not self.code.endswith("_input"):
            return None
        several = self.error.get("errors")
        if isinstance(several, list) and len(several) == count:
            return {int(one["index"]): one for one in several}
        return {0: self.error} if count == 1 else None

    def fields(self) -> dict[str, Any]:
        """The JSON object that is expected.

        Raises:
            BowerbirdError: it is a refusal.
            ServiceError: something else was answered.
        """
        if not isinstance(self.checked().said, dict):
            raise self.misread("it is no JSON object")
        found: dict[str, Any] = self.said
        return found

    def misread(self, why: object) -> ServiceError:
        """The error of an answer that is not what such a service gives."""
        return ServiceError(
            f"The answer is not one of Bowerbird's service: {why}.",
            hint="Check the address.",
            status=self.status,
            request_id=self.request_id,
        )


@dataclass(frozen=True)
class Request(Generic[R]):
    """One exchange.

    Attributes:
        method: of HTTP.
        path: with `quote`d parts.
        read: the answer -> what it says. Raises what it refuses.
        query: of the address; what is None is left out.
        body: JSON.
        repeatable: whether doing it twice is as good as once.
        final: statuses that are an answer and no reason to try again.
        halves: the same in two requests, for where the service takes less at once; None: it cannot be split.
    """

    method: str
    path: str
    read: Callable[[Answer], R]
    query: Mapping[str, Any] = field(default_factory=dict)
    body: bytes | None = None
    repeatable: bool = True
    final: tuple[int, ...] = ()
    halves: Callable[[], tuple[Request[R], Request[R]] | None] = lambda: None

    @property
    def target(self) -> str:
        """Path and query."""
        pairs = [
            f"{name}={quote(str(value), safe='')}" for name, value in self.query.items() if value is not None
        ]
        return self.path + ("?" + "&".join(pairs) if pairs else "")


@dataclass(frozen=True)
class Call(Generic[T]):
    """What one method does: requests, taken one after the other while others are under way, and what they come to.

    Attributes:
        requests: consumed lazily; making one may read files.
        joined: what was read, in order -> what the method gives.
        blocking: whether making requests may read files or encode pictures.
    """

    requests: Iterable[Request[Any]]
    joined: Callable[[list[Any]], T]
    blocking: bool = False


def one(request: Request[T]) -> Call[T]:
    """The call of a single request."""
    return Call([request], lambda read: read[0])


def segment(name: str) -> str:
    """Any text as one part of a path; `..` as well, which nothing on the way may take for a step up."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


def written(value: Any) -> bytes:
    """A value as JSON; scalars of NumPy as numbers, times as ISO 8601.

    Raises:
        QueryError: it has something that JSON does not, such as NaN.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain).encode("utf-8")
    except (ValueError, TypeError) as error:  # UnicodeEncodeError is a ValueError
        raise QueryError(
            f"This cannot be sent: {error}.", hint="Give texts, numbers and truth values."
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is neither text nor number")
