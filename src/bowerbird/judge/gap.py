"""The modality gap: how far apart pictures and texts lie in one space, before and after correction.

Vectors of pictures and of texts that one model gives lie in two separated cones (Liang et al. 2022, arXiv 2203.02053),
so scores of two pairs of modalities cannot be compared: two unrelated texts may score above a picture and its own
caption. Centring each modality, ``x~ = unit(x - mean_m)``, takes the distance of the centroids away, and not everything
else (arXiv 2405.18570). Everything here is for unit vectors X (n, d) of pictures and T (m, d) of texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import QueryError
from bowerbird.judge.sampled import label, sampled, shared_columns, single
from bowerbird.search.gap import centred

if TYPE_CHECKING:
    from bowerbird.search.index import Index
    from bowerbird.store.manifest import ModelEntry

Array: TypeAlias = NDArray[Any]

PAIRINGS = ("pictures", "texts", "across", "pairs")
"""Between two pictures, between two texts, between a picture and a text that do not belong together, and between a
picture and its own text."""

FOLDS = 5
RIDGE = 0.1
FEW = 50
"""Below so many pictures or texts the figures are rough."""

SAMPLE = 1000
"""Records that are drawn where nobody says how many; half a million pairs of each kind."""


@dataclass(frozen=True)
class Spread:
    """Cosines of one pairing.

    Attributes:
        mean: of all pairs.
        low: the 5th percentile.
        high: the 95th percentile.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Measures:
    """What is measured of two sets of vectors. None stands for what cannot be: too few vectors, or no true pairs.

    Attributes:
        distance: ``|mean X - mean T|``, the gap of Liang et al. 2022; 0 to 2.
        scores: by pairing of `PAIRINGS`, its cosines.
        overlap_pairs: shared area of the distributions of the scores of true pairs and of unrelated pairs across,
            ``sum_b min(p_b, q_b)``: the overlapping coefficient (Inman and Bradley 1989), 0 to 1. Less is better: it is
            how far a score can fail to tell a true pair.
        overlap_across: the same of pairs within a modality and across, none of them true pairs. 1 where scores of
            all pairings mean the same, 0 where two cones do not meet.
        pairs_over_texts: how often a true pair scores above two unrelated texts: the area under the ROC curve,
            .5 for a toss of a coin, 1 where a threshold tells them.
        separability: share of vectors whose modality a linear discriminant names rightly, .5 by chance, 1 where
            a plane parts pictures and texts; of held-out vectors, both modalities counting alike.
        separability_auc: area under the ROC curve of the same discriminant.
    """

    distance: float
    scores: Mapping[str, Spread | None]
    overlap_pairs: float | None
    overlap_across: float | None
    pairs_over_texts: float | None
    separability: float | None
    separability_auc: float | None


@dataclass(frozen=True)
class Gap:
    """The modality gap of an index under one model.

    Attributes:
        model: its name.
        output: which the vectors are of, shared by pictures and texts.
        pictures: how many vectors of pictures were measured.
        texts: how many of texts.
        pairs: how many records had both.
        source: where the texts are from: `index`, or `bank` for query sentences that ship with the package, where
            the index holds no texts.
        before: as stored.
        after: each modality centred by the mean of the vectors measured here.
        correction: what the index does about it when it is searched; for people.
    """

    model: str
    output: str
    pictures: int
    texts: int
    pairs: int
    source: str
    before: Measures
    after: Measures
    correction: str

    @property
    def rough(self) -> bool:
        """Whether there are too few vectors for figures to rely on."""
        return min(self.pictures, self.texts) < FEW

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Parts:
    """The vectors that a gap is measured of.

    Attributes:
        output: of the model.
        pictures: float32 (n, d), unit rows.
        texts: float32 (m, d), unit rows.
        pairs: int64 (p, 2): row of a picture and row of the text of the same record.
        source: of the texts; see `Gap`.
    """

    output: str
    pictures: Array
    texts: Array
    pairs: Array
    source: str


def gap_of(index: Index, model: str = "", *, sample: int = SAMPLE, seed: int = 0) -> tuple[Gap, Parts]:
    """Measure the gap of an index; gives the vectors too, to draw them.

    Args:
        index: it is only read.
        model: which of its models; empty: the first.
        sample: at most this many records are drawn.
        seed: of the choice.

    Raises:
        QueryError: the model takes no texts or no pictures, the index has no vectors of pictures, or several models
            are named.
    """
    entry = single(index, model)
    parts = parts_of(index, entry, sample=sample, seed=seed)
    return Gap(
        model=label(index, entry),
        output=parts.output,
        pictures=len(parts.pictures),
        texts=len(parts.texts),
        pairs=len(parts.pairs),
        source=parts.source,
        before=measure(parts.pictures, parts.texts, parts.pairs, seed=seed),
        after=measure(parts.pictures, parts.texts, parts.pairs, centre=True, seed=seed),
        correction=correction_of(entry),
    ), parts


