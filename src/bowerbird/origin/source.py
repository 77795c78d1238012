"""Which stack a source belongs to: told by its prefix, or by what it holds, never by how it is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelError, ModelFormatError, ModelNotFoundError
from bowerbird.models.hub.catalog import REPOSITORY, find_entry
from bowerbird.models.hub.fetch import EMBEDDED, snapshot
from bowerbird.origin.original import Original
from bowerbird.origin.request import Request
from bowerbird.origin.stacks.files import open_script, open_weights
from bowerbird.origin.stacks.open_clip import open_open_clip, open_open_clip_name
from bowerbird.origin.stacks.sentence import open_sentence
from bowerbird.origin.stacks.timm import open_timm, open_timm_name
from bowerbird.origin.stacks.torchvision import open_torchvision
from bowerbird.origin.stacks.transformers import open_transformers
from bowerbird.origin.weights import PICKLES, SAFE, is_script

_ACCEPTED = (
    "Give a hub id (org/name), a name of `bowerbird models`, a directory of transformers, sentence-transformers, timm "
    "or open_clip, a file of weights with --architecture, a TorchScript file with --processor, or timm:NAME, "
    "open_clip:NAME/TAG, torchvision:NAME."
)


def open_source(source: str, request: Request) -> Original:
    """Open a source in its original stack.

    Args:
        source: see `_ACCEPTED`.
        request: how to open it.

    Raises:
        ModelNotFoundError: there is no such source.
        ModelFormatError: it holds nothing that a known stack has written.
        MissingExtraError: its stack is not installed.
    """
    prefix, _, name = source.partition(":")
    if prefix in _PREFIXES:
        return _PREFIXES[prefix](name, request)
    path = Path(source).expanduser()
    if path.is_file():
        return _open_file(path, request)
    if source == EMBEDDED and not path.is_dir():
        raise ModelNotFoundError(
            f"{EMBEDDED} is the embedded model; it has no PyTorch original here.",
            hint=f"Its reference arrays come with it: bowerbird verify {EMBEDDED}",
        )
    return _open_directory(path if path.is_dir() else fetch(_published(source), request), request)


def _published(source: str) -> str:
    """Where the original weights are of a model that the catalogue knows by a short name; anything else as it is."""
    entry = None if REPOSITORY.fullmatch(source) else find_entry(source)
    if entry is None:
        return source
    known = (entry.export, *entry.aliases, entry.repository)
    return next((name for name in known if REPOSITORY.fullmatch(name)), source)


def _open_open_clip(name: str, request: Request) -> Original:
    """A directory or repository that also holds the files of another stack, or an architecture and a tag."""
    if Path(name).expanduser().is_dir():
        return open_open_clip(Path(name).expanduser(), request)
    if name.startswith("hf-hub:"):
        return open_open_clip(fetch(name, request), request)
    return open_open_clip_name(name, request)


_PREFIXES = {"timm": open_timm_name, "torchvision": open_torchvision, "open_clip": _open_open_clip}


def _open_directory(directory: Path, request: Request) -> Original:
    if request.weights is None:
        _refuse_export(directory)
    if (directory / "modules.json").is_file():
        return open_sentence(directory, request)
    config = _config(directory / "config.json")
    if "model_type" in config:
        return open_transformers(directory, request)
    if "pretrained_cfg" in config or "architecture" in config:
        return open_timm(directory, request)
    if (directory / "open_clip_config.json").is_file():
        return open_open_clip(directory, request)
    raise ModelFormatError(
        f"{directory} holds nothing that a known stack has written: no modules.json, no open_clip_config.json, and no "
        "config.json with model_type or pretrained_cfg.",
        hint=_ACCEPTED,
    )


def _refuse_export(directory: Path) -> None:
    """Tell a directory of ONNX graphs before PyTorch is imported, which takes long.

    The modules after a sentence-transformers' Transformer (2_Dense) keep their weights beside its graph.

    Raises:
        ModelFormatError: it holds a graph and none of the weights that it was made from.
    """
    graph = next((path for path in sorted(directory.glob("**/*.onnx"))), None)
    if graph is None:
        return
    folders = [directory, *(path for path in directory.glob("0_*") if path.is_dir())]
    weights = any(path.name.endswith((SAFE, *PICKLES)) for folder in folders for path in folder.iterdir())
    if not weights:
        raise ModelFormatError(
            f"{directory} is an export: it holds {graph.relative_to(directory)}, and no PyTorch weights.",
            hint="Give the original that it was made from: its directory, or its hub id.",
        )


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path} cannot be read: {error}.", hint="Fetch the model again.") from error
    if not isinstance(config, dict):
        raise ModelFormatError(f"{path} holds no JSON object.", hint="Fetch the model again.")
    return config


def _open_file(path: Path, request: Request) -> Original:
    if path.name.endswith(SAFE):
        return open_weights(path, request)
    if is_script(path):
        return open_script(path, request)
    if path.name.endswith(PICKLES):
        return open_weights(path, request)
    raise ModelFormatError(
        f"{path} is neither a file of weights ({SAFE}, {', '.join(PICKLES)}) nor TorchScript.", hint=_ACCEPTED
    )


_WANTED = (".json", ".safetensors", ".txt", ".model")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_ELSEWHERE = ("onnx", "openvino")


def fetch(source: str, request: Request) -> Path:
    """Download a repository of the hub: configuration, tokenizer, and weights as safetensors.

    Args:
        source: `org/name`, with or without `hf-hub:` before it and `@revision` after it.
        request: with pickles allowed, they are fetched too.

    Raises:
        ModelError: there is no such repository, or it cannot be fetched.
    """
    suffixes = (*_WANTED, *(_PICKLED if request.allow_pickle else ()))

    def want(path: str) -> bool:
        parts = path.split("/")
        return len(parts) <= 2 and parts[0] not in _ELSEWHERE and path.endswith(suffixes)

    if not REPOSITORY.fullmatch(source.removeprefix("hf-hub:").partition("@")[0]):
        raise ModelNotFoundError(
            f"There is no file or directory {source!r}, and a repository of the hub is written ORG/NAME.",
            hint=_ACCEPTED,
        )
    try:
        return snapshot(source, want)
    except ModelError as error:
        raise type(error)(
            f"There is no file or directory {source!r}, and as a repository of the hub: {error.message}",
            hint=error.hint or _ACCEPTED,
        ) from error
