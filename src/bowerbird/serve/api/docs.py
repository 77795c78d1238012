"""The API's document for people, at `/docs`: Swagger UI, all of it from this server.

FastAPI's own page asks other sites for its scripts. Here they come out of the package `fastapi-swagger`, and the
policy of the page lets browsers ask nobody else.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata, resources

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from bowerbird.errors import MissingExtraError
from bowerbird.serve.api.errors import ApiError

__all__ = ["routes"]

_PACKAGE = "fastapi-swagger"

_KINDS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "start.js": "text/javascript; charset=utf-8",
}

_POLICY = (
    # Swagger UI sets styles on its elements, and has its drawings in them.
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

# Addresses are relative, since a proxy may have put the service below a path of its own.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Bowerbird: API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css?{version}">
<script src="docs/swagger-ui-bundle.js?{version}" defer></script>
<script src="docs/start.js?{version}" defer></script>
</head>
<body>
<div id="docs"></div>
<noscript>Without scripts, <a href="openapi.json">openapi.json</a> has the same.</noscript>
</body>
</html>
"""

# `validatorUrl`: a site that would be sent the document.
_START = """SwaggerUIBundle({
  url: new URL("openapi.json", location.href).href,
  dom_id: "#docs",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
});
"""


def routes(app: FastAPI) -> None:
    """`/docs` and what it loads."""

    async def page(request: Request) -> Response:
        headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
        return Response(_PAGE.format(version=_version()), 200, headers, "text/html; charset=utf-8")

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _KINDS:
            raise ApiError(404, "There is no such route. GET /docs has all there are.", code="not_found")
        headers = {"Cache-Control": "private, max-age=86400"}
        return Response(_START if name == "start.js" else _asset(name), 200, headers, _KINDS[name])

    app.add_route("/docs", page, ["GET"], include_in_schema=False)
    app.add_route("/docs/{name}", asset, ["GET"], include_in_schema=False)


@lru_cache(maxsize=1)
def _version() -> str:
    """Of the package, so that browsers load its files again when it is another."""
    try:
        return metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        raise MissingExtraError(_PACKAGE, "serve") from None


@lru_cache(maxsize=len(_KINDS))
def _asset(name: str) -> bytes:
    """A file of Swagger UI.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return (resources.files("fastapi_swagger") / "resources" / name).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise MissingExtraError(_PACKAGE, "serve") from None
