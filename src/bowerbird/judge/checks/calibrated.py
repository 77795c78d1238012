"""Whether the match of search results was calibrated, and is still of the index as it is."""

from __future__ import annotations

from collections.abc import Iterator

from bowerbird.errors import StoreError
from bowerbird.judge.checks.finding import Case, Finding, Level
from bowerbird.judge.gap import correction_of
from bowerbird.search.calibrate import is_stale


def calibration(case: Case) -> Iterator[Finding]:
    """One finding for each model."""
    now = len(case.index)
    command = f"bowerbird calibrate {case.index.path}"
    for entry in case.entries:
        if not entry.calibration:
            yield Finding(
                "calibration",
                Level.NOTE,
                "Not calibrated: scores of pictures and of texts mean different things.",
                do=command,
                model=case.label(entry),
            )
            continue
        try:
            case.index.background(entry)
        except StoreError as error:
            yield Finding("calibration", Level.PROBLEM, error.message, do=command, model=case.label(entry))
            continue
        then = int(entry.calibration.get("records", now))
        figures = {"records_then": then, "records_now": now, "correction": correction_of(entry)}
        if is_stale(case.index, entry):
            how = (
                f"there are {now:,} now"
                if now != then
                else "many of them, or of their vectors, changed since"
            )
            yield Finding(
                "calibration",
                Level.WARNING,
                f"Calibrated with {then:,} records, and {how}.",
                do=command,
                model=case.label(entry),
                figures=figures,
            )
        else:
            yield Finding(
                "calibration",
                Level.OK,
                f"Calibrated with {then:,} records; correction of the modality gap: {correction_of(entry)}.",
                model=case.label(entry),
                figures=figures,
            )
