"""One run of a network, which gives a result for each input whatever becomes of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from bowerbird.errors import BowerbirdError, EngineError
from bowerbird.serve.lanes import Lane

__all__ = ["run", "unexpected"]

_LOG = logging.getLogger("bowerbird")


def run(lane: Lane, payloads: Sequence[Any]) -> tuple[list[Any], bool]:
    """Run a lane on some inputs: for each what the lane made of it, or the error; and whether one run was enough.

    After a run that failed, each input is run alone, so that only those fail that cannot be run.
    """
    try:
        return _ran(lane, payloads), True
    except BaseException as error:  # noqa: BLE001  engines raise what they like
        if len(payloads) == 1:
            return [_told(error)], False
    results: list[Any] = []
    for payload in payloads:
        try:
            results += _ran(lane, [payload])
        except BaseException as alone:  # noqa: BLE001  see above
            results.append(_told(alone))
    return results, False


def unexpected(error: BaseException) -> EngineError:
    """What callers are told of an error that is none of ours; it is logged."""
    _LOG.error("A batch failed: %s", error, exc_info=error)
    return EngineError(
        f"Unexpected {type(error).__name__}: {error}.", hint="This is a defect; please report it."
    )


def _told(error: BaseException) -> BowerbirdError:
    return error if isinstance(error, BowerbirdError) else unexpected(error)


def _ran(lane: Lane, payloads: Sequence[Any]) -> list[Any]:
    results = list(lane.run(payloads))
    if len(results) != len(payloads):
        raise EngineError(
            f"{len(payloads)} inputs gave {len(results)} results.",
            hint="This is a defect; please report it.",
        )
    return results
