"""What a run of learning left behind, read again: settings, figures, losses, and the vectors of what was held out.

`fit.json` and `fit.npz` lie beside a fitted model. A report needs nothing else: neither the model nor the pictures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bowerbird.errors import LearnError
from bowerbird.learn.choose import Try
from bowerbird.learn.loop import Epoch
from bowerbird.learn.report_held import Held, Keys, damaged, read_held
from bowerbird.learn.run import FACTS, FORMAT, finite
from bowerbird.learn.split import Copy

UNKNOWN = float("nan")
"""Stands for a figure that was not measured, or that came out as no number."""


@dataclass(frozen=True)
class Figure:
    """A measure with its 95 % interval, NaN where there is none.

    Attributes:
        mean: over all queries.
        low: lower end of the interval.
        high: upper end.
    """

    mean: float
    low: float = UNKNOWN
    high: float = UNKNOWN


Figures = Mapping[str, Mapping[str, Figure]]
"""By direction (`text->image`, `image->text`, `class->image`), by measure (`R@10`)."""


@dataclass(frozen=True, eq=False)
class Report:
    """A run, as it was saved.

    Attributes:
        directory: of the fitted model.
        recipe: as Python writes it.
        settings: everything else that was asked for.
        source: of the pairs.
        models: `image` and `text`, by the names they were loaded by.
        counts: `pictures`, `texts`, `pairs`, and how many pictures are in each split.
        dropped: (name, reason) of what could not be used.
        problems: what else a person should know.
        copies: pictures that are the same, or nearly.
        seconds: `embedding`, `training`, `recomputing` (embedding in every epoch instead), `total`; and
            `cached`, a number of vectors.
        history: the epochs; empty for a recipe in closed form.
        steps: the loss of each step.
        best: the epoch whose weights were kept; 0: not known.
        stopped: why there were no more epochs; empty: not known.
        choice: what `auto` tried, in its order.
        before: figures of the held-out set under the model as it was.
        after: the same under the fitted model.
        held_out: which split the figures are of.
        held_out_of: `pictures` and `texts`: how many the figures are of; `held` may be a sample of them.
        versions: of what ran, by package.
        made: when, as ISO 8601.
        held: the set itself; None where it was not kept.
    """

    directory: Path
    recipe: str
    settings: Mapping[str, Any]
    source: str
    models: Mapping[str, str]
    counts: Mapping[str, int]
    dropped: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    copies: tuple[Copy, ...]
    seconds: Mapping[str, float]
    history: tuple[Epoch, ...]
    steps: tuple[float, ...]
    best: int
    stopped: str
    choice: tuple[Try, ...]
    before: Figures
    after: Figures
    held_out: str
    held_out_of: Mapping[str, int]
    versions: Mapping[str, str]
    made: str
    held: Held | None

    @property
    def name(self) -> str:
        """The last part of the directory."""
        return self.directory.resolve().name or str(self.directory)

    @property
    def headline(self) -> tuple[str, str]:
        """Direction and measure of the figure that tells most; ("", "") where nothing was measured."""
        for direction, measure in (
            ("class->image", "P@10"),
            ("image->image", "P@10"),
            ("text->image", "R@10"),
            ("image->text", "R@10"),
        ):
            if measure in self.after.get(direction, {}):
                return direction, measure
        return next(((d, m) for d, found in self.after.items() for m in found), ("", ""))

    def to_json(self) -> dict[str, Any]:
        """Plain data: all but the vectors and the thumbnails; what is no number is None."""
        from bowerbird.learn.report_findings import by_class, gap_before_and_after, measured_on, reservations

        gaps = gap_before_and_after(self.held)
        plain = {
            **{
                name: getattr(self, name)
                for name in ("recipe", "settings", "source", "models", "counts", "problems", "seconds")
            },
            "directory": str(self.directory),
            "dropped": [{"name": name, "reason": reason} for name, reason in self.dropped],
            "copies": [asdict(one) for one in self.copies],
            "history": [vars(epoch) for epoch in self.history],
            "steps": self.steps,
            "best": self.best,
            "stopped": self.stopped,
            "choice": [vars(one) for one in self.choice],
            "before": _plain_figures(self.before),
            "after": _plain_figures(self.after),
            "held_out": self.held_out,
            "held_out_of": self.held_out_of,
            "measured_on": measured_on(self),
            "reservations": reservations(self),
            "gap": {
                state: None
                if found is None
                else {"distance": found.distance, "separability": found.separability}
                for state, found in zip(("before", "after"), gaps, strict=True)
            },
            "classes": [vars(one) for one in by_class(self.held)],
            "versions": self.versions,
            "made": self.made,
        }
        found: dict[str, Any] = finite(plain)
        return found

    def page(self, *, method: str = "pca") -> str:
        """One HTML page that needs nothing else.

        Args:
            method: of the maps; see `bowerbird.judge.projection.flat`.

        Raises:
            MissingExtraError: UMAP was asked for, and is not installed.
        """
        from bowerbird.learn.report_page import report_page

        return report_page(self, method=method)


def read_report(directory: str | Path) -> Report:
    """Read what a run left in the directory of its model.

    What an older run did not write is empty; without `fit.npz` there is no held-out set.

    Raises:
        LearnError: there is no fitted model, or its files are damaged or of a later version.
    """
    place = Path(directory).expanduser()
    data = _facts(place)
    keys = Keys(place / FACTS, data)
    part, counts = keys.text("held_out") or "test", _counts(keys.mapping("counts"))
    figures = [_figures(keys.mapping(state)) for state in ("before", "after")]
    report = Report(
        directory=place,
        recipe=keys.text("recipe"),
        settings=keys.mapping("settings"),
        source=keys.text("source"),
        models={name: str(value) for name, value in keys.mapping("models").items() if value},
        counts=counts,
        dropped=tuple((str(one.get("name", "")), str(one.get("reason", ""))) for one in keys.rows("dropped")),
        problems=tuple(map(str, keys.listed("problems"))),
        copies=tuple(map(_copy, keys.rows("copies"))),
        seconds={name: number(value) for name, value in keys.mapping("seconds").items()},
        history=tuple(_epoch(one, place_) for place_, one in enumerate(keys.rows("history"), 1)),
        steps=tuple(map(number, keys.listed("steps"))),
        best=_count(data.get("best")),
        stopped=keys.text("stopped"),
        choice=tuple(map(_try, keys.rows("choice"))),
        before=figures[0],
        after=figures[1],
        held_out=part,
        held_out_of=({"pictures": counts[part]} if part in counts else {})
        | _counts(keys.mapping("held_out_of")),
        versions={name: str(value) for name, value in keys.mapping("versions").items()},
        made=keys.text("made"),
        held=None,
    )
    held = read_held(place, keys)
    if held is None:
        return report
    there = {"pictures": len(held.pictures), "texts": len(held.texts)}
    return replace(report, held=held, held_out_of={**there, **report.held_out_of})


def mapping(value: object) -> Mapping[str, Any]:
    """An object of a JSON file; empty for anything else."""
    return value if isinstance(value, dict) else {}


def number(value: object) -> float:
    """A number of a JSON file; NaN for anything else."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else UNKNOWN


