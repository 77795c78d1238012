"""How a query is to be answered, and what of that cannot be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.errors import QueryError
from bowerbird.record import Modality
from bowerbird.search import fuse
from bowerbird.search.query import WORDS

if TYPE_CHECKING:
    from bowerbird.search.rerank import Reranker


@dataclass(frozen=True)
class Request:
    """How a query is answered; see `Index.ask`."""

    k: int = 10
    offset: int = 0
    where: str = ""
    models: str | Sequence[str] = ()
    fusion: str = "calibrated"
    part_weights: Mapping[str, float] = field(default_factory=dict)
    min_match: float | None = None
    threshold: float | None = None
    rerank: Reranker | None = None

    def __post_init__(self) -> None:
        for name, number in (("k", self.k), ("offset", self.offset)):
            if not isinstance(number, (int, np.integer)) or isinstance(number, bool):
                raise QueryError(
                    f"The {name} {number!r} is no whole number.", hint="Give one, such as 10.", param=name
                )
        if self.k < 1:
            raise QueryError(f"{self.k} results were asked for.", hint="Ask for at least 1.", param="k")
        if self.offset < 0:
            raise QueryError(
                f"The offset {self.offset} is negative.", hint="The first page begins at 0.", param="offset"
            )
        if self.fusion not in fuse.FUSIONS:
            raise QueryError(
                f"There is no fusion {self.fusion!r}.",
                hint=f"Use one of {', '.join(fuse.FUSIONS)}.",
                param="fusion",
            )
        for name, value in (("threshold", self.threshold), ("min_match", self.min_match)):
            if value is not None and not math.isfinite(value):
                raise QueryError(
                    f"The {name} {value} cannot be used.", hint="Give a number such as 0.3.", param=name
                )
        if self.min_match is not None and not 0 <= self.min_match <= 1:
            raise QueryError(
                f"The least match {self.min_match:g} is not between 0 and 1.",
                hint="0.5 is a good start; raw scores are compared with `threshold`.",
                param="min_match",
            )
        self._check_weights()

    def _check_weights(self) -> None:
        known = (str(Modality.IMAGE), str(Modality.TEXT), WORDS)
        if strange := [part for part in self.part_weights if part not in known]:
            raise QueryError(
                f"There is no part {strange[0]!r} to weigh.",
                hint=f"Use {', '.join(known)}.",
                param="part_weights",
            )
        weights = list(self.part_weights.values())
        if weights and (any(not math.isfinite(w) or w < 0 for w in weights) or not any(weights)):
            raise QueryError(
                f"The weights of parts {weights} cannot be used.",
                hint="Give numbers of 0 or more, not all of them 0.",
                param="part_weights",
            )
        if weights and self.fusion != "weighted":
            raise QueryError(
                "Parts are weighed in the fusion 'weighted' only.",
                hint="Ask for that fusion.",
                param="fusion",
            )
