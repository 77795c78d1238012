"""Keys: how they are written down, what their holders may do, and how often."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.serve.processes import check_refused
from tests.serve.servers import serving

from bowerbird.errors import BowerbirdError
from bowerbird.serve.api.admission import WRONG_KEYS
from bowerbird.serve.api.app import build
from bowerbird.serve.keys import Allowances, Keys, TooManyError, caller_of
from bowerbird.serve.limits import Limits
from bowerbird.serve.service import LocalService

SECRETS = {"reader": "key-of-the-reader", "writer": "key-of-the-writer", "admin": "key-of-the-admin"}
FILE = f"""
# who has which
{SECRETS["reader"]}  name=reader scope=read
{SECRETS["writer"]}  name=writer   # the nightly job
sha256:{hashlib.sha256(SECRETS["admin"].encode()).hexdigest()} name=admin scope=admin rate=0
key-of-one-in-haste  name=hasty rate=2
key-of-nobody-at-all name=shut concurrent=1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text(FILE)
    return path


class TestFiles:
    def test_lines(self, file: Path) -> None:
        keys = Keys(file)
        found = {key.name: key for key in keys}
        assert list(found) == ["reader", "writer", "admin", "hasty", "shut"]
        assert [key.scope for key in keys] == ["read", "write", "admin", "write", "write"]
        assert found["hasty"].per_minute == 2
        assert found["admin"].per_minute == 0
        assert found["reader"].per_minute is None
        assert found["shut"].concurrent == 1
        for name, secret in SECRETS.items():
            key = keys.find(secret.encode())
            assert key is not None
            assert key.name == name
        for wrong in (b"", b"key-of-the-reade", b"key-of-the-reader ", b"sha256:" + b"0" * 64, b"\xff"):
            assert keys.find(wrong) is None

    def test_of_the_environment(self) -> None:
        keys = Keys(text="first-of-the-keys, second-of-the-keys name=second scope=read")
        assert [key.name for key in keys] == ["env-1", "second"]

    def test_nothing_shows_a_key(self, file: Path) -> None:
        keys = Keys(file)
        shown = f"{keys!r} {list(keys)!r} {keys.__dict__!r}"
        assert not [secret for secret in SECRETS.values() if secret in shown]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "holds no API key"),
            ("# only\n\n", "holds no API key"),
            ("short", "fewer than 8"),
            ("a-long-secret pass phrase", "not understood"),
            ("a-long-secret scope=all", "no scope 'all'"),
            ("a-long-secret scop=read", "no scop=. Did you mean scope="),
            ("a-long-secret phrase=read", "not understood"),
            ("a-long-secret rate=-1", "not a whole number"),
            ("a-long-secret rate=1.5", "not a whole number"),
            ("a-long-secret\na-long-secret", "are the same"),
            ("a-long-secret name=x\nanother-secret name=x", "are called x"),
        ],
    )
    def test_what_is_not_understood(self, tmp_path: Path, text: str, said: str) -> None:
        (tmp_path / "keys").write_text(text)
        with pytest.raises(BowerbirdError, match=said) as caught:
            Keys(tmp_path / "keys")
        assert "long-secret" not in str(caught.value)
        assert "phrase" not in str(caught.value)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(BowerbirdError, match="cannot be read"):
            Keys(tmp_path / "none")
        (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(BowerbirdError, match="it is no text"):
            Keys(tmp_path / "bytes")

    def test_read_again(self, file: Path) -> None:
        keys = Keys(file)
        file.write_text("a-new-key-for-all\n")
        keys.reload()
        assert keys.find(b"a-new-key-for-all")
        assert keys.find(SECRETS["reader"].encode()) is None
        file.write_text("")
        with pytest.raises(BowerbirdError):
            keys.reload()
        assert keys.find(b"a-new-key-for-all"), (
            "a file that was cut short must not open the doors, or shut them"
        )


class TestAllowances:
    def test_a_rate(self) -> None:
        allowances = Allowances(per_minute=3)
        for _ in range(3):
            allowances.enter("one")
        with pytest.raises(TooManyError) as caught:
            allowances.enter("one")
        assert 0 < caught.value.seconds <= 20
        assert allowances.enter("another")

    def test_at_once(self) -> None:
        allowances = Allowances(concurrent=1)
        first = allowances.enter("one")
        assert first is not None
        with pytest.raises(TooManyError):
            allowances.enter("one")
        allowances.leave(first)
        assert allowances.enter("one")

    def test_no_limit_keeps_nothing(self) -> None:
        allowances = Allowances()
        assert all(allowances.enter(str(number)) is None for number in range(100))

    def test_memory_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bowerbird.serve.keys.MOST_CALLERS", 50)
        allowances = Allowances(per_minute=1)
        for number in range(1000):
            allowances.enter(str(number))
        assert len(allowances._callers) <= 50

    def test_what_an_address_counts_as(self) -> None:
        assert caller_of("192.0.2.1") == "192.0.2.1"
        assert caller_of("2001:db8::1") == caller_of("2001:db8::ffff:1") == "2001:db8::/64"
        assert caller_of("2001:db8:0:1::1") != caller_of("2001:db8::1")
        assert caller_of("::ffff:192.0.2.1") == "::ffff:192.0.2.1"
        assert caller_of("") == "local"


@pytest.fixture(scope="module")
def service(index_path: Path) -> Iterator[LocalService]:
    service = LocalService(str(index_path), ["mini"])
    yield service
    asyncio.run(service.close())


@pytest.fixture
def client(service: LocalService, file: Path) -> Iterator[httpx2.Client]:
    """Of a server that wants keys."""
    with (
        serving(build(service, keys=Keys(file))) as address,
        httpx2.Client(base_url=address, timeout=60) as client,
    ):
        yield client


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS.get(name, name)}"}


