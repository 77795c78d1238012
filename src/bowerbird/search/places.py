"""Where indexes lie, and how one is found again from inside the folder it belongs to."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from bowerbird.errors import IndexNotFoundError, StoreError
from bowerbird.flow.sources import printable
from bowerbird.models.hub.fetch import EMBEDDED, canonical
from bowerbird.settings import settings
from bowerbird.store import manifest as manifests

SUFFIX = ".bower"


def home(source: str | Path) -> Path:
    """The folder whose index a source belongs to: a folder itself; of a file or a glob, the folder it starts in."""
    path = Path(os.path.abspath(os.path.expanduser(os.fspath(source))))
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def place(folder: Path, model: str = "") -> Path:
    """Where the index of a folder lies, whether it exists or not: in the user's data directory.

    A folder has one index for each model that it was indexed with; `model` is as `load` takes it, empty for the
    default.
    """
    real = os.path.realpath(folder)
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:12]
    called = canonical(model or settings().model)
    with_model = (
        "" if called == EMBEDDED else f"+{_plain(called)}-{hashlib.sha256(called.encode()).hexdigest()[:8]}"
    )
    return (
        settings().data_path
        / "indexes"
        / f"{_plain(os.path.basename(real)) or 'root'}-{digest}{with_model}{SUFFIX}"
    )


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in printable(name))[-40:]


def resolve(given: str, start: Path, model: str = "") -> Path:
    """The index to use: the one given, the one of `BOWERBIRD_INDEX`, or that of `start` or a folder above it.

    Args:
        given: path of an index, or empty.
        start: where to look from.
        model: which of a folder's indexes; see `place`.

    Raises:
        IndexNotFoundError: there is none.
    """
    named = given or settings().index
    if named:
        path = Path(named).expanduser().absolute()
        if not manifests.exists(path) and not os.path.lexists(path):
            raise IndexNotFoundError(
                f"There is no index at {path}.", hint=f"Make one with: bowerbird index FOLDER --index {named}"
            )
        return path
    found = [path for folder in (start, *start.parents) if manifests.exists(path := place(folder, model))]
    for path in found:
        if not _is_empty(path):
            return path
    if found:
        return found[0]
    known = known_roots()
    flag = f" --model {model}" if model else ""
    listed = f" Indexed so far: {', '.join(known[:5])}{' ...' if len(known) > 5 else ''}." if known else ""
    raise IndexNotFoundError(
        f"Neither {printable(str(start))} nor a folder above it is indexed{f' with {model}' if model else ''}.{listed}",
        hint=f"Index it with: bowerbird index {printable(str(start))}{flag}",
    )


def _is_empty(path: Path) -> bool:
    """Whether an index holds nothing, as after a run in which every file failed; it must not hide one above it."""
    try:
        return manifests.read(path).records == 0
    except StoreError:
        return False  # What is wrong with it is said when it is opened.


def known_roots() -> list[str]:
    """The folders that have an index in the user's data directory."""
    found: set[str] = set()
    for path in sorted((settings().data_path / "indexes").glob(f"*{SUFFIX}/{manifests.NAME}")):
        try:
            found.update(json.loads(path.read_text("utf-8"))["roots"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # A damaged index is reported when it is opened, not when others are listed.
    return sorted(found)