def parts_of(index: Index, entry: ModelEntry, *, sample: int = SAMPLE, seed: int = 0) -> Parts:
    """Draw vectors of pictures and texts; where the index holds no texts, query sentences are embedded in their stead.

    Raises:
        QueryError: as of `gap_of`.
    """
    pictures, texts = shared_columns(entry)
    if pictures is None:
        raise QueryError(
            f"{label(index, entry)} takes no pictures, so it has no gap between pictures and texts.",
            hint="Measure an index that was made with a model of pictures and texts.",
        )
    columns = [pictures, *([texts] if texts else [])]
    drawn = sampled(index, columns, (), sample, seed=seed)
    of_pictures, x = drawn.held(pictures)
    if not len(x):
        raise QueryError(
            f"The index at {index.path} has no vectors of pictures.", hint="Index pictures first."
        )
    of_texts, t = drawn.held(texts) if texts else (np.empty(0, np.int64), x[:0])
    if len(t) >= FOLDS:
        _, rows, others = np.intersect1d(of_pictures, of_texts, return_indices=True)
        return Parts(pictures.output, x, t, np.stack([rows, others], 1), "index")
    return Parts(pictures.output, x, _of_bank(index, entry), np.empty((0, 2), np.int64), "bank")


def _of_bank(index: Index, entry: ModelEntry) -> Array:
    from bowerbird.search.background import bank

    encoder = index.encoder(entry.space)
    if encoder.card.text is None:
        raise QueryError(
            f"{label(index, entry)} takes no texts, so it has no gap between pictures and texts.",
            hint="Measure an index that was made with a model of pictures and texts.",
        )
    vectors: Array = encoder.embed(list(bank()), role="query")
    return vectors


def correction_of(entry: ModelEntry) -> str:
    """What an index does about the gap when it is searched, for people."""
    correction = entry.calibration.get("correction")
    if not entry.calibration:
        return "not calibrated: scores of pictures and texts are compared as they are"
    if not correction:
        return "none was measured when the index was calibrated"
    state = "on" if correction.get("on", True) else "off"
    why = str(correction.get("why", ""))
    return f"{state} ({why})" if why else state


def measure(
    pictures: Array, texts: Array, pairs: Array | None = None, *, centre: bool = False, seed: int = 0
) -> Measures:
    """Measure a gap.

    Args:
        pictures: (n, d) unit rows.
        texts: (m, d) unit rows.
        pairs: int (p, 2): row of a picture and row of the text that belongs to it; None for none known.
        centre: centre both first, each by its own mean; the discriminant is then centred by the vectors that it is
            made from, since the mean of all would tell it of those held out.
        seed: of the choice of what is held out.
    """
    separability, auc_of_it = separable(pictures, texts, centre=centre, seed=seed)
    x, t = pictures, texts
    if centre and len(x) and len(t):
        x, t = centred(x, x.mean(0)), centred(t, t.mean(0))
    scores = score_sets(x, t, pairs)
    within = np.concatenate([scores["pictures"], scores["texts"]])
    distance = float(np.linalg.norm(x.mean(0) - t.mean(0))) if len(x) and len(t) else 0.0
    return Measures(
        distance=distance,
        scores={name: _spread(scores[name]) for name in PAIRINGS},
        overlap_pairs=overlap(scores["pairs"], scores["across"]),
        overlap_across=overlap(within, scores["across"]),
        pairs_over_texts=auc(scores["pairs"], scores["texts"]),
        separability=separability,
        separability_auc=auc_of_it,
    )


def score_sets(pictures: Array, texts: Array, pairs: Array | None = None) -> dict[str, Array]:
    """The cosines of each pairing of `PAIRINGS`: (number of pairs,). A vector is not paired with itself."""
    across = pictures @ texts.T
    unrelated = np.ones(across.shape, bool)
    true = np.empty(0, across.dtype)
    if pairs is not None and len(pairs):
        unrelated[pairs[:, 0], pairs[:, 1]] = False
        true = across[pairs[:, 0], pairs[:, 1]]
    return {
        "pictures": (pictures @ pictures.T)[np.triu_indices(len(pictures), 1)],
        "texts": (texts @ texts.T)[np.triu_indices(len(texts), 1)],
        "across": across[unrelated],
        "pairs": true,
    }


