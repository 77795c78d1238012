"""How much more alike a pair is than unrelated pairs: the arithmetic of calibrated scores.

A raw score cannot be read: under one model unrelated texts have a cosine of .1, under another of .8, and a picture
with its caption less than two texts about different things. What can be read is how far a score stands out from
those of unrelated pairs of the same two modalities:

1. **Standardised for the question.** Its scores against a sample of the index have a mean and a deviation; `z =
   (score - mean) / deviation` is what is left when they are taken out (Z-norm of speaker verification, Auckenthaler
   et al. 2000). Where the sample is small, both are drawn towards those of neutral questions.
2. **Made even between kinds of pairs.** `z` of 2 is common where things differ little and rare where they differ
   much. In `Pair`, the lower part of the scores of the index's own records, where related pairs are few, says what
   unrelated pairs do (the central matching of Efron 2004, "Large-scale simultaneous hypothesis testing"), and the
   best 5 % of all pairs are given the same place in all kinds. The result is the *evidence*: 0 for an ordinary
   unrelated pair, 1.6 for the best 20th of those, 3.5 and more for what is found on top.
3. **Is there anything of the kind at all?** The best of a question's results are always far above the rest. So the
   *presence* compares them with the results that neutral questions get from the same index: "a cat" finds in a shop for
   clothes what any other strange question finds there. One result that stands out very far will do, or ten that stand
   out together (`Group`).
4. **Is this one of them?** Where one record is what was asked for, the next ones are not: the *kinship* of a result
   says how near its evidence comes to that of the group that was found present.

`match = likeness(evidence) * kinship * presence`, all 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

PRIOR = 32
"""So many rows of a sample count as much as what neutral questions say."""

TOP_SHARE = 0.05
TOP_EVIDENCE = 3.5
"""The evidence of the best 5 % of all pairs of a kind."""

HALFWAY, STEEPNESS = 2.5, 3.0
"""Where the likeness is 1/2, and how quickly it rises there: the best results of a question are nearly all alike 1, so
that among questions the presence decides."""

CLOSE, KINSHIP = 0.6, 10.0
"""The share of the evidence of the best at which a result is half taken for one of them, and how quickly that rises."""

_LOWER, _UPPER = 0.1, 0.7
_LOWER_NORMAL, _UPPER_NORMAL = -1.2815515655446004, 0.5244005127080407
"""Quantiles of the standard normal distribution that belong to the two."""

GROUPS = (10, 3, 1)
"""So many of the best results together say whether there is anything of the kind: few, since what was asked for may be
there once, and many, since one result may look like it by accident."""

BEST = max(GROUPS)

SIGMAS = 3.0
"""So many deviations above what neutral questions find, something is taken to be there; one more for each larger group
that could have said so too."""


@dataclass(frozen=True)
class Group:
    """What the mean of some of the best results is like, in deviations above the scores of neutral questions.

    Attributes:
        count: of the best results.
        absent: where nothing is there.
        present: from where on something is.
    """

    count: int
    absent: float
    present: float

    def steps(self, standing: Floats) -> float:
        """0 at `present`, -1 at `absent`, of how far the best results stand out, best first."""
        return (float(standing[: self.count].mean()) - self.present) / (self.present - self.absent)


@dataclass(frozen=True)
class Pair:
    """What unrelated pairs of one kind of question and one column are like.

    Attributes:
        middle: of standardised scores of unrelated pairs: their centre.
        spread: their deviation.
        top: the standardised score that 5 % of all pairs reach.
        neutral: mean of the scores of neutral questions.
        deviation: of the same.
        raw: mean of the raw scores of neutral questions.
        raw_deviation: of the same.
        groups: of the best results that say whether there is anything of the kind; none: nothing is known of it.
    """

    middle: float = 0.0
    spread: float = 1.0
    top: float = 2.6
    neutral: float = 0.0
    deviation: float = 0.1
    raw: float = 0.0
    raw_deviation: float = 0.1
    groups: tuple[Group, ...] = ()

    def evidence(self, standardised: Floats) -> Floats:
        """Standardised scores, any shape, on the scale that all kinds of pairs share; strictly increasing."""
        knee = self.middle + 2 * self.spread
        body = (standardised - self.middle) / self.spread
        rise = 2 + (TOP_EVIDENCE - 2) * (standardised - knee) / max(self.top - knee, 1e-9)
        beyond = TOP_EVIDENCE + standardised - self.top
        return np.where(standardised < knee, body, np.where(standardised < self.top, rise, beyond))

    def presence(self, standing: Floats) -> tuple[float, int]:
        """Whether something of the kind is there, 0 to 1, and how many results say so.

        It is 1/2 where a group is as far as `present`, and 1/9 where the best of them is `absent`.

        Args:
            standing: (n,): how far the best results stand out, best first; n > 0.
        """
        if not self.groups:
            return 1.0, 1
        steps = [group.steps(standing) for group in self.groups]
        best = int(np.argmax(steps))
        return float(_logistic(np.asarray(2.08 * steps[best]))), self.groups[best].count

    def to_dict(self) -> dict[str, Any]:
        """As plain data, as JSON has it."""
        return {**asdict(self), "groups": [asdict(group) for group in self.groups]}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Pair:
        """From plain data."""
        groups = tuple(Group(**group) for group in data.get("groups", ()))
        return cls(**{**data, "groups": groups})


def fitted(standardised: Floats) -> tuple[float, float, float]:
    """`middle`, `spread` and `top` of a `Pair`, from standardised scores among which some pairs are related."""
    low, high, top = np.quantile(standardised, [_LOWER, _UPPER, 1 - TOP_SHARE])
    spread = max(float(high - low) / (_UPPER_NORMAL - _LOWER_NORMAL), 1e-3)
    middle = float(low) - spread * _LOWER_NORMAL
    # Above the part that is fitted, and never on it: the evidence has to rise everywhere.
    return middle, spread, max(float(top), middle + 2.2 * spread)


def standardised(scores: Floats, background: Floats, pair: Pair) -> Floats:
    """Scores of a question without the mean and the deviation that it has against anything.

    Args:
        scores: (n,).
        background: (m,): its scores against a sample of the index.
        pair: what is known where the sample is small.
    """
    mean, deviation, share = pair.neutral, pair.deviation, 0.0
    if len(background):
        share = len(background) / (len(background) + PRIOR)
        mean = share * float(background.mean()) + (1 - share) * mean
        own = max(float(background.std()), 1e-6)
        # In logarithms: a sample of one has no deviation, and a product of lengths is what is averaged here.
        deviation = float(np.exp(share * np.log(own) + (1 - share) * np.log(max(deviation, 1e-6))))
    return (scores.astype(np.float64) - mean) / max(deviation, 1e-6)


def likeness(evidence: Floats) -> Floats:
    """Evidence as a number from 0 to 1: 1/2 at 2.5, which one in 160 unrelated pairs reaches; strictly increasing."""
    return _logistic(STEEPNESS * (np.asarray(evidence, np.float64) - HALFWAY))


def evidence_of(match: Floats) -> Floats:
    """The inverse of `likeness`, of a match that is neither 0 nor 1 to the last digit."""
    return HALFWAY + log_odds(match) / STEEPNESS


def log_odds(match: Floats) -> Floats:
    """The logarithm of `match / (1 - match)`, at most about 21 either way."""
    inside = np.clip(np.asarray(match, np.float64), 1e-9, 1 - 1e-9)
    found: Floats = np.log(inside / (1 - inside))
    return found


def match_of(told: Mapping[str, Any] | None, evidence: Floats, presence: Floats | float) -> Floats:
    """The match, 0 to 1, of evidence and presence; with what was learned from labels, if anything was.

    Args:
        told: what `bowerbird.search.labels` found out for a kind of pair.
        evidence: (n,).
        presence: (n,), or one for all: 0 to 1.
    """
    plain: Floats = likeness(evidence) * presence
    if not told:
        return plain
    if told["method"] == "isotonic":
        found: Floats = np.interp(log_odds(plain), told["x"], told["y"])
        # What is not there stays so: NaN is no number to interpolate.
        return np.where(np.isnan(plain), np.nan, found)
    return _logistic(told["slope"] * log_odds(plain) + told["bias"])


def groups_of(rows: int) -> tuple[tuple[int, float], ...]:
    """The groups of the best results that are looked at in a column of some rows, and their `SIGMAS`."""
    counts = [count for count in GROUPS if count == 1 or 3 * count <= rows]
    return tuple((count, SIGMAS + larger) for larger, count in enumerate(counts))


def kinship(evidence: Floats, level: float) -> Floats:
    """How near results come to those that were found present, 0 to 1; rising with the evidence, whatever the part.

    Args:
        evidence: (n,).
        level: that of the results that say something is there; below 1 it is taken for 1.
    """
    way = np.asarray(evidence, np.float64) / max(level, 1.0)
    return np.minimum(_logistic(KINSHIP * (way - CLOSE)) / _logistic(np.asarray(KINSHIP * (1 - CLOSE))), 1.0)


def tempered(evidence: Floats, share: Floats | float) -> Floats:
    """The evidence whose likeness is a share of that of some other; exact also where both are nearly 1.

    Args:
        evidence: (n,).
        share: (n,) or one for all, above 0 and at most 1.
    """
    steps = np.clip(STEEPNESS * (np.asarray(evidence, np.float64) - HALFWAY), -300, 300)
    unlike = _logistic(-steps)  # 1 - likeness
    share = np.maximum(share, 1e-12)
    odds = -np.log1p(np.exp(-steps)) + np.log(share) - np.log(unlike + (1 - unlike) * (1 - share))
    found: Floats = HALFWAY + odds / STEEPNESS
    return found


def _logistic(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))
