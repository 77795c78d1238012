"""Two arrays that should be one: how far they are apart, and whether that is too far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT, WITHIN, DIFFERS, SKIPPED = "exact", "within bound", "DIFFERS", "not compared"
"""Verdicts."""

NOT_FINITE = "not finite here"
"""Note of an item for which we have NaN or infinity."""


@dataclass(frozen=True)
class Bound:
    """What counts as agreement.

    Attributes:
        cosine: the least, over all numbers of an item.
        error: the largest absolute difference; of values larger than 1, relative to the largest of them.
        reason: where the bound comes from, for people.
    """

    cosine: float
    error: float
    reason: str


EQUAL = Bound(1.0, 0.0, "equal")
PIXELS = Bound(1.0, 1e-6, "equal, or 1e-6 where a step works on floats")
FP32 = Bound(0.999999, 1e-4, "fp32")
BATCHES = Bound(0.999999, 1e-6, "batch invariance in fp32")


def cosine_bound(cosine: float, reason: str) -> Bound:
    """A bound on the cosine alone: errors may be as large as unit vectors at that cosine can have them."""
    return Bound(cosine, max(FP32.error, float(np.sqrt(max(0.0, 2 - 2 * cosine)))), reason)


@dataclass(frozen=True)
class Difference:
    """One item at one stage.

    Attributes:
        name: of the picture or text.
        cosine: between all numbers of the two; 1.0 where they are equal, 0.0 where shapes differ.
        error: largest absolute difference; infinite where shapes differ or a value is not finite.
        differing: how many numbers differ.
        total: of how many.
        levels: the largest difference in 8-bit levels, where the reference holds such; else None.
        verdict: `exact`, `within bound` or `DIFFERS`.
        note: what else a person should know.
    """

    name: str
    cosine: float
    error: float
    differing: int
    total: int
    levels: float | None
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class StageReport:
    """One stage of one tower, over all items.

    Attributes:
        tower: `image` or `text`.
        stage: `decoded`, `pixel values`, `tokens`, `raw`, `pooled` or `unit`, or the name of a check.
        run: `alone`, fed with the reference's previous stage, `through`, from the file or the text on, or `check`.
        precision: the policy under which the network ran.
        bound: what counts as agreement.
        items: in the order of the reference; empty where the stage could not be compared.
        note: why not, or what was compared.
    """

    tower: str
    stage: str
    run: str
    precision: str
    bound: Bound
    items: tuple[Difference, ...]
    note: str = ""

    @property
    def worst(self) -> Difference | None:
        """The item furthest apart."""
        if not self.items:
            return None
        return min(self.items, key=lambda item: (item.verdict != DIFFERS, item.cosine, -item.error))

    @property
    def cosine(self) -> float | None:
        """The least over all items."""
        return min((item.cosine for item in self.items), default=None)

    @property
    def error(self) -> float | None:
        """The largest over all items."""
        return max((item.error for item in self.items), default=None)

    @property
    def verdict(self) -> str:
        """The worst of all items; `not compared` without any."""
        verdicts = {item.verdict for item in self.items}
        return next((verdict for verdict in (DIFFERS, WITHIN, EXACT) if verdict in verdicts), SKIPPED)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        worst = self.worst
        return {
            "tower": self.tower,
            "stage": self.stage,
            "run": self.run,
            "precision": self.precision,
            "verdict": self.verdict,
            "cosine": self.cosine,
            "error": _number(self.error),
            "worst": worst.name if worst else None,
            "bound": asdict(self.bound),
            "note": self.note,
            "items": [{**asdict(item), "error": _number(item.error)} for item in self.items],
        }


def _number(value: float | None) -> float | None:
    """JSON has no infinity."""
    return None if value is None or not np.isfinite(value) else value


def compare(name: str, ours: NDArray[Any], reference: NDArray[Any], bound: Bound) -> Difference:
    """How far two arrays are apart; of another shape they differ whatever the bound."""
    total = int(reference.size)
    if ours.shape != reference.shape:
        note = f"shape {shape_of(ours.shape)} against {shape_of(reference.shape)}"
        return Difference(name, 0.0, float("inf"), total, total, None, DIFFERS, note)
    if np.array_equal(ours, reference):
        return Difference(name, 1.0, 0.0, 0, total, 0.0 if _step(reference) else None, EXACT)
    one, other = ours.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        note = NOT_FINITE if not np.isfinite(one).all() else "not finite in the reference"
        return Difference(name, 0.0, float("inf"), total, total, None, DIFFERS, note)
    error = float(np.abs(one - other).max())
    cosine = _cosine(one, other)
    allowed = bound.error * max(1.0, float(np.abs(other).max()))
    # Pixels and token ids are held to their values; a cosine rounds up to 1 long before those are equal.
    within = error <= allowed and (bound.cosine == 1.0 or cosine >= bound.cosine)
    step = _step(reference)
    return Difference(
        name,
        cosine,
        error,
        int(np.count_nonzero(one != other)),
        total,
        round(error / step, 2) if step else None,
        WITHIN if within else DIFFERS,
    )


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return min(1.0, float(one @ other) / lengths) if lengths > 0 else float(not (one.any() or other.any()))


def shape_of(shape: Sequence[int]) -> str:
    """A shape for people."""
    return "x".join(map(str, shape)) or "()"


def _step(values: NDArray[Any]) -> float | None:
    """How much one 8-bit level is worth in a picture; None where the values are no such levels."""
    if values.dtype == np.uint8:
        return 1.0
    if values.ndim != 3 or values.dtype.kind != "f":
        return None
    levels = np.unique(values[0])
    if not 1 < len(levels) <= 256:
        return None
    gaps = np.diff(levels)
    # Some level may not occur; the usual gap is between neighbours.
    return float(np.median(gaps)) if gaps.min() > 0 else None


def first_difference(stages: Sequence[StageReport]) -> StageReport | None:
    """The first stage that differs, in the order given."""
    return next((stage for stage in stages if stage.verdict == DIFFERS), None)
