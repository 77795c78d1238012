"""A server at work: uvicorn's, with this project's connections, signals, and what is done beside answering."""

from __future__ import annotations

import asyncio
import logging
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from bowerbird.errors import BowerbirdError
from bowerbird.serve.allocation import keep_what_is_here
from bowerbird.serve.api.door import Door
from bowerbird.serve.keys import Keys
from bowerbird.serve.listening import Listening
from bowerbird.serve.protocol import connection
from bowerbird.serve.server import Served, Stopping
from bowerbird.serve.service import LocalService

if TYPE_CHECKING:
    from bowerbird.serve.page.site import Page

__all__ = ["Running"]

LET_IN = 400
"""Looks for clients that still come in when the server stops, 5 ms apart; more than that come for ever."""

GRACE = 3.0
"""Seconds after `drain_seconds` that the end takes at the most: those whose requests were broken off are told, the last
traces are sent, and what is open is closed."""

TELLING = 0.25
"""Seconds of it to tell them."""

CLOSING = 0.75
"""Seconds of it that the page has, and then the service."""

_LOG = logging.getLogger("bowerbird.serve")


class Running(uvicorn.Server):
    """See the module.

    Args:
        door: in front of the application.
        service: that answers.
        options: of the process.
        keys: to be read again on SIGHUP.
        listening: where clients come.
        stopping: told by each signal to stop in how many seconds the process shall be gone.
    """

    def __init__(
        self,
        door: Door,
        service: LocalService,
        options: Served,
        keys: Keys,
        listening: Listening,
        stopping: Stopping | None = None,
    ) -> None:
        super().__init__(_config(door, options))
        self.door = door
        self.service = service
        self.options = options
        self.keys = keys
        self.listening = listening
        self.stopping = stopping
        self._beside: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._signal = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._warming: Future[None] | None = None
        self._started: Callable[[str], None] | None = None
        self._page = self._mounted() if options.page else None

    def until_stopped(self, warming: Future[None], started: Callable[[str], None] | None = None) -> int:
        """Answer until a signal comes; returns it.

        Args:
            warming: done when the models are loaded.
            started: told the address.

        Raises:
            BowerbirdError: a model cannot be loaded.
        """
        self._warming, self._started = warming, started
        self.run(sockets=[self.listening.socket])
        if self._failure is not None:
            raise self._failure
        return self._signal

    # Beginning and end

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Accept connections, and begin what is done beside."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._begin(self._warm())
        if self._started is not None:
            self._started(self.listening.address("https" if self.options.certfile else "http"))

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Accept nothing more, finish what is here, then let go of the models: all within `drain_seconds`."""
        end = time.monotonic() + self.options.limits.drain_seconds
        for task in self._beside:
            task.cancel()
        await self._let_in()
        if self._page is not None:
            self._page.leave()
        # It is handed on to `asyncio.wait_for`.
        self.config.timeout_graceful_shutdown = max(0.0, end - time.monotonic())  # type: ignore[assignment]
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=TELLING)
        if self._page is not None:
            with suppress(Exception):  # nobody looks at it any more
                await asyncio.wait_for(self._page.close(), CLOSING)
        left = 0.0 if self.force_exit else end - time.monotonic()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.service.close(), max(CLOSING, left))

    async def _let_in(self) -> None:
        """Those who are connected as far as they know: the system has taken them in, and nobody has looked yet."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.listening.socket, selectors.EVENT_READ)
            for _ in range(LET_IN):
                if not selector.select(0):
                    return
                await asyncio.sleep(0.005)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM stop the server, SIGHUP renews it; uvicorn would send itself the first two again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers: dict[int, Callable[[int, FrameType | None], None]] = {
            signal.SIGINT: self.handle_exit,
            signal.SIGTERM: self.handle_exit,
        }
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = self._renew
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Told to stop; told twice by Ctrl-C, wait for nothing."""
        self._signal = self._signal or sig
        super().handle_exit(sig, frame)
        if self.stopping is not None:
            self.stopping(GRACE + (0.0 if self.force_exit else self.options.limits.drain_seconds), sig)

    def _mounted(self) -> Page | None:
        """The page, of which nothing is imported yet; it asks for keys in a way of its own."""
        try:
            from bowerbird.serve.page import mount

            return mount(self.door.app, self.service, keys=self.keys, admission=self.door.admission)
        except Exception as error:  # noqa: BLE001  see `_show`
            _LOG.warning("There is no page: %s", error)
            return None

    # Beside answering

    def _begin(self, action: Any) -> None:
        task = asyncio.get_running_loop().create_task(action)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    def _renew(self, number: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self._begin(self._renewed()))

    async def _renewed(self) -> None:
        try:
            self.keys.reload()
            _LOG.info("API keys were read again: %d.", len(self.keys))
        except BowerbirdError as error:
            _LOG.error("The API keys stay as they were. %s", error)
        await self._refresh()

    async def _warm(self) -> None:
        """Without its models the service is none: it stops where one cannot be loaded."""
        assert self._warming is not None
        try:
            await asyncio.wrap_future(self._warming)
        except Exception as error:  # noqa: BLE001  raised again in `until_stopped`
            self._failure = error
            self.should_exit = True
            return
        if self._page is not None:
            await self._show(self._page)
        keep_what_is_here()

    async def _show(self, page: Page) -> None:
        """The page takes seconds to import, so the API does not wait for it; without it, the API goes on."""
        try:
            await page.start()
        except Exception as error:  # noqa: BLE001  whatever is wrong with the page, the API is not
            _LOG.warning("There is no page: %s", error)

    async def _refresh(self) -> None:
        try:
            if await self.service.refresh():
                _LOG.info("The newest commit of the index is served.")
        except Exception as error:  # noqa: BLE001  what was served until now goes on being served
            _LOG.warning("The index cannot be renewed: %s", error)


def _config(door: Door, options: Served) -> uvicorn.Config:
    limits = options.limits
    _allow_files(2 * limits.connections + 256)
    # What clients do wrong is answered, and noted by those who watch requests; it is nothing to log line by line.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return uvicorn.Config(
        door,
        http=connection(limits, options.proxies),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(options.proxies),
        forwarded_allow_ips=list(options.proxies),
        timeout_keep_alive=max(1, round(limits.idle_seconds)) if limits.idle_seconds else 1 << 20,
        ssl_certfile=options.certfile or None,
        ssl_keyfile=options.keyfile or None,
    )


def _allow_files(count: int) -> None:
    """Each connection is an open file: as many as the limits allow must be allowed here too."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < count:
            most = count if hard == resource.RLIM_INFINITY else min(count, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
