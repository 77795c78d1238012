"""Files of a model and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from bowerbird.errors import ModelFormatError
from bowerbird.models.network.graph import GraphFacts, read_graph
from bowerbird.settings import settings


@dataclass(frozen=True)
class Artifact:
    """A file of the model.

    Attributes:
        path: where it lies.
        sha256: of its bytes; of a graph with external data, of the hashes of all its files.
        size: in bytes, external data included.
    """

    path: Path
    sha256: str
    size: int


def artifact(path: Path) -> Artifact:
    """Hash a file of a model; the hash of an unchanged file is remembered in the cache directory.

    Raises:
        ModelFormatError: the file is missing or unreadable.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise ModelFormatError(f"{path} is missing or unreadable.", hint="Fetch the model again.") from error
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"
    memo = settings().cache_path / "sha256" / hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    try:
        known = memo.read_text("ascii").strip()
        if re.fullmatch("[0-9a-f]{64}", known):
            return Artifact(path, known, stat.st_size)
    except (OSError, ValueError):
        pass  # Not hashed before, or the cache cannot be read: hash it now.
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error}.", hint="Fetch the model again.") from error
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(digest.hexdigest(), "ascii")
    except OSError:
        pass  # A cache that cannot be written costs time, nothing else.
    return Artifact(path, digest.hexdigest(), stat.st_size)


def graph_artifact(path: Path) -> tuple[Artifact, GraphFacts]:
    """Hash a graph and the files in which it keeps its weights, if any; and what the graph says of itself.

    Raises:
        ModelFormatError: a file is missing or unreadable, or the graph wants weights from outside its folder.
    """
    graph = artifact(path)
    facts = read_graph(path, graph.sha256)
    if not facts.weights:
        return graph, facts
    parts = {name: artifact(path.parent / name) for name in facts.weights}
    named = {"": graph.sha256, **{name: part.sha256 for name, part in parts.items()}}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    return Artifact(path, digest, graph.size + sum(part.size for part in parts.values())), facts
