"""Who may come in: the host that is asked for, keys and their scopes, other people's pages, rates."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

from bowerbird.serve.api.errors import ApiError
from bowerbird.serve.keys import Allowance, Allowances, Key, Keys, TooManyError, caller_of
from bowerbird.serve.limits import Limits

__all__ = ["Admission"]

_READS = frozenset(("GET", "HEAD", "OPTIONS"))

HEALTH = frozenset(("/health", "/health/live", "/health/ready"))
"""Paths that need no key."""

WRONG_KEYS = 60
"""Keys a minute that one address may show which were never right there: who guesses must not go on for ever."""

MOST_KNOWN = 10_000
"""Pairs of an address and a key that are remembered as right."""

DOCUMENTS = ("/docs", "/openapi.json")
"""Beginnings of what those who have signed in to the page may read without showing a key."""


class _Passing(Protocol):
    """What is filled in of a request."""

    noted: Any
    allowance: Allowance | None
    extra: list[tuple[bytes, bytes]]


class Admission:
    """Decides by the first lines of a request, before its body is read.

    A key is shown as `Authorization: Bearer KEY` or `x-api-key: KEY`; a person's browser, which asks for it by itself,
    sends it as the password of `Authorization: Basic`. Health needs no key.

    Args:
        limits: of the service.
        keys: that requests must show; none: everybody may ask.
        cors: origins whose pages may ask; `*`: any.
        hosts: names that requests may know this machine by; none: any.
        free: paths that need no key, beside those of health.

    Attributes:
        allowances: of all callers.
        gated: whether a path asks for keys in a way of its own, as that of the page does.
        signed_in: whether somebody has signed in to the page, who may read the documents of the API then; None:
            there is no page.
    """

    def __init__(
        self,
        limits: Limits,
        keys: Keys | None = None,
        *,
        cors: Sequence[str] = (),
        hosts: Sequence[str] = (),
        free: Sequence[str] = (),
    ) -> None:
        self.allowances = Allowances(limits.per_minute, limits.concurrent)
        self.gated: Callable[[str], bool] = lambda path: False
        self.signed_in: Callable[[Mapping[bytes, bytes]], bool] | None = None
        self._guesses = Allowances(WRONG_KEYS)
        self._right: dict[tuple[str, bytes], None] = {}
        self._keys = keys if keys is not None and len(keys) else None
        self._cors = frozenset(origin.encode() for origin in cors)
        self._free = frozenset(free)
        self._hosts = frozenset(host.lower().encode() for host in hosts)

    def check(
        self, scope: MutableMapping[str, Any], headers: Mapping[bytes, bytes], passing: _Passing
    ) -> None:
        """Let a request in, and note who it is from.

        Raises:
            ApiError: 400 with two names of this machine, 401 without a key that is known, 403 where it may not do this,
                429 where it asks too much.
        """
        client = scope.get("client")
        passing.noted.caller = address = caller_of(client[0]) if client else "local"
        path: str = scope["path"]
        if sum(name == b"host" for name, _ in scope["headers"]) > 1:
            # RFC 9112, 3.2: what is in front may have looked at another one than is looked at here.
            raise ApiError(400, "Send one Host header.", code="invalid_host")
        if self._hosts and _host(headers.get(b"host", b"")) not in self._hosts:
            raise ApiError(
                403,
                "This service is not known by the name that it was asked under. Start it with --allow-host NAME "
                "where that is right.",
                code="unknown_host",
            )
        if path in HEALTH or path in self._free:
            return
        if not path.startswith("/v1") and self.gated(path):
            return
        key: Key | None = None
        ambient = True  # whatever page the request comes from, a browser would send it with the same rights
        if self._keys is not None:
            if self._is_reader(scope["method"], path, headers):
                return
            key, ambient = self._key(self._keys, headers, path, address)
            passing.noted.caller = key.name
            if not key.may(needed := _scope_of(scope["method"], path)):
                raise ApiError(
                    403,
                    f"The key {key.name} may not do this: it needs the scope {needed}.",
                    "permission_error",
                    "insufficient_scope",
                )
        if ambient and scope["method"] not in _READS and self._is_from_elsewhere(headers):
            raise ApiError(
                403,
                "Pages of other sites may not do this. Start the service with --cors ORIGIN to allow one.",
                "permission_error",
                "foreign_origin",
            )
        if path.startswith("/v1"):
            self._allow(key.name if key else address, key, passing)

    def _is_reader(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether somebody who has signed in to the page reads the documents of the API.

        Raises:
            ApiError: a browser that shows no key at all is sent to where a person can give one.
        """
        if self.signed_in is None or method not in _READS or not path.startswith(DOCUMENTS):
            return False
        if self.signed_in(headers):
            return True
        if (
            path == "/docs"
            and b"text/html" in headers.get(b"accept", b"")
            and not (b"authorization" in headers or b"x-api-key" in headers)
        ):
            raise ApiError(
                303,
                "Sign in first.",
                "authentication_error",
                "missing_api_key",
                headers={"Location": "page/sign-in?then=docs"},
            )
        return False

    def _key(self, keys: Keys, headers: Mapping[bytes, bytes], path: str, address: str) -> tuple[Key, bool]:
        """The key that was shown, and whether a browser shows it without being told to."""
        secret = headers.get(b"x-api-key", b"")
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        basic = False
        if kind.lower() == b"bearer":
            secret = given.strip()
        elif kind.lower() == b"basic" and not secret:
            basic = True
            secret = _password(given)
        key = keys.find(secret) if secret else None
        if secret:
            self._guess(address, key)
        if key is not None:
            return key, basic
        # A browser asks a person for the key where a page is wanted, and never in the middle of a program.
        wanted = "Bearer" if path.startswith("/v1") else 'Basic realm="Bowerbird: an API key as the password"'
        raise ApiError(
            401,
            "The API key is not known here."
            if secret
            else "An API key is needed: send it as `Authorization: Bearer KEY`.",
            "authentication_error",
            "invalid_api_key" if secret else "missing_api_key",
            headers={"WWW-Authenticate": wanted},
        )

    def _guess(self, address: str, key: Key | None) -> None:
        """Count a key that was not right at this address before; those that were are let in whatever others guess.

        Raises:
            ApiError: too many were shown; whether this one is right is not told.
        """
        if key is not None and (address, key.digest) in self._right:
            return
        try:
            if (one := self._guesses.enter(address)) is not None:
                self._guesses.leave(one)
        except TooManyError as error:
            raise _too_many("Too many unknown API keys were shown.", error.seconds) from None
        if key is not None:
            while len(self._right) >= MOST_KNOWN:
                self._right.pop(next(iter(self._right)))
            self._right[address, key.digest] = None

    def _is_from_elsewhere(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a browser says that it asks on behalf of a page that is not of this service."""
        origin = headers.get(b"origin", b"")
        if origin and (origin in self._cors or b"*" in self._cors):
            return False
        if site := headers.get(b"sec-fetch-site", b""):
            return site not in (b"same-origin", b"none")
        return bool(origin) and origin.partition(b"://")[2] != headers.get(b"host", b"")

    def _allow(self, caller: str, key: Key | None, passing: _Passing) -> None:
        try:
            passing.allowance = one = self.allowances.enter(caller, key)
        except TooManyError as error:
            raise _too_many(str(error), error.seconds) from None
        if one is not None and one.per_minute:
            passing.extra += (
                (b"x-ratelimit-limit-requests", str(one.per_minute).encode()),
                (b"x-ratelimit-remaining-requests", str(int(one.left)).encode()),
            )


def _too_many(said: str, seconds: float) -> ApiError:
    wait = {"Retry-After": str(max(1, math.ceil(seconds)))}
    return ApiError(429, said, "rate_limit_error", "rate_limit_exceeded", headers=wait)


def _scope_of(method: str, path: str) -> str:
    """What a key must be allowed for a request."""
    if method in _READS:
        return "read"
    if path.startswith(("/v1/models/", "/v1/index")):
        return "admin"
    return "write" if path.startswith("/v1/records") else "read"


def _host(header: bytes) -> bytes:
    """A name without its port."""
    host = header.lower()
    if host.startswith(b"["):
        return host.partition(b"]")[0] + b"]"
    return host.partition(b":")[0]


def _password(given: bytes) -> bytes:
    try:
        name, _, password = base64.b64decode(given.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return b""
    return password or name
