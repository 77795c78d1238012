"""A local server that speaks as much of Pinecone's HTTP API as its official client asks for here, strictly.

Written only for the tests. It refuses what the service is documented to refuse: a wrong key, another version of the
API, unknown keys, batches, ids, metadata and results beyond the limits. It is as unhelpful as the service may be: reads
lag behind writes, searches and fetches each in their own time; equal scores and pages come in no order; a write by
filter reaches what searches see; a namespace that was never written to is not found. What the documentation leaves open
is decided for the worse.

One port serves everything: the control plane at its root, the data plane of an index below `/i/NAME`, which is the host
that `describe` gives, so that the client finds it as it finds Pinecone's own.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

API_VERSION = "2026-07"
KEY = "pcsk_test"
MOST_VECTORS = 1000
MOST_BODY = 2_000_000
MOST_METADATA = 40_960
MOST_ID = 512
MOST_RESULTS = 10_000
MOST_ANSWER = 4_000_000
MOST_FETCHED = 1000
MOST_LISTED = 10_000
MOST_ADDRESS = 8_000

Fault = Callable[[str, str], str]
"""Given method and path: `` for none, a status as text, `reset`, `full`, `lost` (done, never answered) or `hold`."""


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def require(condition: bool, message: str, status: int = 400) -> None:
    if not condition:
        raise Refused(status, message)


@dataclass
class View:
    """The records of a namespace as one kind of read sees them, and what it will see after some more reads."""

    records: dict[str, tuple[np.ndarray, dict[str, Any]]] = field(default_factory=dict)
    waiting: list[list[Any]] = field(default_factory=list)  # [reads left, log position, change]
    seen: int = 0

    def write(self, lag: int, position: int, change: Callable[[dict], None]) -> None:
        self.waiting.append([lag, position, change])
        if not lag:
            self.read()

    def read(self) -> None:
        for entry in self.waiting:
            entry[0] -= 1
        while self.waiting and self.waiting[0][0] < 0:
            _, self.seen, change = self.waiting.pop(0)
            change(self.records)


@dataclass
class Namespace:
    searched: View = field(default_factory=View)
    fetched: View = field(default_factory=View)
    position: int = 0


@dataclass
class StoredIndex:
    name: str
    dimension: int
    metric: str
    deployment: dict[str, str]
    unready: int = 0  # descriptions that say so
    namespaces: dict[str, Namespace] = field(default_factory=dict)


class PineconeServer:
    """The server; `environment` is what the client has to find in its own.

    Args:
        lag: reads of a namespace that do not see a write yet; fetches see it as many later again.
    """

    def __init__(self, lag: int = 0) -> None:
        self.lag = lag
        self.indexes: dict[str, StoredIndex] = {}
        self.forbidden = "forbidden"  # an index that the key may not make
        self.fault: Fault = lambda method, path: ""
        self.requests: list[str] = []
        self.held = threading.Event()  # a request is being held
        self.release = threading.Event()
        self.lock = threading.Lock()
        handler = type("Bound", (Handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """For indexes: a process keeps its connections by it, and has several servers one after the other."""
        return f"shop-{self._http.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        return {"PINECONE_API_KEY": KEY, "PINECONE_CONTROLLER_HOST": self.url}

    def records(self, index: str, namespace: str) -> dict[str, dict[str, Any]]:
        """Metadata of what searches see."""
        found = self.indexes[index].namespaces.get(namespace, Namespace())
        return {id_: metadata for id_, (_, metadata) in found.searched.records.items()}

    def close(self) -> None:
        """Also for connections that are still open."""
        self.fault = lambda method, path: "reset"
        self.release.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    # The control plane.

    def control(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if path == "/indexes" and method == "POST":
            return 201, self._create(body)
        if path == "/indexes" and method == "GET":
            return 200, {"indexes": [self._described(index) for index in self.indexes.values()]}
        name = unquote(path.removeprefix("/indexes/"))
        require(path.startswith("/indexes/") and "/" not in name, f"Unknown path {path}", 404)
        require(name in self.indexes, f"Resource {name} not found", 404)
        if method == "DELETE":
            del self.indexes[name]
            return 202, None
        require(method == "GET", "Method not allowed", 405)
        return 200, self._described(self.indexes[name])

    def _create(self, body: Any) -> Any:
        only(body, "name", "schema", "deployment", "deletion_protection", "tags", "read_capacity")
        name = body.get("name")
        require(
            isinstance(name, str) and bool(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,43}[a-z0-9])?", name)),
            "Name must ...",
        )
        require(name not in self.indexes, "Resource already exists", 409)
        require(name != self.forbidden, "The API key may not create indexes", 403)
        only(body["schema"], "fields")
        require(list(body["schema"]["fields"]) == ["_values"], "Only one dense vector field is spoken here")
        dense = body["schema"]["fields"]["_values"]
        only(dense, "type", "dimension", "metric")
        require(dense["type"] == "dense_vector", "Unknown type of field")
        require(
            type(dense["dimension"]) is int and 1 <= dense["dimension"] <= 20_000, "Dimension out of range"
        )
        require(dense["metric"] in ("cosine", "euclidean", "dotproduct"), "Unknown metric")
        only(body["deployment"], "deployment_type", "cloud", "region")
        require(body["deployment"].get("deployment_type") == "managed", "Unknown deployment")
        require(body["deployment"].get("cloud") in ("aws", "gcp", "azure"), "Unknown cloud")
        self.indexes[name] = StoredIndex(name, dense["dimension"], dense["metric"], body["deployment"])
        return self._described(self.indexes[name])

    def _described(self, index: StoredIndex) -> Any:
        ready = index.unready <= 0
        index.unready -= 1
        dense = {"type": "dense_vector", "dimension": index.dimension, "metric": index.metric}
        return {
            "name": index.name,
            "host": f"{self.url}/i/{index.name}",
            "status": {"ready": ready, "state": "Ready" if ready else "Initializing"},
            "schema": {"fields": {"_values": dense}},
            "deployment": index.deployment,
            "deletion_protection": "disabled",
        }

    # The data plane.

    def data(
        self, method: str, path: str, asked: Mapping[str, list[str]], body: Any
    ) -> tuple[int, Any, dict]:
        _, _, name, action = path.split("/", 3)
        require(name in self.indexes, "Index not found", 404)
        index = self.indexes[name]
        known = {
            ("POST", "vectors/upsert"): self._upsert,
            ("POST", "query"): self._query,
            ("POST", "vectors/fetch_by_metadata"): self._fetch_by_metadata,
            ("POST", "vectors/update"): self._update,
            ("POST", "vectors/delete"): self._delete,
        }
        if (method, action) in known:
            answer, headers = known[method, action](index, body)
        elif (method, action) == ("GET", "vectors/fetch"):
            answer, headers = self._fetch(index, asked)
        elif method == "DELETE" and action.startswith("namespaces/"):
            wanted = unquote(action.removeprefix("namespaces/"))
            require(wanted in index.namespaces, "Namespace not found", 404)
            del index.namespaces[wanted]
            answer, headers = {}, {}
        else:
            raise Refused(404, f"Unknown path {method} {path}")
        return 200, answer, headers

    def _written(self, namespace: Namespace, change: Callable[[dict], None]) -> dict[str, str]:
        namespace.position += 1
        namespace.searched.write(self.lag, namespace.position, change)
        namespace.fetched.write(2 * self.lag, namespace.position, change)
        return {"x-pinecone-request-lsn": str(namespace.position)}

    def _upsert(self, index: StoredIndex, body: Any) -> tuple[Any, dict]:
        only(body, "vectors", "namespace")
        vectors = body.get("vectors")
        require(
            isinstance(vectors, list) and 1 <= len(vectors) <= MOST_VECTORS,
            "Vectors: 1 to 1000 in one request",
        )
        new = {}
        for vector in vectors:
            only(vector, "id", "values", "metadata")
            check_id(vector.get("id"))
            check_values(vector.get("values"), index.dimension)
            new[vector["id"]] = (
                np.array(vector["values"], np.float32),
                checked_metadata(vector.get("metadata", {})),
            )
        space = index.namespaces.setdefault(named(body), Namespace())
        return {"upsertedCount": len(vectors)}, self._written(space, lambda records: records.update(new))

    def _query(self, index: StoredIndex, body: Any) -> tuple[Any, dict]:
        only(body, "topK", "vector", "namespace", "filter", "includeValues", "includeMetadata")
        k = body.get("topK")
        require(type(k) is int and 1 <= k <= MOST_RESULTS, "topK: 1 to 10000")
        check_values(body.get("vector"), index.dimension)
        passes = understood(body["filter"]) if "filter" in body else lambda metadata: True
        space = index.namespaces.get(named(body))
        if space is None:
            return {"matches": [], "namespace": named(body)}, {}
        space.searched.read()
        found = [(id_, *record) for id_, record in space.searched.records.items() if passes(record[1])]
        matches = []
        if found:
            scores = np.stack([values for _, values, _ in found]) @ np.array(body["vector"], np.float32)
            # Equal scores in an order of no meaning.
            order = sorted(range(len(found)), key=lambda at: (-scores[at], found[at][0][::-1]))[:k]
            for at in order:
                id_, values, metadata = found[at]
                match = {"id": id_, "score": float(scores[at])}
                if body.get("includeValues"):
                    match["values"] = values.tolist()
                if body.get("includeMetadata"):
                    match["metadata"] = metadata
                matches.append(match)
        return (
            {"matches": matches, "namespace": named(body), "usage": {"readUnits": 1}},
            {"x-pinecone-max-indexed-lsn": str(space.searched.seen)},
        )

    def _fetch(self, index: StoredIndex, asked: Mapping[str, list[str]]) -> tuple[Any, dict]:
        only(asked, "ids", "namespace")
        ids = asked.get("ids", [])
        require(1 <= len(ids) <= MOST_FETCHED, "Ids: 1 to 1000 in one request")
        for id_ in ids:
            check_id(id_)
        name = asked.get("namespace", [""])[0]
        space = index.namespaces.get(name)
        vectors = {}
        if space is not None:
            space.fetched.read()
            vectors = {
                id_: recorded(id_, space.fetched.records[id_]) for id_ in ids if id_ in space.fetched.records
            }
        return {"vectors": vectors, "namespace": name, "usage": {"readUnits": 1}}, {}

    def _fetch_by_metadata(self, index: StoredIndex, body: Any) -> tuple[Any, dict]:
        only(body, "filter", "namespace", "limit", "paginationToken")
        passes = understood(body.get("filter"))
        limit = body.get("limit", 100)
        require(type(limit) is int and 1 <= limit <= MOST_RESULTS, "limit: 1 to 10000")
        space = index.namespaces.get(named(body))
        if space is None:
            raise Refused(404, "Namespace not found")
        if "paginationToken" not in body:
            space.fetched.read()
        records = space.fetched.records
        found = [id_ for id_ in sorted(records, key=lambda id_: id_[::-1]) if passes(records[id_][1])]
        start = 0
        if token := body.get("paginationToken"):
            require(bool(re.fullmatch(r"after:\d+", token)), "Invalid pagination token")
            start = int(token.removeprefix("after:"))
        page = found[start : start + limit]
        answer = {"vectors": {id_: recorded(id_, records[id_]) for id_ in page}, "namespace": named(body)}
        if start + limit < len(found):
            answer["pagination"] = {"next": f"after:{start + limit}"}
        return answer, {}

    def _update(self, index: StoredIndex, body: Any) -> tuple[Any, dict]:
        only(body, "filter", "namespace", "setMetadata", "dryRun")
        passes = understood(body.get("filter"))
        new = checked_metadata(body.get("setMetadata"))
        space = index.namespaces.get(named(body))
        if space is None:
            raise Refused(404, "Namespace not found")
        records = space.searched.records
        matched = {id_ for id_, (_, metadata) in records.items() if passes(metadata)}
        for id_ in matched:
            checked_metadata({**records[id_][1], **new})
        answer = {"matchedRecords": len(matched)}
        if body.get("dryRun"):
            return answer, {}

        def change(changed: dict) -> None:
            for id_ in matched & set(changed):
                changed[id_] = (changed[id_][0], {**changed[id_][1], **new})

        return answer, self._written(space, change)

    def _delete(self, index: StoredIndex, body: Any) -> tuple[Any, dict]:
        only(body, "ids", "filter", "deleteAll", "namespace")
        require(len({"ids", "filter", "deleteAll"} & set(body)) == 1, "One of ids, filter and deleteAll")
        space = index.namespaces.get(named(body))
        if space is None:
            raise Refused(404, "Namespace not found")
        if "filter" in body:
            passes = understood(body["filter"])
            gone = {id_ for id_, (_, metadata) in space.searched.records.items() if passes(metadata)}
        elif "ids" in body:
            require(1 <= len(body["ids"]) <= MOST_VECTORS, "Ids: 1 to 1000 in one request")
            gone = set(body["ids"])
        else:
            gone = set(space.searched.records)

        def change(changed: dict) -> None:
            for id_ in gone:
                changed.pop(id_, None)

        return {}, self._written(space, change)


def only(given: Any, *allowed: str) -> None:
    require(isinstance(given, Mapping), f"Expected an object, got {given!r:.80}")
    unknown = sorted(set(given) - set(allowed))
    require(not unknown, f"Unknown name {unknown[:1]}: cannot find field")


def named(body: Any) -> str:
    name = body.get("namespace", "")
    require(isinstance(name, str) and name.isascii() and len(name) <= 512, "Namespace must be ASCII")
    return name


def check_id(id_: Any) -> None:
    fine = isinstance(id_, str) and 1 <= len(id_) <= MOST_ID and id_.isascii() and "\0" not in id_
    require(fine, f"Vector ID must be ASCII, 1 to 512 characters, got {id_!r:.80}")


def check_values(values: Any, dimension: int) -> None:
    require(
        isinstance(values, list) and all(type(v) in (int, float) for v in values), "Values must be numbers"
    )
    require(
        len(values) == dimension,
        f"Vector dimension {len(values)} does not match the dimension of the index {dimension}",
    )
    require(any(np.array(values, np.float32)), "Dense vectors must contain at least one non-zero value.")


def checked_metadata(metadata: Any) -> dict[str, Any]:
    require(isinstance(metadata, dict), "Metadata must be an object")
    found = {}
    for key, value in metadata.items():
        require(not key.startswith("$"), f"Metadata key {key!r} starts with $")
        strings = isinstance(value, list) and all(isinstance(part, str) for part in value)
        require(
            strings or isinstance(value, str | bool | int | float),
            f"Metadata value must be a string, number, boolean or list of strings, got {value!r:.80} for field {key!r}",
        )
        found[key] = float(value) if type(value) is int else value
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    require(
        size <= MOST_METADATA,
        f"Metadata size is {size} bytes, which exceeds the limit of 40960 bytes per vector",
    )
    return found


def recorded(id_: str, record: tuple[np.ndarray, dict[str, Any]]) -> Any:
    return {"id": id_, "values": record[0].tolist(), "metadata": record[1]}


Passes = Callable[[Mapping[str, Any]], bool]


def understood(where: Any) -> Passes:
    """A filter as a function of metadata."""
    require(isinstance(where, dict) and bool(where), "Empty filter")
    parts = [_part(key, value) for key, value in where.items()]
    return parts[0] if len(parts) == 1 else lambda metadata: all(part(metadata) for part in parts)


def _part(key: str, value: Any) -> Passes:
    if key in ("$and", "$or"):
        require(isinstance(value, list) and bool(value), f"{key} takes a list")
        parts = [understood(part) for part in value]
        if key == "$and":
            return lambda metadata: all(part(metadata) for part in parts)
        return lambda metadata: any(part(metadata) for part in parts)
    require(not key.startswith("$"), f"Invalid top-level operator {key}")
    conditions = value if isinstance(value, dict) else {"$eq": value}
    require(bool(conditions), f"Empty condition for {key}")
    checks = [_condition(key, sign, operand) for sign, operand in conditions.items()]
    return checks[0] if len(checks) == 1 else lambda metadata: all(check(metadata) for check in checks)


def _condition(key: str, sign: str, operand: Any) -> Passes:
    number = type(operand) in (int, float)
    if sign in ("$eq", "$ne"):
        require(
            number or isinstance(operand, str | bool),
            f"{sign} takes a string, number or boolean, got {operand!r:.60}",
        )
        if sign == "$eq":
            return lambda metadata: key in metadata and _holds(metadata[key], operand)
        return lambda metadata: key not in metadata or not _holds(metadata[key], operand)
    if sign in ("$in", "$nin"):
        fine = isinstance(operand, list) and 1 <= len(operand) <= MOST_LISTED
        fine = fine and all(type(part) in (str, int, float) for part in operand)
        require(fine, f"{sign} takes 1 to 10000 strings or numbers")
        wanted = set(operand)
        if sign == "$in":
            return lambda metadata: key in metadata and _among(metadata[key], wanted)
        return lambda metadata: key not in metadata or not _among(metadata[key], wanted)
    if sign == "$exists":
        require(type(operand) is bool, "$exists takes a boolean")
        return lambda metadata: (key in metadata) is operand
    compare = {"$gt": "__gt__", "$gte": "__ge__", "$lt": "__lt__", "$lte": "__le__"}.get(sign)
    require(compare is not None, f"Invalid operator {sign}")
    require(number, f"{sign} takes a number, got {operand!r:.60}")
    bound = float(operand)
    return lambda metadata: type(metadata.get(key)) is float and getattr(metadata[key], compare)(bound)


def _holds(value: Any, operand: Any) -> bool:
    if isinstance(value, list):
        return operand in value
    return isinstance(value, bool) is isinstance(operand, bool) and value == operand


def _among(value: Any, wanted: set[Any]) -> bool:
    if isinstance(value, list):
        return not wanted.isdisjoint(value)
    return not isinstance(value, bool) and value in wanted


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: PineconeServer

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        written = self.rfile.read(length)
        parts = urlsplit(self.path)
        owner = self.owner
        owner.requests.append(f"{method} {parts.path}")
        wrong = owner.fault(method, parts.path)
        if wrong == "hold":
            owner.held.set()
            owner.release.wait(60)
            wrong = "reset"
        if wrong == "reset":
            return self._reset()
        if wrong == "full":
            full = {
                "code": 7,
                "message": "QUOTA_EXCEEDED: you've reached the max storage of your plan",
                "details": [],
            }
            return self._answer(403, full, {})
        if wrong.isdigit():
            return self._answer(int(wrong), {"error": {"code": "UNKNOWN", "message": "made to fail"}}, {})
        try:
            self._check(method, written)
            body = json.loads(written, parse_constant=_no_constant) if written else None
            with owner.lock:
                if parts.path.startswith("/i/"):
                    asked = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
                    status, answer, headers = owner.data(method, parts.path, asked, body)
                    require(len(json.dumps(answer)) <= MOST_ANSWER, "The result is larger than 4 MB")
                else:
                    (status, answer), headers = owner.control(method, parts.path, body), {}
        except Refused as error:
            code = {401: "UNAUTHENTICATED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS"}.get(
                error.status, "INVALID_ARGUMENT"
            )
            said: Any = {"error": {"code": code, "message": str(error)}, "status": error.status}
            if parts.path.startswith("/i/"):
                said = {"code": 3, "message": str(error), "details": []}
            return self._answer(error.status, said, {})
        except (ValueError, KeyError) as error:
            return self._answer(
                400, {"code": 3, "message": f"Malformed request: {error!r}", "details": []}, {}
            )
        return self._reset() if wrong == "lost" else self._answer(status, answer, headers)

    def _check(self, method: str, written: bytes) -> None:
        require(self.headers.get("Api-Key") == KEY, "Invalid API Key", 401)
        require(self.headers.get("X-Pinecone-Api-Version") == API_VERSION, "Unknown API version")
        require(len(self.path) <= MOST_ADDRESS, "URI too long", 414)
        require(len(written) <= MOST_BODY, f"Request size {len(written)} exceeds 2 MB", 413)
        if method == "POST":
            require(self.headers.get("Content-Type") == "application/json", "Content-Type must be JSON", 415)

    def _answer(self, status: int, answer: Any, headers: Mapping[str, str]) -> None:
        written = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(written)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(written)

    def _reset(self) -> None:
        # Nothing lingers: the other side sees a connection reset by its peer.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        with suppress(OSError, ValueError):  # The connection may have been reset on purpose.
            super().finish()

    def log_message(self, *args: Any) -> None:
        pass


def _no_constant(text: str) -> Any:
    raise Refused(400, f"{text} is not JSON")


@contextmanager
def serving(lag: int = 0) -> Iterator[PineconeServer]:
    """A server for as long as it is needed."""
    server = PineconeServer(lag)
    try:
        yield server
    finally:
        server.close()
