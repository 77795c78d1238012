"""The Hugging Face hub: what a repository holds, and its files downloaded into the shared cache and checked.

The only modules that know huggingface_hub are this one and `calls`. This one is also the only reader of the
variables that users of it know: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`. huggingface_hub reads them
once, at import; here they are read at each call. Tokens (`HF_TOKEN`, `hf auth login`) are its own affair.

Files land in the cache that other tools of the hub use, `models--ORG--NAME/snapshots/COMMIT/...`. A connection that
breaks is resumed inside the file; a pull that was stopped continues with the files that are not complete.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, cast

from bowerbird.errors import ModelFormatError
from bowerbird.models.hub.calls import COMMIT, Bar, Meter, Progress, Transfer, existing, no_space, patiently

WORKERS = 4
"""Files downloaded at once."""

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TRUE = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        path: POSIX, relative to the repository.
        size: in bytes.
        hash: of its content: SHA-256 (64 digits) of a file in large-file storage, Git's blob id (40 digits) of another.
    """

    path: str
    size: int
    hash: str


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit."""

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]


def is_offline() -> bool:
    """Whether the user forbids every network call, by `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`."""
    return any(
        os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit id, which can never come to mean something else."""
    return bool(COMMIT.fullmatch(revision))


def cache_path() -> Path:
    """The hub's cache: `HF_HUB_CACHE`, else `HF_HOME`/hub, else `XDG_CACHE_HOME`/huggingface/hub."""
    path = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if not path:
        home = os.environ.get("HF_HOME")
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        path = os.path.join(home or os.path.join(base, "huggingface"), "hub")
    return Path(os.path.expandvars(os.path.expanduser(path))).absolute()


def snapshot_path(repository: str, commit: str) -> Path:
    """Where the files of one commit lie, whether or not they are there."""
    return _folder(repository) / "snapshots" / commit


def cached_commit(repository: str, revision: str) -> str:
    """The commit that the cache holds for a revision; empty when it holds none. No network call."""
    if is_commit(revision):
        commit = revision
    else:
        try:
            commit = (_folder(repository) / "refs" / revision).read_text("ascii").strip()
        except (OSError, ValueError):
            return ""
    return commit if is_commit(commit) and snapshot_path(repository, commit).is_dir() else ""


def listing(repository: str, revision: str) -> Listing:
    """Ask the hub what a repository holds: one request.

    Raises:
        ModelNotFoundError: no such repository or revision.
        ModelFormatError: a file name that would be written outside the repository's folder, or a file without a hash.
        ModelFetchError: the hub cannot be reached, refuses, or is too busy.
    """
    from huggingface_hub import HfApi

    def ask() -> Any:
        return HfApi(endpoint=_endpoint()).model_info(repository, revision=revision, files_metadata=True)

    info = patiently(ask, Transfer(Meter(0)), f"{repository}@{revision}", repository, cache_path())
    commit = str(info.sha or "")
    if not is_commit(commit):
        raise ModelFormatError(f"{repository}: the hub named {commit!r} as a commit, which is none.")
    files = tuple(_remote_file(repository, sibling) for sibling in info.siblings or ())
    return Listing(repository, commit, files)


def download(
    repository: str, commit: str, files: Collection[RemoteFile], progress: Progress | None = None
) -> None:
    """Download the files that are not in the cache yet, several at once, and check every one of them.

    Args:
        repository: `org/name`.
        commit: what `listing` named.
        files: of `listing`.
        progress: told about every piece.

    Raises:
        ModelFormatError: a file is not what the hub said; it is removed, so that the next call fetches it anew.
        ModelFetchError: no space, no right to write, no network, no access.
    """
    _check_space(repository, commit, files)
    meter = Meter(sum(file.size for file in files), progress)
    largest_first = sorted(files, key=lambda file: -file.size)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="bowerbird-fetch") as pool:
        futures = [pool.submit(_fetch, repository, commit, file, meter) for file in largest_first]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            meter.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def verify(repository: str, commit: str, file: RemoteFile) -> None:
    """Compare a file in the cache with what the hub said of it; one that differs is removed.

    Raises:
        ModelFormatError: it differs, or cannot be read.
    """
    path = snapshot_path(repository, commit) / file.path
    try:
        size = path.stat().st_size
        found = digest(path, "sha256" if len(file.hash) == 64 else "git") if size == file.size else ""
    except OSError as error:
        raise ModelFormatError(
            f"{path} cannot be read: {error.strerror or error}.",
            hint=f"Run: bowerbird models pull {repository}",
        ) from error
    if found == file.hash:
        return
    discard(repository, commit, file)
    expected, got = (file.hash, found) if found else (f"{file.size} bytes", f"{size} bytes")
    raise ModelFormatError(
        f"{repository}: {file.path} is damaged: expected {expected}, got {got}.",
        hint=f"It was deleted; fetch it again with: bowerbird models pull {repository}",
    )


