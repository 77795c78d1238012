"""What a service logs, on stderr: a line for each request, and what the library has to say; as text or as JSON.

A line never holds a key, a text, a picture or what a client sent as the path: only routes, names and numbers.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from bowerbird.serve.api.door import Noted

__all__ = ["AccessLog", "AsJson", "AsText", "facts_of", "logged"]

REQUESTS = "bowerbird.serve.requests"
"""Name of the logger of requests."""


_JSON = json.JSONEncoder(default=str)


class AccessLog:
    """Logs each request when it is over; an observer of the door."""

    def __init__(self) -> None:
        self._log = logging.getLogger(REQUESTS)

    def __call__(self, noted: Noted) -> None:
        """A request is over."""
        level = logging.ERROR if noted.status == 500 else logging.INFO
        if self._log.isEnabledFor(level):
            facts = facts_of(noted)
            # As `Logger.log` does, but for the search for who called it, which takes longest.
            record = logging.LogRecord(
                REQUESTS, level, __file__, 0, "%(method)s %(route)s %(status)s", (facts,), None, "AccessLog"
            )
            record.facts = facts
            self._log.handle(record)


def facts_of(noted: Noted) -> dict[str, Any]:
    """What is told of a request; what is empty is left out. Times are in milliseconds."""
    stages = noted.stages
    facts: dict[str, Any] = {
        "request": noted.id,
        "method": noted.method if noted.method.isalpha() and len(noted.method) < 16 else "other",
        "route": noted.path or "other",
        "status": noted.status,
        "ms": _ms(stages.get("total", 0.0)),
    }
    for stage, seconds in stages.items():
        if stage != "total":
            facts[f"{stage}_ms"] = _ms(seconds)
    answer = noted.answer
    told: dict[str, Any] = {
        "caller": noted.caller,
        "model": noted.model[:128],
        "inputs": len(answer.outcomes) if answer is not None else 0,
        "tokens": answer.tokens if answer is not None else 0,
        "code": noted.code,
        "trace": noted.traceparent[3:35],
    }
    facts.update((name, value) for name, value in told.items() if value)
    return facts


@contextmanager
def logged(form: str = "text", stream: TextIO | None = None, level: int = logging.INFO) -> Iterator[None]:
    """Write what is logged under `bowerbird` to a stream for a while, in the place of any handler that it has.

    Args:
        form: `text` or `json`.
        stream: None: stderr.
        level: what is below it is left out.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(AsJson() if form == "json" else AsText())
    log = logging.getLogger("bowerbird")
    before, level_before = list(log.handlers), log.level
    log.handlers[:] = [handler]
    log.setLevel(level)
    try:
        yield
    finally:
        log.handlers[:] = before
        log.setLevel(level_before)


class AsJson(logging.Formatter):
    """One object on a line: `time`, `level`, `logger`, `message`, and of a request what `facts_of` says."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        facts = getattr(record, "facts", None)
        if facts is not None:
            line.update(facts)
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _JSON.encode(line)


class AsText(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        facts = getattr(record, "facts", None)
        if facts is None:
            said = f"{record.levelname.lower()}: {record.getMessage()}"
        else:
            rest = " ".join(
                f"{name}={_printable(value)}"
                for name, value in facts.items()
                if name not in ("method", "route", "status", "ms")
            )
            said = (
                f"{facts['method']} {_printable(facts['route'])} {facts['status']} {facts['ms']:g} ms {rest}"
            )
        line = f"{_time(record)} {said}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _time(record: logging.LogRecord) -> str:
    """UTC, to the millisecond, as of RFC 3339."""
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _printable(value: Any) -> str:
    """On one line, and one word: what clients chose, such as names of models, can break neither."""
    said = str(value)
    return said if said.isprintable() and " " not in said and said else json.dumps(said)
