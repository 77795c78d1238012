"""`Client` and `AsyncClient`: two ways to carry out the same calls.

What can be asked, and how answers are read, is written once, in the modules beside this one. The two classes here
only send, wait and iterate.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from difflib import get_close_matches
from functools import update_wrapper
from inspect import signature
from itertools import chain, islice
from types import TracebackType
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, overload

import httpx2

from bowerbird.client import embedding, searching, state, stored
from bowerbird.client.calls import Answer, Call, Request
from bowerbird.client.exchange import Steps, exchange
from bowerbird.client.retries import Retries
from bowerbird.errors import ServiceError
from bowerbird.lookahead import ordered_map
from bowerbird.settings import settings

__all__ = ["AsyncClient", "Client"]

P = ParamSpec("P")
T = TypeVar("T")
Transport = TypeVar("Transport")

CONNECT_SECONDS = 10.0
PAGE = 500
"""Records that are fetched at once."""


class Method(Generic[P, T]):
    """A function that makes a `Call`, as a method that carries it out; that of `AsyncClient` is awaited."""

    def __init__(self, call: Callable[P, Call[T]]) -> None:
        self._call = call
        self.__doc__ = call.__doc__

    @overload
    def __get__(self, client: None, kind: type) -> Callable[P, Call[T]]: ...
    @overload
    def __get__(self, client: Client, kind: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncClient, kind: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, client: Any, kind: type) -> Any:
        if client is None:
            return self._call

        def carried_out(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client._run(self._made(*args, **kwargs))

        async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await client._run(self._made(*args, **kwargs))

        return update_wrapper(awaited if isinstance(client, AsyncClient) else carried_out, self._call)

    def _made(self, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """The call.

        Raises:
            TypeError: it has no such argument; says which was meant perhaps.
        """
        try:
            return self._call(*args, **kwargs)
        except TypeError:
            known = list(signature(self._call).parameters)
            unknown = [name for name in kwargs if name not in known]
            if not unknown:
                raise
            near = get_close_matches(unknown[0].lower(), known, 1, 0.6)
            raise TypeError(
                f"{self._call.__name__}() has no argument {unknown[0]!r}."
                f"{f' Did you mean {near[0]}?' if near else ''} There are {', '.join(known)}."
            ) from None


class Methods(Generic[Transport]):
    """What a service can be asked. Every method takes and gives the same in `Client` and, awaited, in `AsyncClient`."""

    _connected: ClassVar[Callable[..., Any]]
    """What makes connections, of httpx."""

    embed = Method(embedding.embed)
    outcomes = Method(embedding.outcomes)
    search = Method(searching.search)
    rerank = Method(searching.rerank)
    page = Method(stored.page)
    record = Method(stored.record)
    image = Method(stored.image)
    add = Method(stored.add)
    delete = Method(stored.delete)
    models = Method(state.models)
    load = Method(state.load)
    unload = Method(state.unload)
    index = Method(state.index)
    refresh = Method(state.refresh)
    health = Method(state.health)

    def __init__(
        self,
        address: str = "http://localhost:8080",
        *,
        api_key: str = "",
        timeout: float = 90.0,
        retries: int = 5,
        retry_seconds: float = 60.0,
        parallel: int = 4,
        transport: Transport | None = None,
    ) -> None:
        self.address = _address(address)
        self._retries = Retries(retries, retry_seconds)
        self._parallel = max(1, parallel)
        self._heard = False  # whether the service has ever answered
        limits = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS))
        self._http = self._connected(headers=_headers(api_key), timeout=limits, transport=transport)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._shown}>"

    @property
    def _shown(self) -> str:
        url = httpx2.URL(self.address)
        return str(url.copy_with(username=None, password=None)) if url.userinfo else self.address

    def _sending(self, request: Request[Any]) -> dict[str, Any]:
        """As httpx takes it."""
        headers = {} if request.body is None else {"content-type": "application/json"}
        return {
            "method": request.method,
            "url": self.address + request.target,
            "content": request.body,
            "headers": headers,
        }

    def _steps(self, request: Request[T]) -> Steps[list[T]]:
        return exchange(request, self._retries, self._shown, heard=self._heard)

    def _answer(self, response: httpx2.Response) -> Answer:
        self._heard = True
        return Answer(response.status_code, response.headers, response.content)


class Client(Methods[httpx2.BaseTransport]):
    """A running service.

    >>> with bb.Client("http://localhost:8080", api_key="...") as client:    # doctest: +SKIP
    ...     client.search("a red dress", k=10)

    Safe to use from several threads. What may be sent twice is sent again where the service is busy (429, 503), is
    restarted, or a connection breaks, after a pause that grows, or that the service asks for. Where nobody has ever
    answered, that is told at once.

    Args:
        address: of the service, with or without ``/v1``.
        api_key: that the service wants; empty: `BOWERBIRD_API_KEY`, or none.
        timeout: seconds for which a service may be silent.
        retries: further attempts at the most.
        retry_seconds: in which the last of them begins.
        parallel: requests at once, where one call makes several.
        transport: of httpx, instead of the network.

    Raises:
        ServiceError: the address is none.
    """

    _connected = httpx2.Client
    _http: httpx2.Client

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def records(self, *, where: str = "") -> Iterator[stored.StoredRecord]:
        """All records in the order of their ids, fetched as they are consumed.

        Args:
            where: a filter, such as ``width > 1000``.

        Raises:
            QueryError: the filter cannot be understood.
            IndexNotFoundError: the service has no index.
            ServiceError: the service cannot be reached, or refuses.
        """
        after = ""
        while True:
            page = self.page(after=after, limit=PAGE, where=where)
            yield from page.records
            if not (page.more and page.records):
                return
            after = page.records[-1].id

    def _run(self, call: Call[T]) -> T:
        requests = iter(call.requests)
        first = list(islice(requests, 2))
        if len(first) < 2:
            return call.joined([read for request in first for read in self._one(request)])
        ahead = self._parallel
        found = ordered_map(self._one, chain(first, requests), threads=ahead, ahead=ahead)
        return call.joined([read for one in found for read in one])

    def _one(self, request: Request[Any]) -> list[Any]:
        steps = self._steps(request)
        step = next(steps)
        while True:
            outcome = None
            if isinstance(step, float):
                time.sleep(step)
            else:
                outcome = self._sent(step)
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                return list(done.value)

    def _sent(self, request: Request[Any]) -> Answer | Exception:
        try:
            response = self._http.request(**self._sending(request))
        except httpx2.RequestError as error:
            return error
        return self._answer(response)


class AsyncClient(Methods[httpx2.AsyncBaseTransport]):
    """A running service, for programs with an event loop of asyncio.

    >>> async with bb.AsyncClient("http://localhost:8080") as client:        # doctest: +SKIP
    ...     await client.search("a red dress", k=10)

    Files are read, and pictures encoded, in threads. Otherwise as `Client`, with the same arguments.

    Raises:
        ServiceError: the address is none.
    """

    _connected = httpx2.AsyncClient
    _http: httpx2.AsyncClient

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def records(self, *, where: str = "") -> AsyncIterator[stored.StoredRecord]:
        """As of `Client`."""
        after = ""
        while True:
            page = await self.page(after=after, limit=PAGE, where=where)
            for record in page.records:
                yield record
            if not (page.more and page.records):
                return
            after = page.records[-1].id

    async def _run(self, call: Call[T]) -> T:
        requests = iter(call.requests)
        under_way: deque[asyncio.Task[list[Any]]] = deque()
        found: list[Any] = []
        try:
            while (request := await _next(requests, blocking=call.blocking)) is not None:
                under_way.append(asyncio.ensure_future(self._one(request)))
                if len(under_way) == self._parallel:
                    found += await under_way.popleft()
            while under_way:
                found += await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        return call.joined(found)

    async def _one(self, request: Request[Any]) -> list[Any]:
        steps = self._steps(request)
        step = next(steps)
        while True:
            outcome = None
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                outcome = await self._sent(step)
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                return list(done.value)

    async def _sent(self, request: Request[Any]) -> Answer | Exception:
        try:
            response = await self._http.request(**self._sending(request))
        except httpx2.RequestError as error:
            return error
        return self._answer(response)


async def _next(requests: Iterator[Request[Any]], *, blocking: bool) -> Request[Any] | None:
    return await asyncio.to_thread(next, requests, None) if blocking else next(requests, None)


def _headers(api_key: str) -> dict[str, str]:
    import bowerbird

    key = (api_key or settings().api_key).strip()
    agent = {"user-agent": f"bowerbird/{bowerbird.__version__}", "accept": "application/json"}
    return {**agent, "authorization": f"Bearer {key}"} if key else agent


def _address(given: str) -> str:
    """An address without what the calls put behind it.

    Raises:
        ServiceError: it is none.
    """
    tidy = given.strip().rstrip("/").removesuffix("/v1").rstrip("/")
    try:
        url = httpx2.URL(tidy)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ServiceError(
            f"{given!r} is no address of a service.",
            hint="Give one such as http://localhost:8080",
            code="address",
        )
    return tidy
