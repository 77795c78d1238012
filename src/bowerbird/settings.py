"""The only reader of environment variables.

Every setting has an environment twin with the prefix `BOWERBIRD_`: `max_pixels` is read from
`BOWERBIRD_MAX_PIXELS`. Command-line flags win over the environment, the environment over the defaults
below. `settings()` reads the environment anew at each call, so nothing is frozen at import.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path

from bowerbird.errors import BowerbirdError

PREFIX = "BOWERBIRD_"


@dataclass(frozen=True)
class Settings:
    """What a user may set for the whole process.

    Attributes:
        index: where the index lies; empty: one for each indexed folder in the user's data directory.
        model: name or directory of the model used when none is given.
        precision: `auto`, `exact` or `fast`; see `bowerbird.models.network.precision`.
        engine: `auto`, `onnxruntime` or `openvino`.
        threads: threads that decode and prepare pictures; 0 takes one for each processor.
        max_pixels: pictures with more pixels (width x height) are refused before they are decoded.
        max_bytes: files larger than this, in bytes, are refused unread.
        decode_seconds: time one picture may take to read and decode, where it can be enforced.
        commit_seconds: an interrupted run loses at most about this many seconds of work.
        lock_seconds: how long to wait for another process that writes to the same index.
        data_dir: where indexes are kept.
        cache_dir: where the results of probes, the hashes of model files and the cache of vectors are kept.
        cache_bytes: how large the cache of vectors may grow, in bytes; 0: none is kept.
        api_key: what `bb.Client` shows to a service that wants a key.
        api_keys: that a service of this process takes, between commas; see `bowerbird.serve.keys`.
    """

    index: str = ""
    model: str = "mini"
    precision: str = "auto"
    engine: str = "auto"
    threads: int = 0
    # Pillow refuses pictures above this on its own account; see `media.image`.
    max_pixels: int = 178_956_970
    max_bytes: int = 1 << 30
    decode_seconds: float = 30.0
    commit_seconds: float = 5.0
    lock_seconds: float = 60.0
    data_dir: str = ""
    cache_dir: str = ""
    cache_bytes: int = 2 << 30
    api_key: str = field(default="", repr=False)
    api_keys: str = field(default="", repr=False)

    @property
    def data_path(self) -> Path:
        """The directory that holds the indexes."""
        if self.data_dir:
            return Path(self.data_dir).expanduser()
        from platformdirs import user_data_path

        return user_data_path("bowerbird", appauthor=False)

    @property
    def cache_path(self) -> Path:
        """The directory that holds what can be computed again."""
        if self.cache_dir:
            return Path(self.cache_dir).expanduser()
        from platformdirs import user_cache_path

        return user_cache_path("bowerbird", appauthor=False)

    @property
    def worker_threads(self) -> int:
        """`threads`, with 0 replaced by the number of processors this process may use."""
        if self.threads > 0:
            return self.threads
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        BowerbirdError: a variable holds something that is not of its type, or not allowed.
    """
    values: dict[str, str | int | float] = {}
    for one in fields(Settings):
        name = PREFIX + one.name.upper()
        text = os.environ.get(name, "").strip()
        if not text:
            continue
        kind: type[str] | type[int] | type[float] = type(one.default)  # type: ignore[assignment]
        try:
            value: str | int | float = kind(text)
        except ValueError:
            raise BowerbirdError(
                f"{name}={text!r} is not {'a whole number' if kind is int else 'a number'}.",
                hint=f"Unset it, or give for example {name}={one.default}.",
            ) from None
        if isinstance(value, (int, float)) and not value >= 0:
            raise BowerbirdError(f"{name}={text} is not zero or more.", hint=f"The default is {one.default}.")
        values[one.name] = value
    return Settings(**values)  # type: ignore[arg-type]


def traces_endpoint() -> str:
    """Where OpenTelemetry's own variables say that traces are sent; empty: nowhere."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ""
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return next(filter(None, (os.environ.get(name, "").strip() for name in names)), "")
