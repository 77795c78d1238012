"""The end of a process that serves: in time, whatever hangs in it."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

_LOG = logging.getLogger("bowerbird.serve")

SAYING = 0.5
"""Seconds that saying why may take: whoever reads what is said may hang as well."""


class Deadline:
    """Ends the process by some time, unless it ends by itself before."""

    def __init__(self) -> None:
        # The one kind of queue that a handler of signals may use wherever it has interrupted the program.
        self._told: queue.SimpleQueue[tuple[float, int]] = queue.SimpleQueue()
        threading.Thread(target=self._watch, name="deadline", daemon=True).start()

    def set(self, seconds: float, number: int) -> None:
        """End within so many seconds, or by when it was set before if that is sooner. A handler of signals may call it.

        Args:
            seconds: from now.
            number: of the signal.
        """
        self._told.put((time.monotonic() + seconds, number))

    def _watch(self) -> None:
        end, number = self._told.get()
        while (left := end - time.monotonic()) > 0:
            with suppress(queue.Empty):
                end = min(end, self._told.get(timeout=left)[0])
        saying = threading.Thread(target=_say_why, daemon=True)
        saying.start()
        saying.join(SAYING)
        os._exit(exit_code(number))


def exit_code(number: int) -> int:
    """Of a process that served until a signal came."""
    return 130 if number == signal.SIGINT else 0


def unfinished() -> list[str]:
    """Threads that still work for a service, though it is over."""
    from bowerbird.serve.threads import at_work

    workers = [one.name for one in threading.enumerate() if one.name.startswith("bowerbird-worker")]
    return at_work() + workers


def leave(number: int) -> NoReturn:
    """End the process though threads work in it: without what Python takes apart first, which would have some of them
    crash.

    Args:
        number: of the signal that it was ended by.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(exit_code(number))


def _say_why() -> None:
    left = ", ".join(unfinished()) or "what is no part of the service"
    _LOG.error("Told to stop, this process ends now, though something works in it: %s.", left)
