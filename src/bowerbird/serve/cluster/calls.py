"""Asking a deployment: what a dead replica did not answer is asked again; errors come out as they were raised."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bowerbird.errors import BowerbirdError
from bowerbird.serve.batching import BusyError

__all__ = ["UnavailableError", "asked", "asked_and_waited"]

TRIES = 5
"""Replicas may die so often of one call; then it is taken to be what they die of."""

PAUSE = 0.05
"""Seconds before the second try; twice as many before each further one."""


class UnavailableError(BusyError):
    """A part of the service does not answer at the moment."""

    def __init__(self, seconds: float, said: str = "A part of the service does not answer.") -> None:
        super().__init__(seconds)
        self.message = said
        self.hint = f"Try again in {max(1, round(seconds))} s."

    def __reduce__(self) -> tuple[object, ...]:
        return (UnavailableError, (self.seconds, self.message))


async def asked(handle: Any, method: str, *arguments: Any, again: bool = True) -> Any:
    """What a method of a deployment returns. Cancelling it cancels the call there.

    Args:
        handle: of the deployment.
        method: its name.
        arguments: for it.
        again: whether it may be asked twice, when the first replica died with it.

    Raises:
        BusyError: more is waiting for the deployment than it may have.
        UnavailableError: no replica has answered.
        BowerbirdError: what the method raised.
    """
    for number in range(TRIES):
        response = getattr(handle, method).remote(*arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:  # noqa: BLE001  sorted by what they mean
            _take(error, method, number, again)
        await asyncio.sleep(PAUSE * 2**number)
    raise _gone(method)


def asked_and_waited(handle: Any, method: str, *arguments: Any, seconds: float) -> Any:
    """As `asked`, in a thread that may wait.

    Raises:
        TimeoutError: there was no answer within so many seconds.
    """
    end = time.monotonic() + seconds
    for number in range(TRIES):
        response = getattr(handle, method).remote(*arguments)
        try:
            return response.result(timeout_s=max(0.0, end - time.monotonic()))
        except TimeoutError:
            response.cancel()
            raise
        except Exception as error:  # noqa: BLE001  see above
            _take(error, method, number, again=True)
        time.sleep(PAUSE * 2**number)
    raise _gone(method)


def _take(error: Exception, method: str, number: int, again: bool) -> None:
    """Return where it is worth another try; otherwise raise what it means."""
    from ray import exceptions
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

    cause: Any = error
    while isinstance(cause, exceptions.RayTaskError) and isinstance(cause.cause, Exception):
        cause = cause.cause
    if isinstance(cause, BusyError) and cause.stopping and number + 1 < TRIES:
        return  # others go on
    if isinstance(cause, (BowerbirdError, TimeoutError)):
        raise cause from None
    if isinstance(cause, BackPressureError):
        raise BusyError(1.0) from None
    if isinstance(cause, DeploymentUnavailableError):
        raise UnavailableError(10.0, f"{cause.message.rstrip('.')}.") from None
    lost = (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.OwnerDiedError,
        exceptions.TaskCancelledError,
        RayServeException,
    )
    if not isinstance(cause, lost):
        raise cause
    if not again or number + 1 == TRIES:
        raise _gone(method) from cause


def _gone(method: str) -> UnavailableError:
    return UnavailableError(5.0, f"Every replica that was asked to {method} has died with it.")
