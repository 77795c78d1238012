"""What a request may ask of an index, and what it may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from bowerbird.errors import QueryError
from bowerbird.search.entries import ALL, split
from bowerbird.search.index import Index
from bowerbird.search.query import Query
from bowerbird.store.where import parse

__all__ = ["PLACES", "Ask", "check_where", "spaces"]

PLACES = ("uri", "folder")
"""Columns that say where records lie on the server's disk."""


@dataclass(frozen=True)
class Ask:
    """A search, as `Index.ask` takes it; plain data that can be sent to another process.

    Attributes:
        query: what is asked.
        k: at most this many results.
        offset: so many are left out first.
        where: a filter.
        models: which are asked; none: the first.
        fusion: how several parts and models become one list.
        part_weights: with `weighted`.
        min_match: leave out what matches less.
        threshold: leave out raw scores below it.
        rerank: as `reranker` takes it, cross-encoders by the names that the service has for them; empty: none.
        paths: whether the filter may ask where records lie, `uri` and `folder`.
    """

    query: Query
    k: int = 10
    offset: int = 0
    where: str = ""
    models: tuple[str, ...] = ()
    fusion: str = "calibrated"
    part_weights: Mapping[str, float] = field(default_factory=dict)
    min_match: float | None = None
    threshold: float | None = None
    rerank: str = ""
    paths: bool = False


def check_where(index: Index, where: str, *, paths: bool) -> None:
    """See that a filter asks for nothing that is not told: one that may would tell it, letter by letter.

    Args:
        index: that is asked.
        where: the filter.
        paths: whether it may ask where records lie.

    Raises:
        QueryError: it may not, or cannot be understood.
    """
    if where and not paths:
        import pyarrow as pa

        fields = index.table.fields
        try:
            parse(where, pa.schema([field for field in fields if field.name not in PLACES]))
        except QueryError as error:
            with suppress(QueryError):
                parse(where, fields)
                columns = error.hint.partition("The columns are")
                hint = "".join(columns[1:])
                error = QueryError(
                    f"Where records lie, {' and '.join(PLACES)}, is not told here.",
                    hint=f"Start the service with --show-paths to have it asked. {hint}",
                    param="where",
                )
            raise error from None


def spaces(index: Index, models: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """The models that a request names; unlike the index itself, nothing looks for them on the disk.

    Args:
        index: that is asked.
        models: as they were named.
        names: by space, what each of its models is called here.

    Raises:
        QueryError: the index has no such model.
    """
    called = {names[entry.space]: entry.space for entry in index.manifest.models}
    found: list[str] = []
    # What a model is called here may hold a comma, or be another one's name before the comma.
    given = [models] if isinstance(models, str) else models
    for name in (piece for one in given for piece in ([one] if one in called else split(one))):
        if name in ALL or name in called:
            found.append(called.get(name, name))
            continue
        meant = [entry.space for entry in index.manifest.models if name in (entry.name, entry.space)]
        if len(meant) != 1:
            raise QueryError(
                f"The index has {'several models' if meant else 'no model'} {name!r}.",
                hint=f"Use one of: {', '.join(called)}.",
                param="models",
            )
        found += meant
    return tuple(found)
