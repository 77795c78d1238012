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
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bowerbird.errors import IndexDamagedError, IndexNotFoundError, SpaceMismatchError, StoreError
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


def write(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest in one step: a reader sees the old one or the new one, also after a power cut.

    Raises:
        OSError: the place cannot be written to, or is full.
    """
    temporary = directory / f".{NAME}.{os.getpid()}"
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(asdict(manifest), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / NAME)
    finally:
        temporary.unlink(missing_ok=True)


def read(directory: Path) -> Manifest:
    """Read a manifest.

    Raises:
        IndexNotFoundError: there is no index at that place.
        IndexDamagedError: the manifest cannot be read.
        SpaceMismatchError: it is of a format this version does not know.
    """
    path = directory / NAME
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["format"] != FORMAT:
            raise SpaceMismatchError(
                f"The index at {directory} is of format {data['format']}; this version of bowerbird reads {FORMAT}.",
                hint="Use the version that wrote it, or index the folder anew at another place.",
            )
        models = tuple(
            ModelEntry(**{**entry, "columns": tuple(VectorColumn(**column) for column in entry["columns"])})
            for entry in data["models"]
        )
        if not models:
            raise ValueError("it names no model")
        return Manifest(**{**data, "models": models, "roots": tuple(data["roots"])})
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise IndexNotFoundError(
            f"There is no index at {directory}.", hint="Make one with: bowerbird index FOLDER"
        ) from error
    except NotADirectoryError as error:
        raise IndexNotFoundError(
            f"{directory} is not an index: it is a file.", hint="Give the directory of an index."
        ) from error
    except OSError as error:
        raise _unreachable(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise IndexDamagedError(
            f"{path} is damaged: {reason}.", hint=f"Delete {directory} and index the folder again."
        ) from error


def exists(directory: Path) -> bool:
    """Whether there is an index at a place.

    Raises:
        StoreError: the place may not be looked into, or its name cannot be one.
    """
    try:
        (directory / NAME).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreachable(directory / NAME, error) from error
    return True


def _unreachable(path: Path, error: OSError) -> StoreError:
    reason = (error.strerror or type(error).__name__).lower()
    return StoreError(
        f"{path} cannot be read: {reason}.", hint="Check its permissions, and those of its folders."
    )
