"""Where indexes lie, and how one is found again from inside the folder it belongs to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from bowerbird.errors import IndexNotFoundError, StoreError
from bowerbird.flow.files import printable
from bowerbird.flow.sources.addresses import is_remote
from bowerbird.models.hub.fetch import EMBEDDED, canonical, check_name
from bowerbird.settings import settings
from bowerbird.store import manifest as manifests
from bowerbird.store.manifest import ModelEntry

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
    name = canonical(model or settings().model)
    with_model = (
        "" if name == EMBEDDED else f"+{_plain(name)}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    )
    return _home() / f"{_stem(folder)}{with_model}{SUFFIX}"


def _home() -> Path:
    return settings().data_path / "indexes"


def _stem(folder: Path) -> str:
    """How the names of all indexes of a folder begin."""
    real = os.path.realpath(folder)
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:12]
    return f"{_plain(os.path.basename(real)) or 'root'}-{digest}"


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in printable(name))[-40:]


def resolve(given: str, start: Path, model: str = "") -> Path | str:
    """The index to use: the one given, the one of `BOWERBIRD_INDEX`, or that of `start` or a folder above it.

    It is a path, or the address of an index in an object store, which is not looked for here.

    Where no model is asked for and none of these folders was indexed with the default one, the only index that the
    nearest of them has is taken, whatever its model.

    Args:
        given: path of an index, or empty.
        start: where to look from.
        model: which of a folder's indexes; see `place`.

    Raises:
        IndexNotFoundError: there is none, or there are several of other models.
        ModelNotFoundError: there is none, and no such model either.
    """
    named = given or settings().index
    if named:
        if is_remote(named):
            return named
        path = Path(named).expanduser().absolute()
        if not manifests.exists(path) and not os.path.lexists(path):
            raise IndexNotFoundError(
                f"There is no index at {path}.", hint=f"Make one with: bowerbird index FOLDER --index {named}"
            )
        return path
    folders = (start, *start.parents)
    found = [path for folder in folders if manifests.exists(path := place(folder, model))]
    for path in found:
        if not _is_empty(path):
            return path
    asked = model or settings().model
    other = _made_with(folders, asked) if model or asked != EMBEDDED else _only(folders)
    if other or found:
        return other or found[0]
    check_name(asked)
    shown = asked if model or asked != EMBEDDED else ""
    raise IndexNotFoundError(
        f"Neither {printable(str(start))} nor a folder above it is indexed{f' with {shown}' if shown else ''}."
        f"{_listed()}",
        hint=f"Index it with: bowerbird index {printable(str(start))}{f' --model {shown}' if shown else ''}",
    )


def _made_with(folders: Iterable[Path], model: str) -> Path | None:
    """The nearest index whose manifest names a model, wherever its name would have put it by now.

    The place of an index follows from the name its model was given; a name such as `org/name@COMMIT` leads to another
    place once the branch that meant it has moved.
    """
    for folder in folders:
        for path, entry in _indexes(folder):
            if model == entry.source or canonical(model) == canonical(entry.source):
                return path
    return None


def _only(folders: Iterable[Path]) -> Path | None:
    """The one index of the nearest folder that has any.

    Raises:
        IndexNotFoundError: it has several.
    """
    for folder in folders:
        indexes = _indexes(folder)
        if len(indexes) > 1:
            names = sorted(called(entry) for _, entry in indexes)
            raise IndexNotFoundError(
                f"{printable(str(folder))} is indexed with several models, none of them {EMBEDDED}: "
                f"{', '.join(names)}.",
                hint=f"Say which one: --model {names[0]}",
            )
        if indexes:
            return indexes[0][0]
    return None


def called(entry: ModelEntry) -> str:
    """What `--model` is given for the model of an index: its short name if that still means it, else its source."""
    return entry.name if canonical(entry.name) == canonical(entry.source) else entry.source


def _indexes(folder: Path) -> list[tuple[Path, ModelEntry]]:
    """The indexes of a folder that hold anything, whatever their models."""
    stem = _stem(folder)
    paths = [path for pattern in (f"{stem}{SUFFIX}", f"{stem}+*{SUFFIX}") for path in _home().glob(pattern)]
    found = []
    for path in sorted(paths):
        try:
            manifest = manifests.read(path)
        except StoreError:
            continue  # A damaged index is reported when it is opened, not when others are listed.
        if manifest.records:
            found.append((path, manifest.models[0]))
    return found


def _is_empty(path: Path) -> bool:
    """Whether an index holds nothing, as after a run in which every file failed; it must not hide one above it."""
    try:
        return manifests.read(path).records == 0
    except StoreError:
        return False  # What is wrong with it is said when it is opened.


def _listed() -> str:
    """A sentence that names the folders that have an index in the user's data directory, and their models."""
    found: dict[str, set[str]] = {}
    for path in sorted(_home().glob(f"*{SUFFIX}/{manifests.NAME}")):
        try:
            manifest = manifests.read(path.parent)
        except StoreError:
            continue
        for root in manifest.roots:
            found.setdefault(root, set()).add(called(manifest.models[0]))
    roots = [f"{root} (with {', '.join(sorted(models))})" for root, models in sorted(found.items())]
    return f" Indexed so far: {', '.join(roots[:5])}{' ...' if len(roots) > 5 else ''}." if roots else ""
