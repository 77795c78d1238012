"""A model against itself: what can be checked without the original's arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias

from bowerbird.errors import DecodeError, InputError, UnreadableError, UnsupportedInputError
from bowerbird.judge.compare import BATCHES, Bound, StageReport, compare, cosine_bound
from bowerbird.judge.report import Problem
from bowerbird.judge.walk import PictureWalk
from bowerbird.models.encoder import Encoder, Outcome, unit_outcome
from bowerbird.models.network.precision import AUTO_BOUND, probe_sentences
from bowerbird.models.vision.tower import Input

Found: TypeAlias = Mapping[int, Outcome]
"""Row of an input -> what became of it."""


def user_bound(user: Encoder, tower: str) -> Bound:
    """What the user's precision may cost: the bound it is chosen by, or what was measured of it if that is less."""
    choice = user.image.choice if tower == "image" else user.text.choice
    least, reason = AUTO_BOUND, f"bound of {user.precision}"
    if choice.drift < least:
        least, reason = choice.drift, f"measured drift of {user.precision}"
    image = user.card.image
    if tower == "image" and image and user.image.decode.scaled and image.scaled_cosine < least:
        least, reason = image.scaled_cosine, "JPEG at reduced scale"
    return cosine_bound(least, reason)


def self_checks(
    exact: Encoder, user: Encoder, given: Sequence[Input]
) -> tuple[list[StageReport], list[Problem]]:
    """One input at a time against a batch, the user's precision against `exact`, scaled decode against full decode.

    Args:
        exact: the model in fp32 in ONNX Runtime.
        user: the model as the user runs it.
        given: inputs of the user; the shipped photographs and sentences are added.
    """
    checks: list[StageReport] = []
    problems: list[Problem] = []
    shipped = sorted(Path(str(files("bowerbird.models") / "probe")).glob("*.jpg"))
    inputs: dict[str, list[Input]] = {
        "image": [*(value for value in given if not isinstance(value, str)), *shipped]
        if exact.card.image
        else [],
        "text": [*(value for value in given if isinstance(value, str)), *probe_sentences()]
        if exact.card.text
        else [],
    }
    for tower, values in inputs.items():
        if values:
            _Check(tower, exact, user, values, shipped, checks, problems).run()
    return checks, problems


class _Check:
    """The checks of one tower."""

    def __init__(
        self,
        tower: str,
        exact: Encoder,
        user: Encoder,
        inputs: list[Input],
        shipped: Sequence[Input],
        checks: list[StageReport],
        problems: list[Problem],
    ) -> None:
        self.tower, self.exact, self.user, self.inputs = tower, exact, user, inputs
        self.checks, self.problems = checks, problems
        self.names = [input_name(value, shipped) for value in inputs]
        together = exact.outcomes(inputs)
        self.problems += [
            problem_of(name, outcome.error, exact)
            for name, outcome in zip(self.names, together, strict=True)
            if outcome.error is not None
        ]
        self.right: Found = {
            row: outcome for row, outcome in enumerate(together) if outcome.vector is not None
        }

    def run(self) -> None:
        """All of them."""
        singly = {row: self.exact.outcomes([self.inputs[row]])[0] for row in self.right}
        self._add("alone or in a batch", BATCHES, singly)
        if self.user.precision == "exact":
            return
        mine = dict(enumerate(self.user.outcomes(self.inputs)))
        label = f"{self.user.precision} or exact"
        self._add(label, user_bound(self.user, self.tower), {row: mine[row] for row in self.right})
        if self.tower == "image" and self.user.image.decode.scaled is not None:
            self._scaled_decode()

    def _scaled_decode(self) -> None:
        """Scaled decode alone, in fp32: only of pictures large enough for it."""
        walk = PictureWalk(self.exact.image)
        found: dict[int, Outcome] = {}
        for row in self.right:
            try:
                picture = self.user.image.open(self.inputs[row])
            except InputError:
                continue  # reported when it was embedded
            if picture.scale > 1:
                found[row] = unit_outcome(row, walk.embed(walk.recipe.prepare(picture))[0])
        bound = cosine_bound(self.exact.image.tower.scaled_cosine, "JPEG at reduced scale")
        self._add("scaled or full decode", bound, found, "" if found else "no JPEG is large enough")

    def _add(self, label: str, bound: Bound, ours: Found, note: str = "") -> None:
        items = []
        for row, outcome in ours.items():
            right = self.right[row].vector
            if outcome.vector is None:
                self.problems.append(problem_of(self.names[row], outcome.error, self.user))
            elif right is not None:
                items.append(compare(self.names[row], outcome.vector, right, bound))
        self.checks.append(
            StageReport(self.tower, label, "check", self.user.precision, bound, tuple(items), note)
        )


def short_name(text: str) -> str:
    """A text as a name: on one line, not too long, visible when empty."""
    line = " ".join(text.split())
    return f'"{line[:28]}…"' if len(line) > 30 else f'"{line}"'


def input_name(value: Input, shipped: Sequence[Input] = ()) -> str:
    """What a report calls an input; the photographs that are `shipped` go by their name alone, as in a reference."""
    if isinstance(value, str):
        return short_name(value)
    if isinstance(value, Path) and value in shipped:
        return value.name
    return str(value) if isinstance(value, Path) else f"picture given as {type(value).__name__}"


def problem_of(name: str, error: InputError | None, encoder: Encoder) -> Problem:
    """Why there is no vector: an input that cannot be taken is the user's fault, and any other failure the model's."""
    fails = not isinstance(error, (UnreadableError, DecodeError, UnsupportedInputError))
    if error and fails and encoder.precision == "exact":
        # The hint is to try `exact`, which is what has just failed.
        return Problem(name, error.message, fails=True)
    return Problem(name, str(error), fails=fails)
