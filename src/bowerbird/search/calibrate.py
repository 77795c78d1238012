"""Calibration of an index: measured again when it has grown, or when somebody asks for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bowerbird.errors import BowerbirdError, InputError, ModelError, QueryError, StoreError
from bowerbird.search.background import FORMAT, Background, measure, unused
from bowerbird.search.labels import Fit, Labelled, learn
from bowerbird.store.filters import IsNull, Not, among

if TYPE_CHECKING:
    from bowerbird.search.index import Index
    from bowerbird.store.manifest import ModelEntry

_log = logging.getLogger("bowerbird")

GROWN = 0.1
"""A calibration is measured again when so large a share of the records, or of a column, came, went or changed since."""

FEW = 16
"""Of so few records, twice as many are a tenth more: while they come one by one, each of the first would be one."""

RECOGNISED = 128
"""So many records are kept by what they hold, to see how many are others by now: 3 % more or less."""


def calibrate(
    index: Index, models: str | Sequence[str] = "all", *, seed: int = 0, forget_labels: bool = False
) -> list[Background]:
    """Measure what unrelated pairs score under models of an index, and keep it with the index.

    Args:
        index: that is locked for it.
        models: which of its models.
        seed: of the samples.
        forget_labels: drop what was learned from labelled pairs; else it stays.

    Raises:
        QueryError: the index has no such model.
        IndexBusyError: another process is writing and did not finish in time.
    """
    with index.writing():
        entries = index.entries(models)
        found = [_again(index, entry, seed=seed, forget=forget_labels) for entry in entries]
        keep(index, found)
    return found


def calibrate_with(
    index: Index,
    pairs: Sequence[Labelled],
    models: str | Sequence[str] = "all",
    *,
    seed: int = 0,
    forget_labels: bool = False,
) -> dict[str, tuple[list[Fit], list[str]]]:
    """Measure, and refine the match by pairs that people have judged. Where that fails, the index stays as it was.

    Args:
        index: that is locked for it.
        pairs: see `bowerbird.search.labels.read_pairs`.
        models: which of its models.
        seed: of the samples.
        forget_labels: drop what was learned before of kinds of pairs that are not among these; else it stays.

    Returns:
        by the space of each model, what was learned, and problems: pairs of records that are not there, or why a model
        learned nothing.

    Raises:
        QueryError: the index has no such model, or no model learned anything from these pairs.
        InputError: no model can embed a query.
        IndexBusyError: another process is writing and did not finish in time.
    """
    found: dict[str, tuple[list[Fit], list[str]]] = {}
    with index.writing():
        measured: list[Background] = []
        refused: list[BowerbirdError] = []
        for entry in index.entries(models):
            background = _again(index, entry, seed=seed, forget=forget_labels)
            try:
                background, fits, problems = learn(index, entry, pairs, background)
                found[entry.space] = (fits, problems)
            except (QueryError, InputError) as error:
                refused.append(error)
                found[entry.space] = ([], [error.message])
            measured.append(background)
        if len(refused) == len(measured):
            raise refused[0]
        keep(index, measured)
    return found


def refresh(index: Index) -> None:
    """Measure again what has grown out of its calibration. The index is locked by the caller.

    What was to be done is done by then, so nothing is raised where this fails: it is told to the log, and the next run
    tries again.
    """
    found = []
    for entry in index.manifest.models if len(index) else ():
        try:
            if is_stale(index, entry):
                found.append(_again(index, entry))
        except (ModelError, StoreError, QueryError) as error:
            _log.warning("%s was not calibrated: %s", entry.name, error.message)
    before = index.manifest
    try:
        if found:
            keep(index, found)
    except StoreError as error:
        index.manifest = before
        _log.warning("%s was not calibrated: the calibration cannot be kept: %s", index.path, error.message)


def renew(index: Index) -> bool:
    """Measure again what has grown out of its calibration, of an index that others read and write meanwhile.

    It is locked for as long as it takes to keep what was measured. Columns of few records are measured again when they
    have doubled, or have `FEW` more; see `is_stale`.

    Args:
        index: as it was opened; its newest version afterwards, where there was anything to keep.

    Returns:
        whether anything was measured and kept.

    Raises:
        BowerbirdError: of the model, the store, or another process that is writing.
    """
    stale = [entry for entry in index.manifest.models if len(index) and is_stale(index, entry, few=FEW)]
    if not stale:
        return False
    rows = {entry.space: _rows(index, entry) for entry in stale}
    found = {entry.space: _again(index, entry) for entry in stale}
    with index.writing():
        now = {entry.space: entry.calibration for entry in index.manifest.models}
        # Not where somebody else has calibrated in the meantime, perhaps with labels.
        fresh = [found[entry.space] for entry in stale if now.get(entry.space) == entry.calibration]
        if fresh:
            keep(index, fresh, rows)
    return bool(fresh)


def keep(
    index: Index, found: Sequence[Background], rows: Mapping[str, Mapping[str, int]] | None = None
) -> None:
    """Write calibrations beside the manifest, then the manifest; the index is locked by the caller.

    Args:
        index: as it is now: what some of the records hold is kept too.
        found: as measured.
        rows: by space, how many rows each column had when it was measured; None: as many as now.
    """
    before = index.manifest.models
    entries = {entry.space: entry for entry in before}
    contents = _contents(index)
    for background in found:
        entry = entries[background.space]
        columns = rows[entry.space] if rows else _rows(index, entry)
        told = {**background.save(index.location), "columns": columns, "contents": contents}
        # As it will be read: JSON has no tuples, and what differs from the manifest would be read again.
        index.change(replace(entry, calibration=json.loads(json.dumps(told))))
    index.write_manifest()
    # Readers that have opened the manifest before may still want what it names.
    for name in unused(index.location.names(), [*before, *index.manifest.models]):
        index.location.remove(name)


def is_stale(index: Index, entry: ModelEntry, *, few: int = 0) -> bool:
    """Whether the calibration of a model may no longer hold, or there is none.

    So it is where more than `GROWN` of all records, or of those in a column, came, went or were replaced since, and
    where a column has its first rows.

    Args:
        index: it is only read.
        entry: of the model.
        few: so many more are not too many yet, unless they are twice as many.

    Raises:
        StoreError: the rows cannot be counted.
    """
    told = entry.calibration
    if told.get("space") != entry.space or told.get("format", FORMAT) != FORMAT:
        return True
    measured = {pair["column"] for pair in told.get("pairs", ())}
    asked = {column.name for column in entry.columns}
    if not measured <= asked or not asked & measured:
        return True
    # How many there are says nothing of those that took the place of others.
    if _grown(int(told.get("records", 0)), len(index), few) or _gone(index, told.get("contents", ())) > GROWN:
        return True
    columns = told.get("columns")
    # An earlier version kept none.
    return columns is not None and any(
        _grown(int(columns.get(name, 0)), rows, few) for name, rows in _rows(index, entry).items()
    )


def is_measured(index: Index, entry: ModelEntry) -> bool:
    """Whether something was measured of every column of a model that holds anything.

    Raises:
        StoreError: the rows cannot be counted.
    """
    told = entry.calibration
    if told.get("space") != entry.space or told.get("format", FORMAT) != FORMAT:
        return False
    columns = told.get("columns") or {}
    new = [column for column in entry.columns if not columns.get(column.name)]
    return not any(index.table.count(Not(IsNull(column.norm))) for column in new)


def _grown(then: int, now: int, few: int) -> bool:
    return abs(now - then) > max(GROWN * then, min(then, few))


def _rows(index: Index, entry: ModelEntry) -> Mapping[str, int]:
    """By column of a model, how many records have a vector in it."""
    return {column.name: index.table.count(Not(IsNull(column.norm))) for column in entry.columns}


def _contents(index: Index) -> list[str]:
    """Some records, by what they hold: a sample whose size does not grow with the index."""
    found = index.table.sample(["content"], RECOGNISED)["content"].to_pylist()
    return sorted({content for content in found if content})


def _gone(index: Index, contents: Sequence[str]) -> float:
    """The share of these that no record holds any more."""
    if not contents:
        return 0.0
    where = among("content", contents)
    there = {
        content for batch in index.table.scan(["content"], where) for content in batch["content"].to_pylist()
    }
    return 1 - len(there) / len(contents)


def _again(index: Index, entry: ModelEntry, *, seed: int = 0, forget: bool = False) -> Background:
    """Measured anew; what was learned from labels builds on evidence and not on scores, so it may stay."""
    labels = {} if forget else entry.calibration.get("labels") or {}
    return replace(measure(index, entry, seed=seed), labels=labels)
