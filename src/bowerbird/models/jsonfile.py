"""The JSON files of a model: one way to read them, and one wording for what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelFormatError

_POINTER = b"version https://git-lfs."
"""How the small file begins that Git LFS leaves in the place of a large one."""

_AGAIN = "Fetch the model again."


def read_object(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: of the file.
        missing_ok: whether a file that is not there counts as an empty object.

    Raises:
        ModelFormatError: the file is missing or cannot be read, is no JSON, or holds something else.
    """
    if missing_ok and not path.exists():
        return {}
    return as_object(_content(path), path)


def read_list(path: Path) -> list[Any]:
    """The list that a JSON file holds; errors as of `read_object`."""
    content = _content(path)
    if not isinstance(content, list):
        raise ModelFormatError(f"{path} does not hold a JSON list.", hint=_AGAIN)
    return content


def _content(path: Path) -> Any:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelFormatError(f"{path} is missing.", hint=_AGAIN) from error
    except (OSError, ValueError) as error:  # a ValueError: the path itself holds what no path may
        raise ModelFormatError(f"{path} cannot be read: {error}.", hint=_AGAIN) from error
    if data.startswith(_POINTER):
        raise ModelFormatError(
            f"{path} is a pointer of Git LFS, not the file itself.", hint="Run: git lfs pull"
        )
    if data.lstrip()[:1] == b"<":
        raise ModelFormatError(f"{path} cannot be read: it is a web page, not JSON.", hint=_AGAIN)
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path} cannot be read: {error}.", hint=_AGAIN) from error


def as_object(value: Any, path: Path, key: str = "") -> dict[str, Any]:
    """The value, if it is a JSON object.

    Args:
        value: what the file holds, whole or under `key`.
        path: of the file, for the message.
        key: where in the file; empty for the whole.

    Raises:
        ModelFormatError: it is something else.
    """
    if isinstance(value, dict):
        return value
    if key:
        raise ModelFormatError(f"{path}: {key} is not a JSON object.", hint=_AGAIN)
    raise ModelFormatError(f"{path} does not hold a JSON object.", hint=_AGAIN)


def member(config: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    """The object under a key; empty where the key is missing or null; errors as of `as_object`."""
    value = config.get(key)
    return {} if value is None else as_object(value, path, key)


def only(config: Mapping[str, Any], known: Collection[str], where: Path | str) -> None:
    """Refuse keys that are not known: one that is ignored could change every vector.

    Raises:
        ModelFormatError: there is such a key.
    """
    if unknown := sorted(set(config) - set(known)):
        raise ModelFormatError(
            f"{where}: {', '.join(map(repr, unknown))} is not understood.",
            hint=f"Understood: {', '.join(sorted(known))}.",
        )


def whole_number(value: Any, key: str, path: Path, least: int = 1) -> int:
    """The value, if it is a whole number from `least` on.

    Raises:
        ModelFormatError: it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ModelFormatError(f"{path}: {key} {value!r} is not a whole number from {least} on.")
    return value
