"""Who embeds what: of all records with the same bytes, one."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence


class Claims:
    """Contents that need not be embedded: the table has them, or another record of the run has claimed them.

    One object is asked by all threads of a run, or by all workers of a cluster. Asking again gives the same answer,
    so that a worker that takes over from one that died may go on.

    Args:
        held: contents that the table has.
        ids: ids of users that the table has.
    """

    def __init__(self, held: Iterable[str], ids: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._claimed = dict.fromkeys(held, "")
        self._ids = frozenset(ids)

    def __call__(self, contents: Sequence[str], records: Sequence[str]) -> list[bool]:
        """For each content, whether it is known already; if not, the record has it from now on.

        Args:
            contents: content ids.
            records: ids of the records that hold them.
        """
        with self._lock:
            return [
                self._claimed.setdefault(content, record) != record
                for content, record in zip(contents, records, strict=True)
            ]

    def replaced(self, ids: Sequence[str]) -> list[bool]:
        """For each id of a user, whether the table has a row of it."""
        return [id_ in self._ids for id_ in ids]

    def __getstate__(self) -> tuple[dict[str, str], frozenset[str]]:
        return self._claimed, self._ids

    def __setstate__(self, state: tuple[dict[str, str], frozenset[str]]) -> None:
        self._claimed, self._ids = state
        self._lock = threading.Lock()
