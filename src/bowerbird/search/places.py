"""Where indexes lie, and how one is found again from inside the folder it belongs to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from bowerbird.errors import BowerbirdError, IndexNotFoundError
from bowerbird.flow.files import printable
from bowerbird.flow.sources.addresses import is_remote
from bowerbird.models.hub.fetch import check_name
from bowerbird.search.entries import ALL, called, lying_at, means, split
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


def place(folder: Path) -> Path:
    """Where the index of a folder lies, whether it exists or not: in the user's data directory.

    A folder has one index, whatever models it holds. Earlier versions made one for each model but the embedded one,
    with the model's name behind a plus sign; these are found by `resolve` and gone on with by `target`.
    """
    return _home() / f"{_stem(folder)}{SUFFIX}"


def target(folder: Path, models: Sequence[str] = ()) -> Path:
    """The index that a folder is indexed into, whether it exists or not.

    Args:
        folder: the folder.
        models: that the index is to hold. They matter only where earlier versions made several: then the first that
            has one of them is taken.
    """
    usual = place(folder)
    earlier = [found for found in _indexes(folder, empty=True) if found[0] != usual]
    if manifests.exists(usual) or not earlier:
        return usual
    for path, entries in earlier:
        if any(means(entry, name) for entry in entries for name in models):
            return path
    return earlier[0][0] if len(earlier) == 1 else usual


def _home() -> Path:
    return settings().data_path / "indexes"


def _stem(folder: Path) -> str:
    """How the names of all indexes of a folder begin."""
    real = os.path.realpath(folder)
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:12]
    return f"{_plain(os.path.basename(real)) or 'root'}-{digest}"


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in printable(name))[-40:]


def resolve(given: str, start: Path, models: str | Sequence[str] = (), *, below: bool = False) -> Path | str:
    """The index to use: the one given, the one of `BOWERBIRD_INDEX`, or that of `start` or a folder above it.

    It is a path, or the address of an index in an object store, which is not looked for here. Which models it holds is
    looked at only where it has to be found: the nearest that has all of those that are asked for.

    Args:
        given: path of an index, or empty.
        start: where to look from.
        models: that it must hold, as `Index.entries` takes them; none, `both` or `all`: no matter.
        below: where models are named and neither `start` nor a folder above has an index of them, take the only one of
            a folder below. For what changes nothing: whoever writes says which folder is meant.

    Raises:
        IndexNotFoundError: there is none, or there are several: of one folder, as an earlier version made them, or of
            folders below.
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
    wanted = [name for name in split(models) if name not in ALL]
    for folder in folders:
        if _is_damaged(place(folder)):
            return place(folder)  # What is wrong with it is said when it is opened.
        found = [path for path, entries in _indexes(folder) if _holds(entries, wanted)]
        if found and (wanted or len(found) == 1 or found[0] == place(folder)):
            return found[0]
        if found:
            raise _several(folder)
    # What holds nothing, as after a run in which every file failed, must not hide what lies above; it beats none.
    for folder in folders if not wanted else ():
        if manifests.exists(place(folder)):
            return place(folder)
    lower = _below(start, wanted) if below and wanted else {}
    if len(lower) > 1:
        raise _several_below(start, wanted, lower)
    if lower:
        return next(iter(lower))
    raise _nothing(start, wanted)


def _holds(entries: Sequence[ModelEntry], wanted: Sequence[str]) -> bool:
    """Whether all of some models are among those of an index, by name or by their files."""
    return all(any(means(entry, name) for entry in entries) or lying_at(entries, name) for name in wanted)


def _below(start: Path, wanted: Sequence[str]) -> dict[Path, str]:
    """The indexes that hold anything, have all of some models and are of folders below one: path -> such a folder."""
    real, found = os.path.realpath(start), {}
    for path in sorted(_home().glob(f"*{SUFFIX}/{manifests.NAME}")):
        try:
            manifest = manifests.read(path.parent)
        except BowerbirdError:
            continue
        inside = [root for root in manifest.roots if Path(os.path.realpath(root)).is_relative_to(real)]
        if inside and manifest.records and _holds(manifest.models, wanted):
            found[path.parent] = inside[0]
    return found


def _several_below(start: Path, wanted: Sequence[str], found: Mapping[Path, str]) -> IndexNotFoundError:
    folders = ", ".join(sorted(found.values())[:5]) + (", ..." if len(found) > 5 else "")
    return IndexNotFoundError(
        f"{len(found)} folders below {printable(str(start))} are indexed with {' and '.join(wanted)}: {folders}.",
        hint=f"Go to one of them, or say which index: --index {printable(str(next(iter(found))))}",
    )


def _several(folder: Path) -> IndexNotFoundError:
    names = sorted(called(entry) for _, entries in _indexes(folder) for entry in entries)
    return IndexNotFoundError(
        f"{printable(str(folder))} has several indexes, as earlier versions made them: of {', '.join(names)}.",
        hint=f"Say which one: --model {names[0]}",
    )


def _nothing(start: Path, wanted: Sequence[str]) -> IndexNotFoundError:
    for name in wanted:
        check_name(name)
    asked = f" with {' and '.join(wanted)}" if wanted else ""
    options = "".join(f" --model {name}" for name in wanted)
    return IndexNotFoundError(
        f"Neither {printable(str(start))} nor a folder above it is indexed{asked}.{_listed()}",
        hint=f"Index it with: bowerbird index {printable(str(start))}{options}",
    )


def _indexes(folder: Path, *, empty: bool = False) -> list[tuple[Path, tuple[ModelEntry, ...]]]:
    """The indexes of a folder that hold anything, or all of them, and their models; the usual one first."""
    stem = _stem(folder)
    earlier = sorted(_home().glob(f"{stem}+*{SUFFIX}"))
    found = []
    for path in (place(folder), *earlier):
        try:
            manifest = manifests.read(path)
        except BowerbirdError:
            continue  # A damaged index is reported when it is opened, not when others are listed.
        if manifest.records or empty:
            found.append((path, manifest.models))
    return found


def _is_damaged(path: Path) -> bool:
    """Whether there is an index that cannot be read."""
    try:
        return manifests.exists(path) and not manifests.read(path)
    except BowerbirdError:
        return True


def _listed() -> str:
    """A sentence that names the folders that have an index in the user's data directory, and their models."""
    found: dict[str, set[str]] = {}
    for path in sorted(_home().glob(f"*{SUFFIX}/{manifests.NAME}")):
        try:
            manifest = manifests.read(path.parent)
        except BowerbirdError:
            continue
        for root in manifest.roots:
            found.setdefault(root, set()).update(map(called, manifest.models))
    roots = [f"{root} (with {', '.join(sorted(models))})" for root, models in sorted(found.items())]
    return f" Indexed so far: {', '.join(roots[:5])}{' ...' if len(roots) > 5 else ''}." if roots else ""
