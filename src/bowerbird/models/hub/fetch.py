"""A model's name becomes a directory: embedded, local, or pulled once from the hub and pinned.

What a name may be, the first that fits:

1. `mini`: inside the package.
2. A directory that exists. It wins over anything on the hub that is called the same.
3. `open_clip:ARCH/TAG` and `timm:NAME`: weights without a graph; the error says how to export them.
4. `hf-hub:ORG/NAME` or `hf:ORG/NAME`: that repository and no other.
5. A name or alias of the catalogue, such as `clip-vit-base-patch32` or `openai/clip-vit-base-patch32`, which stands for
   the repository that publishes its ONNX graphs.
6. `ORG/NAME`: a repository of the hub.

The last three take `@REVISION`, a branch, tag or commit.

The first pull resolves the revision to a commit, checks every file against the hashes the hub names, and writes a
receipt. From then on the receipt says what belongs to the model and no network call is made; `pull(update=True)` moves
to what the revision means by then.

Each time a model is located, its files are held to the receipt again: a damaged one is an error and stays where it is,
since other programs share it, until `pull` fetches it anew; one that is missing or short is fetched, and said so.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from bowerbird.errors import ModelError, ModelFetchError, ModelFormatError, ModelNotFoundError
from bowerbird.models.hub import repository as hub
from bowerbird.models.hub.calls import Progress
from bowerbird.models.hub.catalog import REPOSITORY, CatalogEntry, alike, find_entry
from bowerbird.models.hub.intact import absent, damaged, linked
from bowerbird.models.hub.receipts import Receipt, check_writable, find_receipt, receipts, write
from bowerbird.models.layout import choose, wanted

EMBEDDED = "mini"
"""The model inside the package."""

_PACKAGE = Path(__file__).resolve().parents[1]

log = logging.getLogger("bowerbird")

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_LITERAL = re.compile(r"(?:hf-hub|hf):(.+)")
_TIMM = re.compile(r"timm[:/](.+)")


@dataclass(frozen=True)
class Located:
    """A model on this machine.

    Attributes:
        directory: where its files lie.
        name: what it is called.
        revision: the commit, for a model of the hub; empty otherwise.
        entry: of the catalogue, if it is there.
        receipt: of the pull; None for a directory, `mini`, and what another program put into the hub's cache.
        checked: how many files were compared with the hashes that the hub names.
        repaired: files that were missing or damaged, and were fetched again.
    """

    directory: Path
    name: str
    revision: str = ""
    entry: CatalogEntry | None = None
    receipt: Receipt | None = None
    checked: int = 0
    repaired: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """What a name means on the hub."""

    name: str
    repository: str
    revision: str
    variant: str
    entry: CatalogEntry | None

    def receipt(self) -> Receipt | None:
        """That of an earlier pull; raises `ModelFormatError` when it is damaged."""
        return find_receipt(self.repository, self.revision, self.variant)

    @property
    def pull(self) -> str:
        """The command that pulls it."""
        variant = f" --variant {self.variant}" if self.variant else ""
        return f"bowerbird models pull {self.name}{variant}"


def locate(name: str, *, variant: str = "", progress: Progress | None = None) -> Located:
    """Find a model, downloading it if it is not here yet.

    Args:
        name: see the module's text.
        variant: of the graphs, such as `fp16`; empty takes the plain ones.
        progress: told about downloads: bytes so far, bytes in all.

    Raises:
        ModelNotFoundError: nothing is called that, it must be exported first, or it is not here and the user forbids
            network calls.
        ModelFormatError: a file is damaged, or the repository holds nothing that can be run.
        ModelFetchError: the hub or the disk does not allow it.
    """
    if local := _local(name):
        return local
    source = _source(name, variant)
    receipt = source.receipt()
    if receipt is None and hub.is_offline():
        return _cached(source)
    if receipt is None:
        return _located(source, _pull(source, source.revision, progress))
    lost = receipt.lost()
    if wrong := damaged(receipt.directory, [file for file in receipt.files if file not in lost]):
        more = f" and {len(wrong) - 1} more of its files" if wrong[1:] else ""
        raise ModelFormatError(
            f"{source.name}: {wrong[0]}{more}, in {receipt.directory}.", hint=f"Run: {source.pull}"
        )
    if not lost:
        return _located(source, receipt)
    log.warning("%s: fetching again what is missing or short: %s", source.name, _listed(lost))
    return _located(source, _pull_again(source, receipt, lost, progress), lost)


def pull(name: str, *, variant: str = "", update: bool = False, progress: Progress | None = None) -> Located:
    """Download a model, or check every file of one that is here; what is damaged is fetched again.

    Args:
        name: see the module's text.
        variant: of the graphs; empty takes the plain ones.
        update: ask the hub what the revision means now, and move there.
        progress: told about downloads.

    Raises: as of `locate`.
    """
    if local := _local(name):
        return local
    source = _source(name, variant)
    receipt = None if update else source.receipt()
    if receipt is None:
        if hub.is_offline():
            if update:
                raise ModelFetchError(f"{name} cannot be updated: HF_HUB_OFFLINE is set.", hint="Unset it.")
            return _cached(source)
        return _located(source, _pull(source, source.revision, progress))
    if hub.is_offline():  # What cannot be fetched anew is not removed.
        names = {damage.path for damage in damaged(receipt.directory, receipt.files)}
        wrong = [file for file in receipt.files if file.path in names]
    else:
        wrong = [file for file in receipt.files if not _is_intact(receipt, file)]
    if wrong:
        receipt = _pull_again(source, receipt, wrong, progress)
    return _located(source, receipt, wrong)


def here(name: str, *, variant: str = "") -> Located | None:
    """The model if it is on this machine in full; None if it could be pulled. No network call.

    Raises:
        ModelNotFoundError: nothing is called that, or it must be exported first.
        ModelFormatError: its receipt is damaged.
    """
    if local := _local(name):
        return local
    source = _source(name, variant)
    receipt = source.receipt()
    return _located(source, receipt) if receipt and not receipt.lost() else None


def check_name(name: str) -> None:
    """See that a name may be one of a model, here or on the hub. No network call.

    Raises:
        ModelNotFoundError: nothing is called that, or it must be exported first.
    """
    if not _local(name):
        _source(name, "")


def canonical(name: str) -> str:
    """One spelling for all names of a model, found without a network call: to tell the indexes of a folder apart.

    A model of the hub goes by its repository alone; a revision is added where another was pulled, or none.
    """
    if local := _local(name):
        return EMBEDDED if local.directory == _PACKAGE / EMBEDDED else str(local.directory)
    try:
        source = _source(name, "")
    except ModelError:
        return name
    repository = source.repository.lower()
    usual = source.entry.revision if source.entry else "main"
    if source.revision == usual or _commits(repository, source.revision) & _commits(repository, usual):
        return repository
    return f"{repository}@{source.revision}"


def _commits(repository: str, revision: str) -> set[str]:
    """What a revision meant when it was pulled: as a rule one commit or none; variants may be at different ones."""
    if hub.is_commit(revision):
        return {revision}
    return {
        receipt.commit
        for receipt in receipts()
        if receipt.repository.lower() == repository and receipt.revision == revision
    }


def _local(name: str) -> Located | None:
    if name == EMBEDDED:
        return Located(_PACKAGE / EMBEDDED, EMBEDDED)
    path = Path(os.path.expanduser(name))
    if name and path.is_dir():
        return Located(path.resolve(), path.resolve().name)
    return None


def _source(name: str, variant: str) -> _Source:
    """What a name that is no directory means on the hub.

    Raises:
        ModelNotFoundError: nothing, or something that must be exported first.
    """
    if name.startswith("open_clip:"):
        raise _to_export(name, name)
    literal = _LITERAL.fullmatch(name)
    base, _, revision = (literal[1] if literal else name).partition("@")
    if (timm := _TIMM.fullmatch(base)) and base.startswith("timm:"):
        base = f"timm/{timm[1]}"
        if not find_entry(base):
            raise _to_export(name, base)
    entry = find_entry(base)
    if literal or (entry and revision and "/" in base):
        # A revision belongs to the repository it was written after, not to the one the alias stands for.
        entry = entry if entry and entry.repository.lower() == base.lower() else None
    if entry and not entry.repository:
        raise _to_export(name, entry.export)
    if entry:
        return _Source(
            name,
            entry.repository,
            _checked(name, revision or entry.revision),
            variant or entry.variant,
            entry,
        )
    if REPOSITORY.fullmatch(base) and not name.startswith((".", "/", "~")):
        return _Source(name, base, _checked(name, revision or "main"), variant, None)
    raise _unknown(name)


def _checked(name: str, revision: str) -> str:
    if not hub.is_safe(revision):
        raise ModelNotFoundError(
            f"{name}: {revision!r} is no revision.", hint="Give a branch, a tag or a commit."
        )
    return revision


def _unknown(name: str) -> ModelNotFoundError:
    close = alike(name, EMBEDDED)
    meant = f"Did you mean {' or '.join(close)}? " if close else ""
    return ModelNotFoundError(
        f"There is no model {name!r}: it is neither {EMBEDDED!r}, nor a directory, nor a name of the catalogue.",
        hint=f"{meant}`bowerbird models` lists the names; a repository of the hub is written ORG/NAME.",
    )


def _to_export(name: str, source: str, *, why: str = "", pickle: bool = False) -> ModelNotFoundError:
    """There are weights, but no graph."""
    folder = re.split(r"[/:]", source)[-1]
    allow = " --allow-pickle" if pickle else ""
    return ModelNotFoundError(
        why or f"{name} has no public ONNX graph that we know of.",
        hint=f"Make one, once: pip install 'bowerbird[export]', then: bowerbird export {source} ./{folder}{allow}",
    )


def _pull(source: _Source, revision: str, progress: Progress | None) -> Receipt:
    """Download and check a revision, and write the receipt."""
    check_writable()
    try:
        listing = hub.listing(source.repository, revision)
    except ModelNotFoundError as error:
        if source.repository.startswith("timm/"):
            raise _to_export(source.name, source.repository, why=error.message) from error
        raise
    names = [file.path for file in listing.files]
    _check_graphs(source, names)
    chosen = set(wanted(names, source.variant, source.repository))
    files = tuple(file for file in listing.files if file.path in chosen)
    hub.download(source.repository, listing.commit, files, progress)
    _make_loadable(hub.snapshot_path(source.repository, listing.commit), chosen, source)
    hub.remember(source.repository, revision, listing.commit)
    receipt = Receipt(source.repository, source.revision, listing.commit, source.variant, files)
    write(receipt)
    return receipt


def snapshot(name: str, want: Callable[[str], bool], progress: Progress | None = None) -> Path:
    """Files of a repository as they are, such as the weights that a graph is exported from; every hash checked.

    Args:
        name: `org/name`, with or without `hf-hub:` before it and `@revision` after it.
        want: whether a file, by its path in the repository, is wanted.
        progress: told about downloads.

    Returns:
        The folder that holds them. Under `HF_HUB_OFFLINE` it is what the hub's cache has, complete or not.

    Raises:
        ModelNotFoundError: there is no such repository or revision, or it is not here and the user forbids calls.
        ModelFormatError: a file is damaged.
        ModelFetchError: the hub or the disk does not allow it.
    """
    repository, _, revision = name.removeprefix("hf-hub:").partition("@")
    if not REPOSITORY.fullmatch(repository):
        raise _unknown(name)
    revision = _checked(name, revision or "main")
    if hub.is_offline():
        commit = hub.cached_commit(repository, revision)
        if not commit:
            raise ModelNotFoundError(
                f"{name} is not on this machine, and HF_HUB_OFFLINE is set.", hint="Unset it to download it."
            )
        return hub.snapshot_path(repository, commit)
    listing = hub.listing(repository, revision)
    hub.download(repository, listing.commit, [file for file in listing.files if want(file.path)], progress)
    hub.remember(repository, revision, listing.commit)
    return hub.snapshot_path(repository, listing.commit)


def _pull_again(
    source: _Source, receipt: Receipt, lost: Collection[hub.RemoteFile], progress: Progress | None
) -> Receipt:
    """Files that were pulled are gone: fetch them again, and hold them to the hashes of the receipt."""
    if hub.is_offline():
        raise _incomplete(source, f"{_listed(lost)} is missing or damaged in {receipt.directory}")
    hub.download(receipt.repository, receipt.commit, receipt.files, progress)
    _make_loadable(receipt.directory, [file.path for file in receipt.files], source)
    return receipt


def _check_graphs(source: _Source, names: Collection[str]) -> None:
    if any(name.endswith(".onnx") for name in names):
        return
    safe = any(name.endswith(".safetensors") for name in names)
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if not safe and not pickles:
        raise ModelFormatError(
            f"{source.repository} holds neither an ONNX graph nor weights.",
            hint="Check the name of the repository.",
        )
    why = f"{source.repository} holds no ONNX graph"
    why += "." if safe else f", only pickles ({pickles[0]}), which can run code when they are read."
    if (known := find_entry(source.repository)) and known.repository:
        why += f" The catalogue knows one: {known.name}."
    raise _to_export(source.name, source.repository, why=why, pickle=not safe)


def _make_loadable(directory: Path, names: Collection[str], source: _Source) -> None:
    """See `hub.make_plain`: only graphs with external data need it."""
    for graph in choose(names, source.variant, source.repository).graphs:
        data = [name for name in names if name.startswith(graph) and name != graph]
        if data:
            hub.make_plain([directory / name for name in (graph, *data)])


def _cached(source: _Source) -> Located:
    """What the hub's cache holds of a model that was not pulled by us, as far as it can be checked. No network call."""
    commit = hub.cached_commit(source.repository, source.revision)
    directory = hub.snapshot_path(source.repository, commit)
    names = (
        [
            path.relative_to(directory).as_posix()
            for path in directory.rglob("*")
            if path.is_file() or path.is_symlink()
        ]
        if commit
        else []
    )
    if not any(name.endswith(".onnx") for name in names):
        raise ModelNotFoundError(
            f"{source.name} is not on this machine, and HF_HUB_OFFLINE is set.",
            hint=f"Run while online: {source.pull}",
        )
    chosen = wanted(names, source.variant, source.repository)
    layout = choose(names, source.variant, source.repository)
    if missing := absent(directory, layout, chosen):
        raise _incomplete(source, f"{', '.join(missing[:3])} is missing in {directory}")
    _make_loadable(directory, chosen, source)
    known = linked(directory, chosen)
    if wrong := damaged(directory, known):
        raise _incomplete(source, f"{wrong[0]}, in {directory}")
    return Located(directory, _name(source), commit, source.entry, checked=len(known))


def _incomplete(source: _Source, why: str) -> ModelFormatError:
    return ModelFormatError(
        f"{source.name} is not complete: {why}, and HF_HUB_OFFLINE is set.",
        hint=f"Run while online: {source.pull}",
    )


def _listed(files: Collection[hub.RemoteFile]) -> str:
    names = [file.path for file in files]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def _located(source: _Source, receipt: Receipt, repaired: Collection[hub.RemoteFile] = ()) -> Located:
    return Located(
        receipt.directory,
        _name(source),
        receipt.commit,
        source.entry,
        receipt,
        checked=len(receipt.files),
        repaired=tuple(file.path for file in repaired),
    )


def _name(source: _Source) -> str:
    return source.entry.name if source.entry else source.repository


def _is_intact(receipt: Receipt, file: hub.RemoteFile) -> bool:
    try:
        hub.verify(receipt.repository, receipt.commit, file)
    except ModelFormatError:
        return False
    return True
