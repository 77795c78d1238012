"""The keys of a model's JSON files, read once each; what nobody read is an error in the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelFormatError
from bowerbird.models.vision.steps import Triple


class Config:
    """The keys of a config, each read once; what nobody read is an error in the end.

    Attributes:
        path: of the file, for messages.
        read: names that were asked for.
    """

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values = dict(values)
        self.path = path
        self.read: set[str] = set()

    @property
    def unread(self) -> set[str]:
        """Names in the file that nobody asked for."""
        return set(self.values) - self.read

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default` where it is missing or null."""
        self.read.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def switch(self, key: str, default: bool | None) -> bool:
        """A boolean. Null, unlike a missing key, means off: in transformers it hides the default of the class."""
        self.read.add(key)
        value = self.values.get(key, default) or False
        if not isinstance(value, (bool, int)) or value not in (0, 1):
            raise self.refuse(key, "true or false")
        return bool(value)

    def number(self, key: str, default: float) -> float:
        """A finite number."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.refuse(key, "a number")
        return float(value)

    def count(self, key: str, default: int) -> int:
        """A whole number above zero."""
        value = self.number(key, default)
        if value < 1 or value != int(value):
            raise self.refuse(key, "a whole number above zero")
        return int(value)

    def triple(self, key: str, default: Triple) -> Triple:
        """One number for each channel; a single number stands for all three."""
        value = self.get(key, default)
        value = [value] * 3 if isinstance(value, (int, float)) else value
        numbers = isinstance(value, (list, tuple)) and all(
            isinstance(part, (int, float)) and not isinstance(part, bool) and math.isfinite(part)
            for part in value
        )
        if not numbers or len(value) != 3:
            raise self.refuse(key, "three numbers")
        return tuple(float(part) for part in value)

    def divisor(self, key: str, default: Triple) -> Triple:
        """As `triple`, none of them zero."""
        value = self.triple(key, default)
        if 0.0 in value:
            raise self.refuse(key, "three numbers other than zero")
        return value

    def choice(self, key: str, default: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
        """One of the `known` words."""
        value = self.get(key, default)
        if value not in known:
            raise self.refuse(key, " or ".join(known))
        return str(value)

    def neutral(self, *keys: str) -> None:
        """Keys that say nothing about the arithmetic."""
        self.read |= set(keys)

    def unset(self, *keys: str) -> None:
        """Keys that are known but may not be switched on.

        Raises:
            ModelFormatError: one of them is.
        """
        for key in keys:
            if self.get(key):
                raise self.refuse(key, "null or false")

    def refuse(self, key: str, accepted: str) -> ModelFormatError:
        """The error for a value that is not understood."""
        shown = self.values.get(key)
        return ModelFormatError(
            f"{self.path}: {key} {shown!r} is not understood.", hint=f"Accepted here: {accepted}."
        )


def sides(config: Config, key: str, value: Any, *, square: bool) -> Any:
    """A size in any of its published spellings.

    Returns:
        An integer, the shorter side; (height, width); or a dictionary with other keys, as it stands.
    """
    if isinstance(value, dict):
        parts = {name: part for name, part in value.items() if part is not None}
        names = set(parts)
    elif isinstance(value, (list, tuple)) and len(value) == 2:
        parts, names = {"height": value[0], "width": value[1]}, {"height", "width"}
    else:
        parts = {"height": value, "width": value} if square else {"shortest_edge": value}
        names = set(parts)
    for part in parts.values():
        if isinstance(part, bool) or not isinstance(part, (int, float)) or part < 1 or part != int(part):
            raise config.refuse(key, 'numbers above zero, as {"height": h, "width": w}')
    parts = {name: int(part) for name, part in parts.items()}
    if names == {"height", "width"}:
        return parts["height"], parts["width"]
    if names == {"shortest_edge"}:
        return parts["shortest_edge"]
    if names in ({"shortest_edge", "longest_edge"}, {"max_height", "max_width"}):
        return parts
    raise config.refuse(key, '{"shortest_edge": n} or {"height": h, "width": w}')
