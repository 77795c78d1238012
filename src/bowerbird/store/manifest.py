"""The manifest of an index: what its vectors mean. Written last and atomically.

Format 2 is a JSON object::

    format        2
    written_by    version of bowerbird
    created       ISO 8601, UTC
    updated       ISO 8601, UTC
    table_version the version of the table that this manifest describes; readers open that one
    records       how many there are
    failed        how many files of the last run could not be indexed
    roots         folders that were indexed, absolute
    models        list of: name, source, options, space (fingerprint), card (what it was made of), numerics, columns,
                  calibration. The first is the index's own model: it embeds what is new, and is asked where nobody
                  names one. Vectors of the others are filled in after it.

Format 1 had one model and no calibration; it is read as such.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from bowerbird.errors import IndexDamagedError, IndexNotFoundError, SpaceMismatchError
from bowerbird.record import Modality
from bowerbird.store.location import Location, Place
from bowerbird.store.table import VectorColumn

FORMAT = 2
READ = (1, FORMAT)
"""Formats that this version reads; it writes the last."""

NAME = "manifest.json"

CALIBRATIONS = "calibration-"
"""How the names of files with what was measured of scores begin."""


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
        columns: the vector columns it fills: first that of the picture output which is shared with texts.
        calibration: what was measured of its scores in this index; plain JSON data, empty before that.
    """

    name: str
    source: str
    space: str
    card: Mapping[str, Any]
    numerics: Mapping[str, Any]
    columns: tuple[VectorColumn, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the model that the index holds, without doubles."""
        return tuple(dict.fromkeys(column.output for column in self.columns))

    def takes(self, modality: str) -> bool:
        """Whether the model takes pictures, or texts; there may be no column for them yet."""
        return bool(self.card.get(str(modality)))

    def column(self, output: str, modality: str = Modality.IMAGE) -> VectorColumn:
        """The column that holds an output, for pictures or for texts.

        Raises:
            IndexDamagedError: there is none.
        """
        for column in self.columns:
            if column.output == output and column.modality == modality:
                return column
        raise IndexDamagedError(
            f"The manifest names no column for the {modality} output {output!r} of {self.name}.",
            hint="Delete the directory and index the folder again.",
        )

    def parts(self) -> dict[str, str]:
        """By the name of each column, the vector of a record that it holds, as `embed` names them without a name."""
        found: dict[str, str] = {}
        for column in self.columns:
            if column.modality == Modality.TEXT:
                found[column.name] = "text"
            else:
                found[column.name] = f"image.{column.output}" if "image" in found.values() else "image"
        return found


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
    Location.of(place).replace(NAME, json.dumps(vars(manifest), default=vars, indent=1).encode())


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
        if data["format"] not in READ:
            raise SpaceMismatchError(
                f"The index at {location} is of format {data['format']}; this version of bowerbird reads "
                f"{' and '.join(map(str, READ))}.",
                hint="Use the version that wrote it, or index the folder anew at another place.",
            )
        models = tuple(
            ModelEntry(**{**entry, "columns": tuple(VectorColumn(**column) for column in entry["columns"])})
            for entry in data["models"]
        )
        if not models:
            raise ValueError("it names no model")
        return Manifest(**{**data, "models": models, "roots": tuple(data["roots"]), "format": FORMAT})
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