def _spread(scores: Array) -> Spread | None:
    if not len(scores):
        return None
    low, high = np.quantile(scores, (0.05, 0.95))
    return Spread(float(scores.mean()), float(low), float(high))


def overlap(first: Array, second: Array) -> float | None:
    """Shared area of two distributions, ``sum_b min(p_b, q_b)`` over bins of equal width; None with fewer than 5 each.

    There are 2 n^(1/3) bins for the smaller number n (the Rice rule), from 5 to 100: few scores leave many narrow bins
    empty, and would seem to share less than they do.
    """
    fewest = min(len(first), len(second))
    if fewest < 5:
        return None
    low = min(float(first.min()), float(second.min()))
    high = max(float(first.max()), float(second.max()))
    if high - low < 1e-9:
        return 1.0
    edges = np.linspace(low, high, int(np.clip(round(2 * fewest ** (1 / 3)), 5, 100)) + 1)
    shares = [np.histogram(scores, edges)[0] / len(scores) for scores in (first, second)]
    return float(np.minimum(*shares).sum())


def auc(positive: Array, negative: Array) -> float | None:
    """How often one of `positive` is above one of `negative`, ties counting half; None where either is empty.

    The area under the ROC curve by ranks, as Mann and Whitney 1947 have it.
    """
    if not len(positive) or not len(negative):
        return None
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / (2 * len(negative)))


def separable(
    pictures: Array, texts: Array, *, centre: bool = False, seed: int = 0
) -> tuple[float | None, float | None]:
    """How well a plane tells pictures from texts it was not made from: (share of right answers, AUC).

    Fisher's discriminant ``w = (S + r tr(S)/d I)^-1 (mean X - mean T)``, S the covariance within the modalities and
    r = `RIDGE` (shrunk as of Friedman 1989), the threshold halfway between the means; over `FOLDS` folds. Both count
    alike, however many there are of each. None where one of them has fewer than `FOLDS` vectors.
    """
    if min(len(pictures), len(texts)) < FOLDS:
        return None, None
    rng = np.random.default_rng(seed)
    folds = [rng.permutation(len(part)) % FOLDS for part in (pictures, texts)]
    rates, areas = [], []
    for fold in range(FOLDS):
        kept = [
            part[of != fold].astype(np.float64) for part, of in zip((pictures, texts), folds, strict=True)
        ]
        held = [
            part[of == fold].astype(np.float64) for part, of in zip((pictures, texts), folds, strict=True)
        ]
        if centre:
            means = [part.mean(0) for part in kept]
            kept = [centred(part, mean) for part, mean in zip(kept, means, strict=True)]
            held = [centred(part, mean) for part, mean in zip(held, means, strict=True)]
        direction, threshold = _discriminant(*kept)
        seen = [part @ direction for part in held]
        rates.append((np.mean(seen[0] > threshold) + np.mean(seen[1] <= threshold)) / 2)
        areas.append(auc(*seen) or 0.0)
    return float(np.mean(rates)), float(np.mean(areas))


def _discriminant(first: Array, second: Array) -> tuple[Array, float]:
    """(d,) direction towards `first`, and the threshold along it."""
    means = first.mean(0), second.mean(0)
    deviations = np.concatenate([first - means[0], second - means[1]])
    covariance = deviations.T @ deviations / max(len(deviations) - 2, 1)
    width = len(covariance)
    ridge = RIDGE * np.trace(covariance) / width + 1e-12
    direction = np.linalg.solve(covariance + ridge * np.eye(width), means[0] - means[1])
    return direction, float((means[0] + means[1]) @ direction / 2)


def in_words(gap: Gap) -> list[str]:
    """What the figures say, a sentence each."""
    said = []
    for state, found in (("As stored", gap.before), ("Centred", gap.after)):
        pairs, texts, across = found.scores["pairs"], found.scores["texts"], found.scores["across"]
        if pairs and texts:
            nearer = "closer together" if pairs.mean > texts.mean else "further apart"
            said.append(
                f"{state}, a picture and its text are {nearer} than two unrelated texts: mean cosine {pairs.mean:.3f} "
                f"against {texts.mean:.3f}."
            )
        elif texts and across:
            said.append(
                f"{state}, a picture and any text have a mean cosine of {across.mean:.3f}, two texts {texts.mean:.3f}."
            )
        if found.separability is not None:
            said.append(
                f"{state}, a plane tells pictures from texts in {100 * found.separability:.0f} % of cases; "
                "50 % would be chance."
            )
    return said
