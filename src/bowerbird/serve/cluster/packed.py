"""What became of inputs, as it travels between machines: vectors as one array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import InputError
from bowerbird.models.encoder import Outcome
from bowerbird.serve.encoders import Answer

__all__ = ["Packed", "merged"]


@dataclass(frozen=True)
class Packed:
    """An `Answer`, packed.

    Attributes:
        rows: float32 (n, dim), the vectors of those that have one, in order; a list of (tokens, dim) where places are
            not pooled.
        norms: of each row.
        errors: by place of the input, why there is no vector.
        notes: by place.
        tokens: as of `Answer`, like the rest.
        cut: see there.
        waited: see there.
        ran: see there.
    """

    rows: NDArray[np.float32] | list[NDArray[np.float32]]
    norms: list[float]
    errors: Mapping[int, InputError] = field(default_factory=dict)
    notes: Mapping[int, str] = field(default_factory=dict)
    tokens: int = 0
    cut: int = 0
    waited: float = 0.0
    ran: float = 0.0

    @classmethod
    def of(cls, answer: Answer) -> Packed:
        """The same as it travels."""
        vectors = [one.vector for one in answer.outcomes if one.vector is not None]
        alike = len({vector.shape for vector in vectors}) == 1 and vectors[0].ndim == 1
        return cls(
            np.stack(vectors).astype(np.float32, copy=False) if alike else vectors,
            [one.norm for one in answer.outcomes if one.vector is not None],
            {one.index: one.error for one in answer.outcomes if one.error},
            {one.index: one.note for one in answer.outcomes if one.note},
            answer.tokens,
            answer.cut,
            answer.waited,
            answer.ran,
        )

    def outcomes(self, places: Sequence[int]) -> list[Outcome]:
        """An outcome for each input, at the places that these have in the whole request."""
        rows = iter(zip(self.rows, self.norms, strict=True))
        found: list[Outcome] = []
        for own, place in enumerate(places):
            if own in self.errors:
                found.append(Outcome(place, error=self.errors[own]))
            else:
                vector, norm = next(rows)
                found.append(Outcome(place, vector, norm, note=self.notes.get(own, "")))
        return found


def merged(parts: Sequence[tuple[Sequence[int], Packed]], others: Mapping[int, Any]) -> Answer:
    """One answer of what several replicas have made of parts of a request.

    Args:
        parts: places in the request, and what became of them.
        others: by place, errors of inputs that were sent nowhere.
    """
    outcomes = {place: Outcome(place, error=error) for place, error in others.items()}
    for places, packed in parts:
        outcomes.update({one.index: one for one in packed.outcomes(places)})
    packs = [packed for _, packed in parts]
    return Answer(
        [outcomes[place] for place in sorted(outcomes)],
        sum(one.tokens for one in packs),
        sum(one.cut for one in packs),
        max((one.waited for one in packs), default=0.0),
        sum(one.ran for one in packs),
    )
