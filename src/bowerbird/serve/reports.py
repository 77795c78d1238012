"""What the service draws of its index for people: a map, the modality gap, and how the index is.

The pages are those of `bowerbird map`, `gap` and `doctor`, but tell nothing of where files lie on the server.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from bowerbird.errors import QueryError

if TYPE_CHECKING:
    from bowerbird.judge.checks.finding import Example, Finding
    from bowerbird.search.index import Index

__all__ = ["REPORTS", "report"]

REPORTS = ("map", "gap", "health")
"""What can be drawn."""

POINTS = 20_000
"""Points of a map: what a phone draws while somebody drags it."""

THUMBNAILS = 1000
"""Pictures that can be seen on it, about 3 kB each."""

FRESH = 24
"""Pictures, and texts, that are embedded again for the health: enough to see that something is wrong."""


def report(index: Index, kind: str, *, model: str = "", colour: str = "", name: str = "") -> str:
    """A page as HTML that needs nothing else; takes seconds, and more for large indexes.

    Args:
        index: it is only read.
        kind: one of `REPORTS`.
        model: which of its models; empty: the first, and for the health all.
        colour: an attribute that the map is coloured by.
        name: what people call the index.

    Raises:
        QueryError: there is no such report, model or attribute, or nothing to draw.
    """
    if kind == "map":
        return _map(index, model, colour, name)
    if kind == "gap":
        return _gap(index, model, name)
    if kind == "health":
        return _health(index, model, name)
    raise QueryError(f"There is no report {kind!r}.", hint=f"Use one of: {', '.join(REPORTS)}.")


def _map(index: Index, model: str, colour: str, name: str) -> str:
    from bowerbird.judge.atlas import atlas
    from bowerbird.judge.atlas_page import atlas_page

    # UMAP draws clearer maps, but compiles itself for a minute in a process that others wait for.
    drawn = atlas(index, model=model, colour=colour, points=POINTS, thumbnails=THUMBNAILS, method="pca")
    nowhere = tuple(uri if uri.startswith(("http://", "https://")) else "" for uri in drawn.uris)
    notes = tuple(note.partition("; --")[0].rstrip(".") + "." for note in drawn.notes)
    notes += ("`bowerbird map` draws a clearer one, with UMAP.",)
    return atlas_page(replace(drawn, uris=nowhere, notes=notes), place=name)


def _gap(index: Index, model: str, name: str) -> str:
    from bowerbird.judge.gap import gap_of
    from bowerbird.judge.gap_page import gap_page

    return gap_page(*gap_of(index, model), place=name)


def _health(index: Index, model: str, name: str) -> str:
    from bowerbird.judge.doctor import doctor
    from bowerbird.judge.doctor_page import doctor_page, pictured

    checkup = doctor(index, models=(model,) if model else (), fresh=FRESH)
    folders = _folders(index)
    told = replace(
        checkup,
        index=name,
        findings=tuple(
            _without_paths(finding, folders, str(index.path), name) for finding in checkup.findings
        ),
    )
    return doctor_page(told, index.thumbnails(pictured(told)))


def _folders(index: Index) -> list[str]:
    """Where files lie, the deepest first."""
    found = {os.path.dirname(str(index.path)), *map(str, index.manifest.roots)}
    return sorted((folder for folder in found if len(folder) > 1), key=len, reverse=True)


def _without_paths(finding: Finding, folders: Iterable[str], place: str, name: str) -> Finding:
    def told(text: str) -> str:
        text = text.replace(place, name)
        for folder in folders:
            text = text.replace(f"{folder}/", "").replace(folder, os.path.basename(folder))
        return text

    def shown(example: Example) -> Example:
        names = tuple(_last(one) for one in example.names)
        note = example.note
        for whole, last in zip(example.names, names, strict=True):
            note = note.replace(whole, last) if whole else note
        return replace(example, names=names, note=told(note))

    return replace(
        finding,
        what=told(finding.what),
        do=told(finding.do),
        examples=tuple(shown(example) for example in finding.examples),
    )


def _last(name: str) -> str:
    """The last part of a path; texts, which may hold slashes, and addresses stay as they are."""
    return name.rpartition("/")[2] or name if name.startswith("/") else name
