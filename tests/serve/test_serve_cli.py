"""`bowerbird serve`: what it says where it cannot begin, and of what it lets others do."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx2
import pytest
from tests.serve.command import refused
from tests.serve.processes import launched, running

from bowerbird.serve.server import Served


def test_a_folder_that_is_not_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"bowerbird index {tmp_path}" in refused("serve", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "bowerbird serve --model mini" in refused("serve")
    assert "bowerbird deploy --model mini" in refused("deploy")


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refused("serve", "--model", "mini", "--port", taken.getsockname()[1])
    assert "in use already" in said
    assert "--port" in said


def test_what_cannot_be(tmp_path: Path) -> None:
    none = tmp_path / "none"
    command = ("serve", "--model", "mini", "--port", 0)
    assert "no address of this machine" in refused(*command, "--host", "192.0.2.77")
    assert "cannot be read" in refused(*command, "--api-keys", none)
    assert "--certfile" in refused(*command, "--keyfile", none)


def test_a_model_that_is_not_there() -> None:
    process = launched("--model", "no-such-model", "--no-page", "--port", "0")
    assert process.ended() == 2
    said = "".join(process.lines)
    assert "no-such-model" in said
    assert "Traceback" not in said
    assert "Serving" not in said


def test_a_cross_encoder_that_is_none() -> None:
    said = refused("serve", "--model", "mini", "--reranker", "mini", "--port", 0)
    assert "mini is no cross-encoder" in said


@pytest.mark.parametrize(
    ("option", "given", "meant"),
    [
        ("--cors", "shop", "--cors https://shop.example"),
        ("--cors", "http://localhost:3000/", "--cors http://localhost:3000:"),
        ("--cors", "https://My.example:443", "--cors https://my.example:"),
        ("--cors", "http://[", "--cors https://shop.example"),
        ("--allow-host", "http://x.y/z", "--allow-host x.y:"),
        ("--allow-host", "x.y:8080", "--allow-host x.y:"),
        ("--allow-host", "::1", "--allow-host [::1]:"),
        ("--allow-host", "", "--allow-host search.example"),
    ],
)
def test_callers_that_cannot_be(option: str, given: str, meant: str) -> None:
    for verb in ("serve", "deploy"):
        assert meant in refused(verb, "--model", "mini", option, given)


@pytest.mark.parametrize("given", ["foo", "10.0.0.1/8", "10.0.0.1:80", ""])
def test_proxies_that_cannot_be(given: str) -> None:
    assert "--proxy 10.0.0.7" in refused("serve", "--model", "mini", "--proxy", given)


def test_callers_that_can_be() -> None:
    Served(
        cors=(
            "*",
            "https://shop.example",
            "http://localhost:3000",
            "chrome-extension://abc",
            "http://[::1]:81",
        ),
        hosts=("*", "x", "search.example", "[::1]", "10.0.0.1"),
        proxies=("*", "10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8"),
    )


def test_open_doors_are_told_loudly() -> None:
    open_ = ("--host", "0.0.0.0", "--writable", "--cors", "*", "--fetch-urls", "--any-model")
    warned = ("reach 0.0.0.0", "change and delete", "ANY site", "fetches pictures", "download models")
    with running("--model", "mini", *open_) as process:
        assert [text for text in warned if text not in "".join(process.lines)] == []


def test_with_keys_they_are_none() -> None:
    keys = {"BOWERBIRD_API_KEYS": "a-key-of-the-environment"}
    with running("--model", "mini", "--host", "0.0.0.0", "--writable", env=keys) as process:
        said = "".join(process.lines)
    assert "ANY" not in said
    assert "a-key-of" not in said


def test_an_index_an_indexed_folder_and_names_for_models(index_path: Path) -> None:
    with running(str(index_path), "--model", "text-embedding-3-small=mini") as process:
        assert "ANY" not in "".join(process.lines)
        line = process.until("Serving ")
        assert f"docs {process.address}/docs" in line
        assert f"{index_path}: 13 records, models" in line
        assert "read-only at" in line
        models = httpx2.get(f"{process.address}/v1/models", timeout=120).json()["data"]
        assert {"mini", "text-embedding-3-small"} <= {model["id"] for model in models}
        body = {"model": "text-embedding-3-small", "input": "a"}
        assert httpx2.post(f"{process.address}/v1/embeddings", json=body, timeout=120).status_code == 200
        assert httpx2.get(f"{process.address}/health/ready", timeout=120).status_code == 200