def digest(path: Path, kind: str = "sha256") -> str:
    """Hash a file: `sha256`, or `git` for Git's blob id.

    Raises:
        OSError: it cannot be read.
    """
    hasher = hashlib.sha256() if kind == "sha256" else hashlib.sha1(usedforsecurity=False)
    if kind == "git":
        hasher.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def discard(repository: str, commit: str, file: RemoteFile) -> None:
    """Remove a file from the cache: its name in the snapshot, and the content behind it."""
    folder, cache = _folder(repository), cache_path().resolve()
    paths = [snapshot_path(repository, commit) / file.path, folder / "blobs" / file.hash]
    for path in paths:
        # The name is a link to the content, which may be a link into a store that repositories share.
        following: Path | None = path
        while following is not None:
            target = following.parent / os.readlink(following) if following.is_symlink() else None
            if following.parent.resolve().is_relative_to(cache):
                following.unlink(missing_ok=True)
            following = target


def make_plain(paths: Collection[Path]) -> None:
    """Turn links of a snapshot into files, without copying: hard links to the same content.

    OpenVINO refuses external data that is a link to outside the graph's folder, as the cache's files are. Where hard
    links are not possible the links stay: ONNX Runtime reads them.
    """
    for path in paths:
        if not path.is_symlink():
            continue
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            os.link(path.resolve(strict=True), temporary)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)


def remember(repository: str, revision: str, commit: str) -> None:
    """Name the commit in the cache's refs when the revision has none, so that clearing loose ends spares it."""
    ref = _folder(repository) / "refs" / revision
    if is_commit(revision) or ref.exists():
        return
    try:
        ref.parent.mkdir(parents=True, exist_ok=True)
        temporary = ref.with_name(f".{ref.name}.{os.getpid()}")
        temporary.write_text(commit, "ascii")
        os.replace(temporary, ref)
    except OSError:
        pass  # Our own receipt says the same.


def is_safe(path: str) -> bool:
    """Whether a file name of a repository stays inside the folder it is written to, on any system."""
    parts = path.replace("\\", "/").split("/")
    if not path or any(part in ("", ".", "..") for part in parts) or not path.isprintable():
        return False
    anchored = (PurePosixPath(path), *(PureWindowsPath(part) for part in parts))
    return not any(name.drive or name.root for name in anchored)


def _folder(repository: str) -> Path:
    return cache_path() / ("models--" + repository.replace("/", "--"))


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _remote_file(repository: str, sibling: Any) -> RemoteFile:
    path = str(sibling.rfilename)
    if not is_safe(path):
        raise ModelFormatError(
            f"{repository} lists a file {path!r}, which would be written outside the repository's own folder.",
            hint="Nothing was downloaded. Tell the hub about this repository.",
        )
    known = str(sibling.lfs.sha256 if sibling.lfs else sibling.blob_id or "")
    size = sibling.lfs.size if sibling.lfs else sibling.size
    if not _HASH.fullmatch(known) or not isinstance(size, int):
        raise ModelFormatError(
            f"{repository}: the hub names no hash or no size of {path}, so it cannot be verified.",
            hint="Unset HF_ENDPOINT, or take one that answers as the hub does.",
        )
    return RemoteFile(path, size, known)


def _check_space(repository: str, commit: str, files: Collection[RemoteFile]) -> None:
    snapshot = snapshot_path(repository, commit)
    blobs = _folder(repository) / "blobs"
    needed = sum(
        file.size
        for file in files
        if not (snapshot / file.path).exists() and not (blobs / file.hash).exists()
    )
    cache = cache_path()
    free = shutil.disk_usage(existing(cache)).free
    if needed > free:
        raise no_space(
            repository, cache, f"{needed / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free"
        )


def _fetch(repository: str, commit: str, file: RemoteFile, meter: Meter) -> None:
    from huggingface_hub import hf_hub_download

    transfer = Transfer(meter)
    snapshot = snapshot_path(repository, commit)
    here = snapshot / file.path
    if here.exists() and here.stat().st_size != file.size:
        discard(repository, commit, file)

    def get() -> str:
        transfer.reach(0)
        return hf_hub_download(
            repository,
            file.path,
            revision=commit,
            cache_dir=cache_path(),
            endpoint=_endpoint(),
            tqdm_class=cast(Any, Bar),
        )

    path = Path(patiently(get, transfer, f"{repository}/{file.path}", repository, cache_path()))
    if path.parent.resolve() != here.parent.resolve() or path.name != here.name:
        raise ModelFormatError(f"{repository}: {file.path} was written to {path}, where it does not belong.")
    transfer.reach(file.size)
    verify(repository, commit, file)
