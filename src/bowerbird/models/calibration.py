"""`calibration` of `bowerbird.json`: what a fitted model tells of its scores; see `Calibration` in `card`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelFormatError
from bowerbird.models.card import Calibration

_KEYS = ("image_mean", "text_mean", "corrects", "match", "pairs")


def read_calibration(said: Any, path: Path) -> Calibration | None:
    """Check what a model directory says.

    Args:
        said: the value of the key; None: there is none.
        path: of `bowerbird.json`, for messages.

    Raises:
        ModelFormatError: it is not understood.
    """
    if said is None:
        return None
    if not isinstance(said, dict) or (unknown := sorted(set(said) - set(_KEYS))):
        what = f"unknown key {unknown[0]!r}" if isinstance(said, dict) else "no object"
        raise ModelFormatError(f"{path}: calibration: {what}.", hint=f"Known: {', '.join(_KEYS)}.")
    images, texts = (_numbers(said.get(key, []), key, path) for key in ("image_mean", "text_mean"))
    match = _numbers(said["match"], "match", path) if "match" in said else ()
    corrects, pairs = said.get("corrects", False), said.get("pairs", 0)
    if len(images) != len(texts) or len(match) not in (0, 2) or (match and match[0] <= 0):
        raise ModelFormatError(
            f"{path}: calibration: image_mean and text_mean are as long as the vectors, and match is [slope, bias]."
        )
    if not isinstance(corrects, bool) or not isinstance(pairs, int):
        raise ModelFormatError(f"{path}: calibration: corrects is true or false, and pairs a number.")
    return Calibration(images, texts, corrects, (match[0], match[1]) if match else None, pairs)


def _numbers(said: Any, key: str, path: Path) -> tuple[float, ...]:
    listed = said if isinstance(said, list) else [None]
    found = [float(one) for one in listed if isinstance(one, (int, float)) and not isinstance(one, bool)]
    if len(found) != len(listed) or not all(map(math.isfinite, found)):
        raise ModelFormatError(f"{path}: calibration: {key} is no list of numbers.")
    return tuple(found)
