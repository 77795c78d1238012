"""The API's document for people: in a real browser, with nothing asked of any other site."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("fastapi_swagger")

from tests.serve.servers import SECONDS, serving

from bowerbird.serve.api.app import build
from bowerbird.serve.keys import Keys
from bowerbird.serve.page import mount
from bowerbird.serve.service import LocalService

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="chromium is not on this machine")

KEY = "sk-a-key-for-readers"

HTML = {"accept": "text/html,*/*;q=0.8"}


@pytest.fixture(scope="module")
def service() -> LocalService:
    """Of a model that is never asked, so never loaded: there is nothing to close."""
    return LocalService("", ["mini"])


@contextmanager
def signed(service: LocalService) -> Iterator[str]:
    """A service that wants a key, with the page where people give it."""
    keys = Keys(text=f"{KEY} name=anna scope=read")
    door = build(service, keys=keys)
    mount(door.app, service, keys=keys, admission=door.admission)
    with serving(door) as address:
        yield address


@contextmanager
def tab() -> Iterator[tuple[Any, list[str]]]:
    """A browser's tab; and all that it asks for, and what is wrong there."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page()
        opened.set_default_timeout(1000 * SECONDS)
        seen: list[str] = []
        opened.on("request", lambda one: seen.append(one.url))
        opened.on("console", lambda said: said.type == "error" and seen.append(f"console: {said.text}"))
        opened.on("pageerror", lambda error: seen.append(f"error: {error}"))
        try:
            yield opened, seen
        finally:
            browser.close()


@needs_chromium
def test_operations_are_shown_and_nobody_else_is_asked(service: LocalService) -> None:
    with serving(build(service)) as address, tab() as (page, seen):
        page.goto(f"{address}/docs")
        page.locator(".opblock").first.wait_for()
        document = httpx2.get(f"{address}/openapi.json").json()
        assert page.locator(".opblock").count() == sum(map(len, document["paths"].values()))
        live = page.locator(".opblock", has_text="/health/live")
        live.locator(".opblock-summary-control").click()
        live.get_by_role("button", name="Try it out").click()
        live.get_by_role("button", name="Execute").click()
        live.locator(".live-responses-table .response-col_status", has_text="200").wait_for()
        assert [one for one in seen if not one.startswith((f"{address}/", "data:", "blob:"))] == []


@needs_chromium
def test_whoever_signs_in_reads_them(service: LocalService) -> None:
    with signed(service) as address, tab() as (page, seen):
        page.goto(f"{address}/docs")
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Sign in").click()
        page.locator(".opblock").first.wait_for()
        assert page.url == f"{address}/docs"
        assert [one for one in seen if not one.startswith((f"{address}/", "data:", "blob:"))] == []


def test_a_session_opens_the_documents_and_nothing_else(service: LocalService) -> None:
    with signed(service) as address, httpx2.Client(base_url=address, timeout=SECONDS) as client:
        sent = client.get("/docs", headers=HTML)
        assert (sent.status_code, sent.headers["location"]) == (303, "page/sign-in?then=docs")
        for path in ("/docs", "/docs/start.js", "/openapi.json"):
            assert client.get(path).status_code == 401  # programs are told, not sent elsewhere
        wrong = client.post("/page/sign-in?then=docs", data={"key": "sk-not-a-key"})
        assert wrong.status_code == 403
        assert "then=docs" in wrong.text
        done = client.post("/page/sign-in?then=docs", data={"key": KEY})
        assert done.headers["location"] == "../docs"
        for path in ("/docs", "/docs/start.js", "/docs/swagger-ui.css", "/openapi.json"):
            assert client.get(path, headers=HTML).status_code == 200
        assert client.get("/v1/models").status_code == 401
        assert client.post("/docs").status_code == 401
        client.post("/page/sign-out")
        assert client.get("/openapi.json").status_code == 401


def test_only_where_people_came_from_is_shown_after_signing_in(service: LocalService) -> None:
    with signed(service) as address, httpx2.Client(base_url=address, timeout=SECONDS) as client:
        for then in ("//evil.example", "https://evil.example", '"><script>', "../x"):
            answer = client.get("/page/sign-in", params={"then": then})
            assert "evil" not in answer.text
            assert "<script>" not in answer.text
            done = client.post("/page/sign-in", params={"then": then}, data={"key": KEY})
            assert done.headers["location"] == "../"


def test_what_is_not_part_of_them(service: LocalService) -> None:
    with serving(build(service)) as address, httpx2.Client(base_url=address, timeout=SECONDS) as client:
        answer = client.get("/docs")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http" not in answer.text
        assert client.get("/docs/swagger-ui-bundle.js").headers["content-type"].startswith("text/javascript")
        for name in ("__init__.py", "..%2fmain.py", "nothing.js", "oauth2-redirect"):
            assert client.get(f"/docs/{name}").status_code == 404
