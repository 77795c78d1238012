"""Calibration of an index: measured again when it has grown, or when somebody asks for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bowerbird.errors import BowerbirdError, InputError, ModelError, QueryError
from bowerbird.search.background import Background, measure, unused
from bowerbird.search.labels import Fit, Labelled, learn

if TYPE_CHECKING:
    from bowerbird.search.index import Index
    from bowerbird.store.manifest import ModelEntry

_log = logging.getLogger("bowerbird")

GROWN = 0.1
"""A calibration is measured again when so large a share of the records came or went since."""


def calibrate(index: Index, models: str | Sequence[str] = "all", *, seed: int = 0) -> list[Background]:
    """Measure what unrelated pairs score under models of an index, and keep it with the index; labels stay.

    Args:
        index: that is locked for it.
        models: which of its models.
        seed: of the samples.

    Raises:
        QueryError: the index has no such model.
        IndexBusyError: another process is writing and did not finish in time.
    """
    with index.writing():
        entries = index.entries(models)
        found = [_again(index, entry, seed=seed) for entry in entries]
        keep(index, found)
    return found


def calibrate_with(
    index: Index, pairs: Sequence[Labelled], models: str | Sequence[str] = "all", *, seed: int = 0
) -> dict[str, tuple[list[Fit], list[str]]]:
    """Measure, and refine the match by pairs that people have judged.

    Args:
        index: that is locked for it.
        pairs: see `bowerbird.search.labels.read_pairs`.
        models: which of its models.
        seed: of the samples.

    Returns:
        by the space of each model, what was learned, and problems: pairs of records that are not there, or why a model
        learned nothing.

    Raises:
        QueryError: the index has no such model, or no model learned anything from these pairs.
        InputError: no model can embed a query.
    """
    found: dict[str, tuple[list[Fit], list[str]]] = {}
    calibrate(index, models, seed=seed)
    with index.writing():
        learned = []
        refused: list[BowerbirdError] = []
        for entry in index.entries(models):
            try:
                background, fits, problems = learn(index, entry, pairs)
            except (QueryError, InputError) as error:
                refused.append(error)
                found[entry.space] = ([], [error.message])
                continue
            learned.append(background)
            found[entry.space] = (fits, problems)
        if not learned:
            raise refused[0]
        keep(index, learned)
    return found


def refresh(index: Index) -> None:
    """Measure again what has grown out of its calibration. The index is locked by the caller."""
    stale = [entry for entry in index.manifest.models if _is_stale(index, entry)]
    if stale and len(index):
        found = []
        for entry in stale:
            try:
                found.append(_again(index, entry))
            except ModelError as error:
                # What was to be done is done. It is measured when the model is there again.
                _log.warning("%s was not calibrated: %s", entry.name, error.message)
        if found:
            keep(index, found)


def keep(index: Index, found: Sequence[Background]) -> None:
    """Write calibrations beside the manifest, then the manifest; the index is locked by the caller."""
    before = index.manifest.models
    entries = {entry.space: entry for entry in before}
    for background in found:
        entry = entries[background.space]
        index.change(replace(entry, calibration=background.save(index.location)))
    index.write_manifest()
    # Readers that have opened the manifest before may still want what it names.
    for name in unused(index.location.names(), [*before, *index.manifest.models]):
        index.location.remove(name)


def _again(index: Index, entry: ModelEntry, *, seed: int = 0) -> Background:
    """Measured anew; what was learned from labels stays, since it builds on evidence and not on scores."""
    labels = entry.calibration.get("labels") or {}
    return replace(measure(index, entry, seed=seed), labels=labels)


def _is_stale(index: Index, entry: ModelEntry) -> bool:
    told = entry.calibration
    if told.get("space") != entry.space:
        return True
    measured = {pair["column"] for pair in told.get("pairs", ())}
    asked = {column.name for column in entry.columns}
    grown = abs(len(index) - int(told.get("records", 0))) > GROWN * max(int(told.get("records", 0)), 1)
    return grown or not measured <= asked or not asked & measured
