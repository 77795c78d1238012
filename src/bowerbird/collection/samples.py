"""A few photographs to try things with."""

from __future__ import annotations

from pathlib import Path

from bowerbird import models


def samples() -> Path:
    """The folder of the photographs that come with the package: a cat, a cup of coffee, a rocket, an astronaut, ...

    >>> sorted(path.stem for path in samples().glob("*.jpg"))
    ['astronaut', 'camera', 'chelsea', 'coffee', 'hubble_deep_field', 'rocket']
    """
    return Path(models.__path__[0]) / "probe"
