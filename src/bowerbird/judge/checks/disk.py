"""Files as they are now: changed or gone since they were indexed, folders out of reach, what the last run left out."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bowerbird.flow.files import is_gone, printable
from bowerbird.judge.checks.finding import SHOWN, Case, Example, Finding, Level, are, count, local, shown
from bowerbird.judge.sampled import sampled

FILES = 20_000
"""Files that are looked at, at most; of a larger index, records drawn at random."""

TOUCHED = 0
"""Modification times of at most this were not looked at when the file was indexed."""


@dataclass
class _Seen:
    """What became of the files of some records."""

    looked: int = 0
    changed: list[Example] = field(default_factory=list)
    gone: list[Example] = field(default_factory=list)
    below: Counter[str] = field(default_factory=Counter)  # by folder out of reach


def files(case: Case) -> Iterator[Finding]:
    """Whether files are as they were indexed, by size and time of change, and still there."""
    away = [root for root in case.index.manifest.roots if not os.path.exists(root)]
    seen = _look(case, away)
    for root in away:
        yield Finding(
            "folders",
            Level.PROBLEM,
            f"The folder {printable(root)} is out of reach; {count(seen.below[root], 'record')} looked at lie there.",
            do="Connect its disk. Searches still work; what they find cannot be opened.",
            figures={"folder": printable(root), "records": seen.below[root]},
        )
    if seen.changed:
        yield Finding(
            "files changed",
            Level.WARNING,
            f"{count(len(seen.changed), 'file')} of {seen.looked:,} looked at changed after being indexed: the "
            "vectors are of what was there before.",
            do=f"Bring the index up to date: {case.update}",
            figures={"looked_at": seen.looked, "changed": len(seen.changed)},
            examples=tuple(seen.changed[:SHOWN]),
        )
    if seen.gone:
        yield Finding(
            "files gone",
            Level.WARNING,
            f"{count(len(seen.gone), 'file')} of {seen.looked:,} looked at {are(len(seen.gone))} no longer there: "
            "searches find what cannot be opened.",
            do=f"Bring the index up to date: {case.update}",
            figures={"looked_at": seen.looked, "gone": len(seen.gone)},
            examples=tuple(seen.gone[:SHOWN]),
        )
    if seen.looked and not (seen.changed or seen.gone):
        yield Finding(
            "files",
            Level.OK,
            f"{count(seen.looked, 'file')} looked at: all there, and as they were indexed.",
            figures={"looked_at": seen.looked, "changed": 0, "gone": 0},
        )


def _look(case: Case, away: list[str]) -> _Seen:
    rows = sampled(case.index, (), ("uri", "size", "mtime_ns"), FILES, seed=case.seed).facts
    seen = _Seen()
    known: dict[str, bool] = {}  # a file that several records share is looked at once
    for id_, uri, size, mtime in zip(rows["id"], rows["uri"], rows["size"], rows["mtime_ns"], strict=True):
        path = local(uri)
        if not path or path in known:
            continue
        known[path] = True
        root = next((root for root in away if Path(root) in (Path(path), *Path(path).parents)), None)
        if root is not None:
            seen.below[root] += 1
            continue
        try:
            state = os.stat(path)
        except OSError:
            if is_gone(path):
                seen.looked += 1
                seen.gone.append(Example((id_,), (shown(uri, id_),)))
            continue
        seen.looked += 1
        grown = size is not None and size != state.st_size
        if grown or (mtime is not None and mtime > TOUCHED and mtime != state.st_mtime_ns):
            note = f"{size:,} bytes then, {state.st_size:,} now" if grown else "another time of change"
            seen.changed.append(Example((id_,), (shown(uri, id_),), note))
    return seen


def left_out(case: Case) -> Iterator[Finding]:
    """What the last run could not index, as the index keeps it beside its manifest."""
    faults = []
    for line in (
        (case.index.location.read_bytes("errors.jsonl") or b"").decode("utf-8", "replace").splitlines()
    ):
        try:
            fault = json.loads(line)
        except ValueError:
            continue
        if isinstance(fault, dict):
            faults.append({str(key): str(value) for key, value in fault.items()})
    failed = max(len(faults), case.index.manifest.failed)
    if not failed:
        yield Finding("left out", Level.OK, "The last run could index everything.", figures={"failed": 0})
        return
    kinds = Counter(fault.get("kind") or "failed" for fault in faults)
    listed = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common(5))
    yield Finding(
        "left out",
        Level.WARNING,
        f"The last run could not index {count(failed, 'input')}{f': {listed}' if listed else ''}.",
        do=faults[0].get("hint", "") if faults else "",
        figures={"failed": failed, "kinds": dict(kinds)},
        examples=tuple(
            Example((), (fault.get("path", ""),), fault.get("reason", "")) for fault in faults[:SHOWN]
        ),
    )
