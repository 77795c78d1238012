"""Whether files on this machine are what the hub says they are. Nothing is asked of the network, nothing is removed.

A SHA-256 is computed once for a file that does not change, and remembered (`models.artifact`); Git's ids are of small
files, and computed each time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelFormatError
from bowerbird.models.artifact import artifact
from bowerbird.models.hub.repository import RemoteFile, digest
from bowerbird.models.layout import EITHER, LAYOUTS, PROCESSORS, TOKENIZERS, Layout

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TWO_TOWERS = (("text_config", "vision_config"), ("text_cfg", "vision_cfg"))
"""Keys of a `config.json` that describes both: of transformers, and of open_clip."""


@dataclass(frozen=True)
class Damage:
    """A file that is not what it should be.

    Attributes:
        path: POSIX, relative to the model directory.
        expected: the hash that the hub names.
        got: the hash of what is there, or why it cannot be read.
    """

    path: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.path} is damaged: expected {self.expected}, got {self.got}"


def is_whole(path: Path, size: int) -> bool:
    """Whether a file is there, with all its bytes; what bytes they are is for `damaged` to say."""
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def damaged(directory: Path, files: Collection[RemoteFile]) -> list[Damage]:
    """Compare the content of files with what the hub said of them."""
    found = []
    for file in files:
        got = _hash(directory / file.path, file.hash)
        if got != file.hash:
            found.append(Damage(file.path, file.hash, got))
    return found


def linked(directory: Path, names: Collection[str]) -> list[RemoteFile]:
    """What the hub's cache says of files of a snapshot: their content lies in files that are named by its hash.

    A file that is no link to such content cannot be checked, and is left out.
    """
    blobs = directory.parents[1] / "blobs"
    by_inode = {_inode(blob): blob.name for blob in blobs.iterdir()} if blobs.is_dir() else {}
    files = []
    for name in names:
        path = directory / name
        # Hard links stand where `repository.make_plain` has been.
        blob = path.readlink().name if path.is_symlink() else by_inode.get(_inode(path), "")
        if _HASH.fullmatch(blob):
            files.append(RemoteFile(name, path.stat().st_size, blob))
    return files


def absent(directory: Path, layout: Layout, names: Collection[str]) -> list[str]:
    """Files that must be there by what the others say: a link without content, one of two towers without its graph.

    Args:
        directory: of the model.
        layout: chosen from `names`.
        names: of the files and links that belong to the model.
    """
    lost = [name for name in names if not (directory / name).exists()]
    row = next(row for row in LAYOUTS if row.name == layout.name)
    if row.text == EITHER or len(layout.graphs) == 2 or not _has_two_towers(directory, names):
        return lost
    suffix = f"_{layout.variant.removeprefix('_')}" if layout.variant else ""
    graphs = (row.text.format(suffix), row.image.format(suffix))
    return [*(graph for graph in graphs if graph not in layout.graphs), *lost]


def _has_two_towers(directory: Path, names: Collection[str]) -> bool:
    """Whether the configuration speaks of texts and of pictures."""
    beside = {name.rsplit("/", 1)[-1] for name in names}
    if beside.intersection(TOKENIZERS) and beside.intersection(PROCESSORS):
        return True
    try:
        config: Any = json.loads((directory / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and any(text in config and image in config for text, image in _TWO_TOWERS)


def _inode(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return -1, -1
    return stat.st_dev, stat.st_ino


def _hash(path: Path, like: str) -> str:
    """The hash of a file, of the same kind as another."""
    try:
        return artifact(path).sha256 if len(like) == 64 else digest(path, "git")
    except OSError as error:
        return f"an error ({error.strerror or error})"
    except ModelFormatError as error:
        return f"an error ({error.message})"
