"""What visitors' browsers send to Gradio: looked at before Gradio is, and let go when the service stops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import Response

__all__ = ["ASKED", "Message", "Receive", "refusal", "replayed", "until"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

ASKED = 1 << 20
"""Bytes that a question to Gradio may have; pictures are sent by a way of their own."""


def refusal(body: bytes | None) -> Response | None:
    """What is said to a question that no control of the page asks; None: Gradio may see it.

    Of an object with `meta`, wherever it stands in a question, Gradio thinks that it is a file: it opens its path, or
    fetches its address, whatever `--fetch-urls` says, before any component looks at it.

    Args:
        body: of the request; None: it has more than `ASKED` bytes.
    """
    if body is None:
        return Response(f"Questions have at most {ASKED >> 10} KB here.", 413)
    try:
        json.loads(body or b"{}", object_hook=_without_files)
    except (ValueError, RecursionError):
        return Response("This is no question of the page.", 422)
    return None


def _without_files(found: dict[str, Any]) -> None:
    if "meta" in found:
        raise ValueError("a file")


def replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, for whoever reads it next; and then what comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def until(over: asyncio.Event, receive: Receive) -> Receive:
    """As `receive`, and at the end as if the visitor had left.

    Gradio keeps a stream open for every visitor, which a server that stops would wait for.
    """

    async def received() -> Message:
        waiting = [asyncio.ensure_future(receive()), asyncio.ensure_future(over.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not waiting[0].done():
                return {"type": "http.disconnect"}
            message: Message = waiting[0].result()  # type: ignore[assignment]
            return message
        finally:
            for one in waiting:
                one.cancel()

    return received