def _facts(place: Path) -> dict[str, Any]:
    if not place.is_dir():
        raise LearnError(f"There is no directory {place}.", hint="Give that of a model that was fitted.")
    file = place / FACTS
    try:
        data = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise LearnError(
            f"{place} is no fitted model: it has no {FACTS}.",
            hint="`bowerbird fit pairs.csv -o my-model/` makes one that has.",
        ) from None
    except OSError as error:
        raise LearnError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise damaged(file, f"it is no JSON ({error})") from error
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise damaged(file, "it does not say its format")
    if data["format"] != FORMAT:
        raise LearnError(
            f"{file} is of format {data['format']}, which this version of bowerbird does not know.",
            hint="Update bowerbird, or fit again.",
        )
    return data


def _figures(found: Mapping[str, Any]) -> dict[str, dict[str, Figure]]:
    return {
        direction: {measure: _figure(value) for measure, value in measures.items()}
        for direction, measures in found.items()
        if isinstance(measures, dict)
    }


def _figure(value: object) -> Figure:
    if isinstance(value, dict):
        return Figure(number(value.get("mean")), number(value.get("low")), number(value.get("high")))
    return Figure(number(value))


def _epoch(one: Mapping[str, Any], place: int) -> Epoch:
    return Epoch(
        _count(one.get("epoch"), place),
        number(one.get("loss")),
        {str(name): number(value) for name, value in mapping(one.get("metrics")).items()},
        number(one.get("seconds")),
        number(one.get("lr")),
        _count(one.get("step")),
    )


def _try(one: Mapping[str, Any]) -> Try:
    figure = number(one.get("figure"))
    return Try(
        str(one.get("recipe", "")),
        str(one.get("measure", "")),
        figure if math.isfinite(figure) else None,
        number(one.get("seconds")),
        str(one.get("why", "")),
    )


def _copy(one: Mapping[str, Any]) -> Copy:
    names, removed = (tuple(str(part) for part in one.get(name) or ()) for name in ("names", "removed"))
    return Copy(names, number(one.get("cosine")), str(one.get("part") or ""), removed)


def _counts(found: Mapping[str, Any]) -> dict[str, int]:
    return {name: _count(value) for name, value in found.items() if math.isfinite(number(value))}


def _count(value: object, absent: int = 0) -> int:
    """A whole number of a JSON file."""
    found = number(value)
    return int(found) if math.isfinite(found) else absent


def _plain_figures(figures: Figures) -> dict[str, Any]:
    return {
        direction: {m: vars(figure) for m, figure in found.items()} for direction, found in figures.items()
    }