class TestScopes:
    def test_health_alone_needs_no_key(self, client: httpx2.Client) -> None:
        assert client.get("/health/live").status_code == 200
        for path in (
            "/v1/models",
            "/v1/index",
            "/openapi.json",
            "/docs",
            "/metrics",
            "/",
            "/v1/nothing",
            "/v1/records/x",
        ):
            response = client.get(path)
            assert check_refused(response, 401)["code"] == "missing_api_key", path
            assert response.headers["x-request-id"]

    def test_ways_to_show_one(self, client: httpx2.Client) -> None:
        key = SECRETS["reader"]
        basic = base64.b64encode(f"anybody:{key}".encode()).decode()
        for headers in ({"x-api-key": key}, bearer("reader"), {"Authorization": f"Basic {basic}"}):
            assert client.get("/v1/models", headers=headers).status_code == 200
        assert client.get(f"/v1/models?api_key={key}").status_code == 401  # addresses are logged everywhere

    def test_a_browser_asks_for_it_where_a_page_is_wanted(self, client: httpx2.Client) -> None:
        assert client.get("/docs").headers["www-authenticate"].startswith("Basic ")
        assert client.get("/v1/models").headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize(
        ("method", "path", "needed"),
        [
            ("POST", "/v1/embeddings", "read"),
            ("POST", "/v1/search", "read"),
            ("GET", "/v1/records", "read"),
            ("POST", "/v1/records", "write"),
            ("DELETE", "/v1/records/red-circle", "write"),
            ("POST", "/v1/models/mini/load", "admin"),
            ("POST", "/v1/models/mini/unload", "admin"),
            ("POST", "/v1/index/refresh", "admin"),
        ],
    )
    def test_what_each_may_do(self, client: httpx2.Client, method: str, path: str, needed: str) -> None:
        order = ("read", "write", "admin")
        for name, scope in (("reader", "read"), ("writer", "write"), ("admin", "admin")):
            response = client.request(method, path, headers=bearer(name), json={})
            refused = response.status_code == 403 and response.json()["error"]["code"] == "insufficient_scope"
            assert refused == (order.index(scope) < order.index(needed)), (name, response.text)
            assert response.status_code != 401

    def test_who_guesses_is_held_up_and_nobody_else(self, service: LocalService, file: Path) -> None:
        with (
            serving(build(service, keys=Keys(file))) as address,
            httpx2.Client(base_url=address, timeout=60) as client,
        ):
            assert client.get("/v1/models", headers=bearer("reader")).status_code == 200
            wrong = {"Authorization": "Bearer a-guess"}
            answers = [client.get("/v1/models", headers=wrong) for _ in range(WRONG_KEYS + 20)]
            assert answers[0].status_code == 401
            check_refused(answers[-1], 429)
            # A right key is not told from a wrong one any more; those that were in use go on.
            assert client.get("/v1/models", headers=bearer("reader")).status_code == 200
            for path in ("/healthy", "/health/x", "/health/live/x"):
                assert client.get(path).status_code == 401

    def test_rates_of_a_key(self, client: httpx2.Client) -> None:
        answers = [client.get("/v1/models", headers=bearer("key-of-one-in-haste")) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"
        error = check_refused(answers[2], 429)
        assert error["type"] == "rate_limit_error"
        assert 1 <= int(answers[2].headers["retry-after"]) <= 30
        assert client.get("/v1/models", headers=bearer("reader")).status_code == 200


class TestBrowsers:
    """What pages of other sites may do with a visitor's browser."""

    BODY = b'{"model": "mini", "input": "a"}'

    def test_pages_of_other_sites(self, service: LocalService) -> None:
        with serving(build(service)) as address, httpx2.Client(base_url=address, timeout=60) as client:
            for headers in (
                {"Origin": "https://evil.example"},
                {"Origin": "null"},
                {"Sec-Fetch-Site": "cross-site"},
            ):
                response = client.post("/v1/embeddings", content=self.BODY, headers=headers)
                assert check_refused(response, 403)["code"] == "foreign_origin"
            for headers in (
                {"Origin": address},
                {"Origin": "https://x", "Sec-Fetch-Site": "same-origin"},
                {},
            ):
                assert client.post("/v1/embeddings", content=self.BODY, headers=headers).status_code == 200
            preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
            answer = client.options("/v1/embeddings", headers=preflight)
            assert not [name for name in answer.headers if name.startswith("access-control")]

    def test_those_that_are_allowed(self, service: LocalService) -> None:
        shop = "https://shop.example"
        with (
            serving(build(service, cors=[shop])) as address,
            httpx2.Client(base_url=address, timeout=60) as client,
        ):
            answer = client.post("/v1/embeddings", content=self.BODY, headers={"Origin": shop})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == shop
            preflight = {"Origin": shop, "Access-Control-Request-Method": "POST"}
            assert (
                client.options("/v1/embeddings", headers=preflight).headers["access-control-allow-origin"]
                == shop
            )
            other = client.post(
                "/v1/embeddings", content=self.BODY, headers={"Origin": "https://evil.example"}
            )
            check_refused(other, 403)

    def test_names_that_were_made_to_point_here(self, service: LocalService) -> None:
        app = build(service, hosts=["localhost", "127.0.0.1"])
        with serving(app) as address, httpx2.Client(base_url=address, timeout=60) as client:
            assert client.get("/v1/models").status_code == 200
            answer = client.get("/v1/models", headers={"Host": "evil.example:80"})
            assert check_refused(answer, 403)["code"] == "unknown_host"

    def test_headers_of_every_answer(self, service: LocalService) -> None:
        with serving(build(service)) as address, httpx2.Client(base_url=address, timeout=60) as client:
            for answer in (client.get("/v1/models"), client.get("/docs"), client.get("/v1/nothing")):
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["referrer-policy"] == "same-origin"
                assert answer.headers["x-request-id"]
                assert "server" not in answer.headers or answer.headers["server"] == "uvicorn"
            assert "frame-ancestors" in client.get("/docs").headers["content-security-policy"]
            assert (
                client.get("/v1/models", headers={"x-request-id": "mine-1"}).headers["x-request-id"]
                == "mine-1"
            )
            odd = client.get("/v1/models", headers={"x-request-id": "a b<script>"}).headers["x-request-id"]
            assert odd.isalnum()


def test_addresses_have_rates_where_there_are_no_keys() -> None:
    limits = Limits(per_minute=2)
    service = LocalService("", ["mini"], limits=limits)
    try:
        with (
            serving(build(service), limits) as address,
            httpx2.Client(base_url=address, timeout=60) as client,
        ):
            assert [client.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
            assert client.get("/health/live").status_code == 200
    finally:
        asyncio.run(service.close())
