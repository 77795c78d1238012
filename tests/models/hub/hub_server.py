"""A hub on this machine: a real HTTP server that speaks what huggingface_hub's client asks of huggingface.co.

Model info with file metadata, `resolve` by HEAD and GET with redirects, ETags, `X-Repo-Commit`, `X-Linked-*`; large
files behind a redirect to another host name, as to a CDN; Range requests. Faults are put in front of answers.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".onnx", ".onnx_data", ".safetensors", ".bin", "tokenizer.json")
"""Files in large-file storage, which have a SHA-256; the others have Git's blob id."""


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def commit_id(files: dict[str, bytes]) -> str:
    """Another content, another commit."""
    parts = [f"{path} {blob_id(content)}" for path, content in sorted(files.items())]
    return hashlib.sha1("\n".join(parts).encode()).hexdigest()


@dataclass
class Fault:
    """What happens instead of an answer.

    Attributes:
        where: pattern that is searched in `METHOD path`.
        times: how often it happens; -1 for always.
        status: an HTTP status to answer with; 0 answers with content.
        headers: of that answer, or changed headers of a good one.
        cut_after: close the connection after this many bytes of content.
        keep: send this many bytes and say that this is all.
        content: send these bytes instead.
        delay: seconds of silence before the answer.
    """

    where: str
    times: int = -1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int = -1
    keep: int = -1
    content: bytes | None = None
    delay: float = 0


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]


class Hub(ThreadingHTTPServer):
    """See the module. Attributes say what is served and what was asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.refs: dict[tuple[str, str], str] = {}
        self.listed: dict[str, list[dict]] = {}
        self.tokens: dict[str, str] = {}
        self.gated: set[str] = set()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def cdn(self) -> str:
        """The same server under another name: another origin, to which no token may be sent."""
        return f"http://localhost:{self.server_port}"

    def publish(self, repository: str, files: dict[str, bytes], revision: str = "main") -> str:
        """A commit, with a branch or tag on it."""
        commit = commit_id(files)
        self.commits.setdefault(repository, {})[commit] = files
        self.refs[repository, revision] = commit
        return commit

    def fail(self, where: str, **what: object) -> Fault:
        fault = Fault(where, **what)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def asked(self, where: str = "") -> list[Request]:
        """Requests whose `METHOD path` holds a pattern."""
        return [request for request in self.requests if re.search(where, f"{request.method} {request.path}")]

    def take_fault(self, line: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.where, line):
                    fault.times -= 1
                    return fault
        return None

    def handle_error(self, request, client_address) -> None:
        pass  # The client hung up, which some tests want.


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.server.lock:
            self.server.requests.append(Request(self.command, self.path, dict(self.headers)))
        fault = self.server.take_fault(f"{self.command} {path}")
        if fault:
            time.sleep(fault.delay)
        if fault and fault.status:
            self._send(fault.status, b"", fault.headers)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(match[1], match[2] or "main")
        elif match := re.fullmatch(
            r"/(?:api/resolve-cache/models/)?([^/]+/[^/]+)/(?:resolve/)?([^/]+)/(.+)", path
        ):
            self._file(match[1], match[2], match[3], fault, cached="resolve-cache" in path)
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _refused(self, repository: str) -> bool:
        """Whether a token is missing, and the answer was sent."""
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository not in self.server.commits:
            self._send(404 if sent else 401, b"", {"X-Error-Code": "RepoNotFound"})
        elif (wanted := self.server.tokens.get(repository)) and sent != wanted:
            gated = repository in self.server.gated
            code = "GatedRepo" if gated else "RepoNotFound"
            self._send(403 if gated and sent else 401, b"", {"X-Error-Code": code})
        else:
            return False
        return True

    def _commit(self, repository: str, revision: str) -> str:
        known = self.server.commits[repository]
        return revision if revision in known else self.server.refs.get((repository, revision), "")

    def _info(self, repository: str, revision: str) -> None:
        # What a gated repository holds anyone may know.
        if repository not in self.server.gated and self._refused(repository):
            return
        commit = self._commit(repository, revision)
        if not commit:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        files = self.server.commits[repository][commit]
        siblings = self.server.listed.get(repository) or [sibling(path, data) for path, data in files.items()]
        body = {"id": repository, "sha": commit, "siblings": siblings, "tags": [], "private": False}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, repository: str, revision: str, path: str, fault: Fault | None, *, cached: bool) -> None:
        on_cdn = self.headers.get("Host", "").startswith("localhost")
        if not on_cdn and self._refused(repository):
            return
        commit = self._commit(repository, revision)
        if not commit:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        content = self.server.commits[repository][commit].get(path)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        changed = fault.headers if fault else {}
        if on_cdn:
            self._content(content, {"ETag": '"cdn"'}, fault)
        elif path.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            facts = {
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(content)),
            }
            location = f"{self.server.cdn}/{repository}/{commit}/{path}"
            self._send(302, b"", {**facts, "ETag": f'"{digest}"', "Location": location, **changed})
        elif not cached:
            location = f"/api/resolve-cache/models/{repository}/{commit}/{path}"
            self._send(307, b"", {"X-Repo-Commit": commit, "Location": location, **changed})
        else:
            facts = {"X-Repo-Commit": commit, "ETag": f'"{blob_id(content)}"'}
            self._content(content, {**facts, **changed}, fault)

    def _content(self, content: bytes, headers: dict[str, str], fault: Fault | None) -> None:
        if self.command == "HEAD":
            self._send(200, content, headers)
            return
        if fault and fault.content is not None:
            content = fault.content
        if fault and fault.keep >= 0:
            content = content[: fault.keep]
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, start = 206, int(match[1])
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self._send(status, content[start:], headers, fault.cut_after if fault else -1)

    def _send(self, status: int, content: bytes, headers: dict[str, str], cut_after: int = -1) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut_after >= 0:
            self.wfile.write(content[:cut_after])
            self.close_connection = True
        else:
            self.wfile.write(content)


def sibling(path: str, content: bytes) -> dict:
    """How the hub lists a file."""
    item: dict = {"rfilename": path, "size": len(content), "blobId": blob_id(content)}
    if path.endswith(LARGE):
        digest = hashlib.sha256(content).hexdigest()
        item["blobId"] = blob_id(f"pointer to {digest}".encode())
        item["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
    return item


@contextmanager
def running() -> Iterator[Hub]:
    """A hub, until the end of the block."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
