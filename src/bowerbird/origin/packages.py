"""The packages of the original stacks, imported when they are first needed."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bowerbird.errors import MissingExtraError

EXTRA = "export"
"""The extra of bowerbird that brings torch, transformers and onnxscript."""

TRAIN = "train"
"""The one that brings these and what learning needs besides."""

# Stacks that few need are installed by themselves, since each brings much.
_OWN = {
    "timm": "timm",
    "open_clip": "open_clip_torch",
    "torchvision": "torchvision",
    "sentence_transformers": "sentence-transformers",
}


def need(module: str, extra: str = EXTRA) -> Any:
    """Import a package of an original stack.

    Args:
        module: its name.
        extra: of bowerbird, that brings it.

    Raises:
        MissingExtraError: it, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        own = missing in _OWN
        raise MissingExtraError(_OWN.get(missing, missing), "" if own else extra) from error


def has(module: str) -> bool:
    """Whether a package is installed; nothing is imported."""
    return importlib.util.find_spec(module) is not None


def versions(*modules: str) -> dict[str, str]:
    """Package -> version, of those that are installed."""
    found = {}
    for module in modules:
        try:
            found[module] = importlib.metadata.version(_OWN.get(module, module))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the stacks warn and log about their own insides from the terminal; what they made is checked."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
