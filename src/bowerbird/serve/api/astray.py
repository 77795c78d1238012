"""Requests that fit no route: which methods there are, and which route was meant perhaps."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.routing import Match

from bowerbird.serve.api.errors import ApiError

__all__ = ["no_method", "no_route"]

LONGEST = 200
"""Characters of a path that is compared with others."""


def no_route(app: FastAPI, request: Request) -> ApiError:
    """There is none of this path."""
    paths = [one for one in app.openapi()["paths"] if "{" not in one]
    path = request.url.path[:LONGEST].rstrip("/")
    near = [path] if path in paths else get_close_matches(path, paths, 1, 0.6)
    if not near and f"/v1{path}" in paths:
        near = [f"/v1{path}"]
    meant = f" Did you mean {near[0]}?" if near else ""
    said = f"There is no such route.{meant} GET /openapi.json has all there are."
    return ApiError(404, said, code="not_found")


def no_method(app: FastAPI, request: Request, headers: Mapping[str, str]) -> ApiError:
    """There is one of this path, which takes other methods."""
    methods: set[str] = set()
    scope: dict[str, Any] = dict(request.scope)
    for route in app.routes:
        if route.matches(scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    listed = ", ".join(sorted(methods))
    return ApiError(
        405,
        f"{request.method} is not taken here, but {listed}.",
        code="method_not_allowed",
        headers={**headers, "Allow": listed},
    )
