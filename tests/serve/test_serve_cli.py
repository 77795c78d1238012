"""`bowerbird serve`: what it says where it cannot begin, and of what it lets others do."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx2
import pytest
from tests.serve.processes import launched, running


def failed(*options: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What a command says that ends with code 2."""
    process = launched(*options, cwd=cwd, env=env)
    assert process.ended() == 2
    said = "".join(process.lines)
    assert "Traceback" not in said
    return said


def test_a_folder_that_is_not_indexed(tmp_path: Path) -> None:
    said = failed(str(tmp_path))
    assert f"bowerbird index {tmp_path}" in said
    said = failed(cwd=tmp_path)
    assert "bowerbird index" in said
    assert "bowerbird serve --model mini" in said


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = failed("--model", "mini", "--port", str(taken.getsockname()[1]))
    assert "in use already" in said
    assert "--port" in said


def test_what_cannot_be(tmp_path: Path) -> None:
    assert "no address of this machine" in failed("--model", "mini", "--host", "192.0.2.77", "--port", "0")
    assert "cannot be read" in failed("--model", "mini", "--api-keys", str(tmp_path / "none"))
    assert "--certfile" in failed("--model", "mini", "--keyfile", str(tmp_path / "none"))


def test_a_model_that_is_not_there() -> None:
    said = failed("--model", "no-such-model", "--no-page", "--port", "0")
    assert "no-such-model" in said


@pytest.mark.parametrize(
    ("options", "env", "warned"),
    [
        ((), {}, ()),
        (("--host", "0.0.0.0"), {}, ("ANYBODY who can reach 0.0.0.0",)),
        (("--host", "0.0.0.0"), {"BOWERBIRD_API_KEYS": "a-key-of-the-environment"}, ()),
        (
            ("--writable", "--cors", "*", "--fetch-urls", "--any-model"),
            {},
            ("change and delete", "ANY site", "fetches pictures", "download models"),
        ),
    ],
    ids=["safe", "open", "open with keys", "all"],
)
def test_warnings(options: tuple[str, ...], env: dict[str, str], warned: tuple[str, ...]) -> None:
    with running("--model", "mini", *options, env=env) as process:
        said = "".join(process.lines)
        assert [text for text in warned if text not in said] == []
        assert ("ANY" in said) == bool(warned)
        assert "a-key-of" not in said


def test_an_index_an_indexed_folder_and_names_for_models(index_path: Path) -> None:
    with running(str(index_path), "--model", "text-embedding-3-small=mini") as process:
        assert f"docs {process.address}/docs" in process.until("Serving ")
        models = httpx2.get(f"{process.address}/v1/models", timeout=120).json()["data"]
        assert {"mini", "text-embedding-3-small"} <= {model["id"] for model in models}
        body = {"model": "text-embedding-3-small", "input": "a"}
        assert httpx2.post(f"{process.address}/v1/embeddings", json=body, timeout=120).status_code == 200
        assert httpx2.get(f"{process.address}/health/ready", timeout=120).status_code == 200
