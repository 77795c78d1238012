"""The modality gap, and its correction: pictures and texts of one model lie in two cones apart.

Each modality is moved so that its mean lies in the origin, `x~ = unit(x - mean)`. It takes the gap between the
centroids away, not all of it (arXiv 2203.02053, 2405.18570), and lifts search in mixed collections (GR-CLIP, arXiv
2507.19054). Vectors stay stored as they are: a store scores against `row - centre`, see `Table.nearest`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bowerbird.models.card import Calibration

Vectors = NDArray[np.float32]

ENOUGH = 64
"""Vectors of each modality without which a mean says nothing."""

TOLERANCE = 0.005
"""The correction may cost so much of the mean reciprocal rank between captions and their pictures before it is left
out: less is the noise of a sample."""


def unit(rows: Vectors) -> Vectors:
    """Rows scaled to length 1; a row of zeros stays one.

    Args:
        rows: float32 (..., dim).
    """
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    scaled: Vectors = (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def centred(rows: Vectors, mean: Vectors) -> Vectors:
    """`unit(rows - mean)`.

    Args:
        rows: float32 (..., dim).
        mean: float32 (dim,).
    """
    return unit(rows - mean)


@dataclass(frozen=True)
class Correction:
    """Whether the gap is corrected, and what that was decided by.

    Attributes:
        on: whether it is.
        why: in a sentence.
        distance: between the means of pictures and texts, 0 to 2; 0 where there is only one of them.
        before: mean reciprocal rank between captions and their own pictures, both ways, of raw vectors; None where no
            records with both were there to measure it.
        after: the same of corrected ones.
    """

    on: bool
    why: str
    distance: float = 0.0
    before: float | None = None
    after: float | None = None


def known_mean(known: Calibration | None, modality: str, rows: Vectors) -> Vectors | None:
    """The mean that a fitted model brings along for pictures or texts, while there are too few here for another.

    Args:
        known: of the model.
        modality: `image` or `text`.
        rows: float32 (n, dim): what is here.

    Returns:
        float32 (dim,); None where there are enough, or the model brings none.
    """
    mean = (known.image_mean if modality == "image" else known.text_mean) if known else ()
    return None if len(rows) >= ENOUGH or len(mean) != rows.shape[-1] else np.asarray(mean, np.float32)


def decide(
    pictures: Vectors, texts: Vectors, both: tuple[Vectors, Vectors], known: Calibration | None = None
) -> Correction:
    """Whether to correct: where an index holds pictures and texts, unless it was measured to rank worse.

    Args:
        pictures: float32 (n, dim), unit rows: a sample.
        texts: float32 (m, dim), likewise.
        both: pictures and texts of the same records, float32 (p, dim) each.
        known: what the model says of the data that it was fitted on: it counts while there is too little here.
    """
    if not len(pictures) or not len(texts):
        return Correction(False, "there is only one modality, so no gap to correct")
    means = pictures.mean(0), texts.mean(0)
    distance = float(np.linalg.norm(means[0] - means[1]))
    if known and min(len(pictures), len(texts)) < ENOUGH:
        images, words = known_mean(known, "image", pictures), known_mean(known, "text", texts)
        if images is not None or words is not None:
            told = "no worse" if known.corrects else "worse"
            between = (means[0] if images is None else images) - (means[1] if words is None else words)
            return Correction(
                known.corrects,
                f"fewer than {ENOUGH} pictures or texts are here; with the means of what the model was fitted on, "
                f"held-out pairs ranked {told}",
                float(np.linalg.norm(between)),
            )
    if min(len(pictures), len(texts)) < ENOUGH:
        return Correction(False, f"fewer than {ENOUGH} pictures or texts say nothing of their mean", distance)
    apart = f"the means of pictures and texts lie {distance:.2f} apart"
    if len(both[0]) < ENOUGH:
        return Correction(True, f"{apart}, and too few records have both to measure more", distance)
    before = _reciprocal(*both)
    after = _reciprocal(centred(both[0], means[0]), centred(both[1], means[1]))
    figures = (
        f"between captions and their pictures the mean reciprocal rank goes from {before:.3f} to {after:.3f}"
    )
    on = after >= before - TOLERANCE
    return Correction(on, f"{apart}; {figures}", distance, before, after)


def _reciprocal(pictures: Vectors, texts: Vectors) -> float:
    """Mean reciprocal rank of each row's own counterpart, both ways; of equals the worst rank counts."""
    scores = texts @ pictures.T  # (texts, pictures)
    own = np.diagonal(scores)
    forth = (scores >= own[:, None]).sum(1)
    back = (scores >= own[None, :]).sum(0)
    return float((np.mean(1 / forth) + np.mean(1 / back)) / 2)
