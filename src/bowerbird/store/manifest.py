"""The manifest of an index: what its vectors mean. Written last and atomically.

Format 1 is a JSON object::

    format        1
    written_by    version of bowerbird
    created       ISO 8601, UTC
    updated       ISO 8601, UTC
    table_version the version of the table that this manifest describes; readers open that one
    records       how many there are
    failed        how many files of the last run could not be indexed
    roots         folders that were indexed, absolute
    models        list of: name, source, options, space (fingerprint), card (what it was made of), numerics, columns
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from bowerbird.errors import IndexDamagedError, IndexNotFoundError, SpaceMismatchError
from bowerbird.store.location import Location, Place
from bowerbird.store.table import VectorColumn

FORMAT = 1
NAME = "manifest.json"


@dataclass(frozen=True)
class ModelEntry:
    """A model whose vectors the index holds.

    Attributes:
        name: as the user called it.
        source: what `load` is given to get it again.
        options: what else `load` is given for it; empty for a model under its own conditions.
        space: fingerprint of its embedding space.
        card: `ModelCard.meaning()` at the time, so that a mismatch can be explained.
        numerics: engine and precision of each tower that wrote vectors.
        columns: the vector columns it fills.
    """

    name: str
    source: str
    space: str
    card: Mapping[str, Any]
    numerics: Mapping[str, Any]
    columns: tuple[VectorColumn, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """See the module's docstring."""

    created: str
    updated: str
    written_by: str
    table_version: int
    records: int
    failed: int
    roots: tuple[str, ...]
    models: tuple[ModelEntry, ...]
    format: int = field(default=FORMAT)

    def updated_to(self, **changes: Any) -> Manifest:
        """A copy with some fields changed and the time of the change."""
        return replace(self, updated=now(), **changes)


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write(place: Place, manifest: Manifest) -> None:
    """Replace the manifest in one step: a reader sees the old one or the new one, also after a power cut.

    Raises:
        StoreError: the place cannot be written to, or is full.
    """
    Location.of(place).replace(NAME, json.dumps(asdict(manifest), indent=1).encode())


def read(place: Place) -> Manifest:
    """Read a manifest.

    Raises:
        IndexNotFoundError: there is no index at that place.
        IndexDamagedError: the manifest cannot be read.
        SpaceMismatchError: it is of a format this version does not know.
        StoreError: the place may not be looked into, or cannot be reached.
    """
    location = Location.of(place)
    written = location.read_bytes(NAME)
    if written is None:
        raise IndexNotFoundError(
            f"There is no index at {location}.", hint="Make one with: bowerbird index FOLDER"
        )
    try:
        data = json.loads(written.decode("utf-8"))
        if data["format"] != FORMAT:
            raise SpaceMismatchError(
                f"The index at {location} is of format {data['format']}; this version of bowerbird reads {FORMAT}.",
                hint="Use the version that wrote it, or index the folder anew at another place.",
            )
        models = tuple(
            ModelEntry(**{**entry, "columns": tuple(VectorColumn(**column) for column in entry["columns"])})
            for entry in data["models"]
        )
        if not models:
            raise ValueError("it names no model")
        return Manifest(**{**data, "models": models, "roots": tuple(data["roots"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise IndexDamagedError(
            f"{location.child(NAME)} is damaged: {reason}.",
            hint=f"Delete {location} and index the folder again.",
        ) from error


def exists(place: Place) -> bool:
    """Whether there is an index at a place.

    Raises:
        StoreError: the place may not be looked into, its name cannot be one, or it cannot be reached.
    """
    return Location.of(place).exists(NAME)
