"""What the user asked for beyond the source itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bowerbird.errors import BowerbirdError

PROFILES = ("hf4-pil", "hf5-tv")
POOLINGS = ("mean", "cls")


@dataclass(frozen=True)
class Request:
    """How a source is to be opened.

    Attributes:
        allow_pickle: read weights from a pickle, with `torch.load(weights_only=True)`, or run a TorchScript file.
        profile: whose arithmetic transformers' picture processor has, one of `PROFILES`.
        pooling: of a text model that comes without a sentence-transformers chain, one of `POOLINGS`.
        architecture: for a file of weights: a source that says which network they belong to.
        processor: for a TorchScript file: a directory with the configuration of its picture processor.
        weights: a file of weights to load into the architecture, instead of those that lie with it.
        name: what the model is called in what is written; set by `export` and `make_golden`.

    Raises:
        BowerbirdError: there is no such profile or pooling.
    """

    allow_pickle: bool = False
    profile: str = "hf4-pil"
    pooling: str = "mean"
    architecture: str = ""
    processor: str = ""
    weights: Path | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for what, value, known in (("profile", self.profile, PROFILES), ("pooling", self.pooling, POOLINGS)):
            if value not in known:
                raise BowerbirdError(f"There is no {what} {value!r}.", hint=f"Use {' or '.join(known)}.")
