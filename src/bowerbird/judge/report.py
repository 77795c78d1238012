"""What `verify` found: stages, checks, problems, and the first place where two stacks part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bowerbird.judge.compare import StageReport, first_difference
from bowerbird.judge.diagnose import Diagnosis


@dataclass(frozen=True)
class Problem:
    """What could not be judged, and why.

    Attributes:
        name: of the picture or text, or of what the reference has and the model has not.
        message: why, and what to do.
        fails: the model is at fault: it does not give what it ought to give. False where the user's own input cannot
            be read or is not in the reference, and for remarks.
    """

    name: str
    message: str
    fails: bool = False


@dataclass(frozen=True)
class Reference:
    """What a model was held against.

    Attributes:
        path: of the file; empty when it was given as an object.
        model: as the reference calls it.
        profile: the preprocessing profile it was made under.
        made_with: package -> version.
        pictures: how many.
        texts: how many.
    """

    path: str
    model: str
    profile: str
    made_with: dict[str, str]
    pictures: int
    texts: int


@dataclass(frozen=True)
class Given:
    """Inputs of one kind that the user named.

    Attributes:
        kind: `picture` or `text`.
        count: how many.
        known: how many of them the reference has.
    """

    kind: str
    count: int
    known: int


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        model: name of the model.
        space: its fingerprint.
        reference: what it was held against; None when only it itself was checked.
        precision: the user's policy.
        numerics: policy -> tower -> engine, precision and drift, for `exact` and for the user's policy.
        stages: every stage that was compared, `alone` in the order of the data, then from file or text `through`.
        checks: what needs no reference.
        problems: what could not be judged, in the order of finding; each once.
        given: what the user named to be held against the reference; empty without a reference.
        first: the first stage at which the two part.
        diagnosis: what explains that best.
    """

    model: str
    space: str
    reference: Reference | None
    precision: str
    numerics: dict[str, dict[str, Any]]
    stages: tuple[StageReport, ...]
    checks: tuple[StageReport, ...]
    problems: tuple[Problem, ...] = ()
    given: tuple[Given, ...] = ()
    first: StageReport | None = None
    diagnosis: Diagnosis | None = None

    @property
    def compared(self) -> int:
        """How many stages could be held against the reference."""
        return sum(bool(stage.items) for stage in self.stages)

    @property
    def ok(self) -> bool:
        """Whether nothing differs, no problem is the model's, and a reference, if given, had anything to compare."""
        differs = first_difference((*self.stages, *self.checks)) is not None
        fails = any(problem.fails for problem in self.problems)
        return not differs and not fails and (self.reference is None or self.compared > 0)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "model": self.model,
            "space": self.space,
            "ok": self.ok,
            "reference": asdict(self.reference) if self.reference else None,
            "precision": self.precision,
            "numerics": self.numerics,
            "first": {"tower": self.first.tower, "stage": self.first.stage, "run": self.first.run}
            if self.first
            else None,
            "diagnosis": _finite(asdict(self.diagnosis)) if self.diagnosis else None,
            "stages": [stage.to_json() for stage in self.stages],
            "checks": [check.to_json() for check in self.checks],
            "problems": [asdict(problem) for problem in self.problems],
            "given": [asdict(given) for given in self.given],
        }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in values.items()
    }
