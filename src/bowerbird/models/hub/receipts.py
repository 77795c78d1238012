"""Receipts of what was pulled from the hub: one small JSON file each, in the data directory."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bowerbird.errors import ModelFetchError, ModelFormatError
from bowerbird.models.hub import repository as hub
from bowerbird.models.hub.catalog import REPOSITORY
from bowerbird.models.hub.intact import is_whole
from bowerbird.settings import settings


@dataclass(frozen=True)
class Receipt:
    """What was pulled: enough to find it and to check it without asking anyone.

    Attributes:
        repository: `org/name`.
        revision: what was asked for, such as `main`.
        commit: what that meant when it was pulled.
        variant: of the graphs; empty for the plain ones.
        files: all that was downloaded, with size and hash.
    """

    repository: str
    revision: str
    commit: str
    variant: str
    files: tuple[hub.RemoteFile, ...]

    @property
    def directory(self) -> Path:
        """Where the files lie."""
        return hub.snapshot_path(self.repository, self.commit)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def lost(self) -> list[hub.RemoteFile]:
        """Files that are not there any more, or not in full."""
        return [file for file in self.files if not is_whole(self.directory / file.path, file.size)]


def receipts() -> list[Receipt]:
    """Receipts of all that was pulled, whether or not the files are still there; damaged ones are left out."""
    found = []
    for path in sorted(_folder().glob("*.json")):
        try:
            receipt = _read(path)
        except ModelFormatError:
            continue
        if receipt:
            found.append(receipt)
    return found


def receipt_path(repository: str, revision: str, variant: str) -> Path:
    """Where the receipt of a repository lies, whether it exists or not."""
    key = "+".join(filter(None, (f"{repository}@{revision}", variant)))
    return _folder() / f"{quote(key.lower(), safe='@+')}.json"


def find_receipt(repository: str, revision: str, variant: str) -> Receipt | None:
    """The receipt of a repository; for a commit, also that of a branch or tag which meant it.

    Raises:
        ModelFormatError: it is damaged.
    """
    read = _read(receipt_path(repository, revision, variant))
    for receipt in [read] if read else receipts():
        same = receipt.repository.lower() == repository.lower() and receipt.variant == variant
        # Revisions may differ in case alone, and on some disks names of files may not.
        if same and revision in (receipt.revision, receipt.commit):
            return receipt
    return None


def write(receipt: Receipt) -> None:
    """Put a receipt into its place, in one step.

    Raises:
        ModelFetchError: the place cannot be written to.
    """
    path = receipt_path(receipt.repository, receipt.revision, receipt.variant)
    content = {
        "format": 1,
        "repository": receipt.repository,
        "revision": receipt.revision,
        "commit": receipt.commit,
        "variant": receipt.variant,
        "files": [
            {"path": file.path, "size": file.size, "sha256" if len(file.hash) == 64 else "git": file.hash}
            for file in receipt.files
        ],
    }
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8"
        ) as file:
            temporary = file.name
            json.dump(content, file, indent=1)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise _not_written(path, error) from error


def check_writable() -> None:
    """Before gigabytes are downloaded, see that the receipt will find its place.

    Raises:
        ModelFetchError: it will not.
    """
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _not_written(folder, error) from error


def _not_written(path: Path, error: OSError) -> ModelFetchError:
    return ModelFetchError(
        f"{path} cannot be written: {error.strerror or error}.",
        hint="Set BOWERBIRD_DATA_DIR to a directory that can be written to.",
    )


def _read(path: Path) -> Receipt | None:
    """The receipt, or None when there is none.

    Raises:
        ModelFormatError: it cannot be read or says what no receipt says.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    try:
        if content["format"] != 1:
            raise _damaged(path, f"format {content['format']!r} is not known")
        files = tuple(_file(item) for item in content["files"])
        receipt = Receipt(
            str(content["repository"]),
            str(content["revision"]),
            str(content["commit"]),
            str(content["variant"]),
            files,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not REPOSITORY.fullmatch(receipt.repository) or not hub.is_commit(receipt.commit) or not files:
        raise _damaged(path, "it names no repository, commit or files")
    return receipt


def _file(item: Any) -> hub.RemoteFile:
    file = hub.RemoteFile(str(item["path"]), int(item["size"]), str(item.get("sha256") or item["git"]))
    if not hub.is_safe(file.path):
        raise ValueError(f"{file.path!r} is no file name of a repository")
    return file


def _damaged(path: Path, why: str) -> ModelFormatError:
    return ModelFormatError(
        f"The receipt {path} is damaged: {why}.",
        hint="Delete it; the model is then resolved and checked anew.",
    )


def _folder() -> Path:
    return settings().data_path / "models"
