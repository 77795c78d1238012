"""A model against reference arrays, stage by stage, and against itself where there are none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import EngineError, InputError, ModelFormatError
from bowerbird.judge.compare import (
    DIFFERS,
    EQUAL,
    FP32,
    NOT_FINITE,
    PIXELS,
    Bound,
    Difference,
    StageReport,
    compare,
    cosine_bound,
    first_difference,
)
from bowerbird.judge.diagnose import (
    Diagnosis,
    diagnose_decoded,
    diagnose_not_finite,
    diagnose_other_model,
    diagnose_pixels,
    diagnose_pooling,
    diagnose_refusal,
    diagnose_tokens,
    diagnose_vectors,
)
from bowerbird.judge.faults import Feeds
from bowerbird.judge.golden import FILE_NAME, Golden, PictureGolden, TextGolden, pixels_sha256
from bowerbird.judge.report import Given, Problem, Reference, Report
from bowerbird.judge.selfcheck import problem_of, self_checks, short_name, user_bound
from bowerbird.judge.walk import PictureWalk, TextWalk
from bowerbird.media.image import DecodePolicy, Picture, from_array, read_bytes
from bowerbird.models.encoder import Encoder, Outcome, load, unit_outcome
from bowerbird.models.network.precision import probe_pictures
from bowerbird.models.vision.tower import Input

Array: TypeAlias = NDArray[Any]


def verify(
    model: Encoder | str,
    golden: Golden | Path | None = None,
    inputs: Iterable[Input] = (),
    *,
    checks: bool = True,
) -> Report:
    """Hold a model against the original, stage by stage.

    Every stage is first compared `alone`, fed with what the reference has before it, so that one fault does not smear
    over all that follows; then the whole way `through`, in `exact` and in the precision of `model`. Where there are
    no reference arrays, the model is only held against itself: its engine and precision against fp32 in ONNX Runtime,
    one input at a time against a batch, scaled decode against full decode.

    Args:
        model: an encoder or a model's name; its precision and engine are the user's.
        golden: reference arrays or their file; None takes the `golden.npz` that the model directory carries.
        inputs: picture files of the reference, found by their bytes, then by their name; or texts. The photographs
            that ship with Bowerbird are always found. Without a reference: what to check the model on.
        checks: also hold the model against itself.

    Raises:
        BowerbirdError: the model or the file cannot be read. Inputs that fail are reported at their own place.
    """
    encoder = load(model) if isinstance(model, str) else model
    exact = exact_of(encoder)
    path = golden if isinstance(golden, Path) else None
    if golden is None and (encoder.card.directory / FILE_NAME).is_file():
        path = encoder.card.directory / FILE_NAME
    reference = Golden.read(path) if path else golden if isinstance(golden, Golden) else None
    judge = _Judge(encoder, exact, reference)
    judge.compare_profiles()
    judge.take(list(inputs))
    if judge.is_other_model():
        return judge.report(path)
    if reference is not None:
        judge.pictures(reference.pictures)
        judge.texts(reference.texts)
    if checks or reference is None:
        judge.checks, problems = self_checks(exact, encoder, judge.given)
        judge.problems += problems
    return judge.report(path)


def exact_of(encoder: Encoder) -> Encoder:
    """The same model in fp32 in ONNX Runtime, with full decode; itself where it is that already."""
    if encoder.precision == "exact" and encoder.engine in ("auto", "onnxruntime"):
        return encoder
    return Encoder(encoder.card, precision="exact", engine="onnxruntime", threads=encoder.threads)


@dataclass
class _Judge:
    """Collects stages, checks and problems of one run."""

    user: Encoder
    exact: Encoder
    golden: Golden | None
    stages: list[StageReport] = field(default_factory=list)
    checks: list[StageReport] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    explain: dict[int, Callable[[], Diagnosis]] = field(default_factory=dict)
    given: list[Input] = field(default_factory=list)
    known: list[Given] = field(default_factory=list)
    other: Diagnosis | None = None
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    # What was given.

    def compare_profiles(self) -> None:
        """Say so when the reference was made under another profile than the user asked for."""
        theirs = str(self.golden.meta.get("profile", "")) if self.golden else ""
        ours = self.user.card.options.profile
        if ours and theirs and ours != theirs:
            message = f"It was made under the profile {theirs}, and the model is read under {ours}."
            self.problems.append(Problem("the reference", message))

    def take(self, inputs: Sequence[Input]) -> None:
        """Read the files that were given, and find them in the reference."""
        wanted = self.golden.pictures if self.golden else ()
        self.files = {_sha256(data): ("", data) for data in probe_pictures()}
        paths = [value for value in inputs if isinstance(value, Path)]
        texts = [value for value in inputs if isinstance(value, str)]
        others = [value for value in inputs if not isinstance(value, (Path, str))]
        known_paths = sum([self._take_file(path, wanted) for path in paths])
        if self.golden is None:
            self.given += [*texts, *others]
            return
        self.given += others
        known = {text.text for text in self.golden.texts}
        self.problems += [
            Problem(
                short_name(text), "The reference has no arrays of it: it was not compared with the original."
            )
            for text in texts
            if text not in known
        ]
        counted = (
            Given("picture", len(paths), known_paths),
            Given("text", len(texts), sum(text in known for text in texts)),
        )
        self.known = [given for given in counted if given.count]

    def is_other_model(self) -> bool:
        """Whether the vectors of the reference are of another length: then no stage could say anything."""
        if self.golden is None:
            return False
        lengths: list[tuple[set[int], int]] = []
        if self.exact.card.image:
            lengths.append(({len(picture.unit) for picture in self.golden.pictures}, _width(self.exact)))
        if self.exact.card.text:
            lengths.append(({len(text.unit) for text in self.golden.texts}, self.exact.text.dimensions))
        for theirs, ours in lengths:
            if theirs and theirs != {ours}:
                self.other = diagnose_other_model(theirs, ours)
                return True
        return False

    def _take_file(self, path: Path, wanted: Sequence[PictureGolden]) -> bool:
        """Keep a file for the picture of the reference that it is, or for the checks; whether it is one."""
        tower = self.exact.card.image
        try:
            data = read_bytes(path, tower.decode if tower else DecodePolicy())
        except InputError as error:
            self.problems.append(Problem(str(path), str(error)))
            return False
        digest = _sha256(data)
        if any(picture.sha256 == digest for picture in wanted):
            self.files[digest] = (str(path), data)
            return True
        self.given.append(path)
        named = next((picture for picture in wanted if picture.name == path.name), None)
        if named is not None:
            self.files[named.sha256] = (str(path), data)
            self.problems.append(
                Problem(
                    str(path),
                    "Other bytes than the picture of that name in the reference; compared all the same.",
                )
            )
        elif self.golden:
            message = "The reference has no arrays of it: it was not compared with the original."
            self.problems.append(Problem(str(path), message))
        return named is not None

    # Pictures.

    def pictures(self, pictures: Sequence[PictureGolden]) -> None:
        """All stages of the pictures of the reference."""
        if not pictures:
            return
        if self.exact.card.image is None:
            self._lacks("pictures", len(pictures))
            return
        walk = PictureWalk(self.exact.image)
        decoded = self._decoded(walk, pictures)
        prepared = self._pixel_values(walk, pictures, decoded)
        self._picture_network(walk, pictures, prepared)
        sources: list[Input | None] = [
            self.files[picture.sha256][1] if picture.sha256 in self.files else picture.decoded
            for picture in pictures
        ]
        self._through("image", pictures, sources, lambda encoder, some: encoder.outcomes(some))

    def _decoded(self, walk: PictureWalk, pictures: Sequence[PictureGolden]) -> dict[int, Picture]:
        """Compare decoded files; gives the picture that the next stage starts from, the reference's where it has it."""
        found: dict[int, Picture] = {}
        items, differing = [], []
        for number, picture in enumerate(pictures):
            if picture.decoded is not None:
                found[number] = from_array(picture.decoded, picture.name)
            if picture.sha256 not in self.files:
                continue
            data = self.files[picture.sha256][1]
            try:
                own = walk.side.open(data, picture.name)
            except InputError as error:
                self.problems.append(Problem(picture.name, str(error), fails=True))
                continue
            items.append(_compare_decoded(picture, np.asarray(own.image)))
            if items[-1].verdict == DIFFERS:
                differing.append((data, picture.decoded, picture.decoded_sha256))
            found.setdefault(number, own)
        missing = len(pictures) - len(items)
        note = f"{missing} without a file start from the reference's pixels" if missing else ""
        explain = partial(diagnose_decoded, walk.recipe, differing, walk.recipe.steps.target)
        self._add("image", "decoded", "alone", EQUAL, items, note, explain=explain)
        return found

    def _pixel_values(
        self, walk: PictureWalk, pictures: Sequence[PictureGolden], decoded: dict[int, Picture]
    ) -> dict[int, Feeds]:
        """Compare what the network takes; gives all of it, as our own steps make it."""
        found: dict[int, Feeds] = {}
        items, differing = [], []
        for number, picture in decoded.items():
            reference = pictures[number]
            try:
                found[number] = walk.recipe.prepare(picture)
            except InputError as error:
                self.problems.append(Problem(reference.name, str(error), fails=True))
                continue
            values = found[number]["pixel_values"][0]
            items.append(compare(reference.name, values, reference.pixel_values, PIXELS))
            if items[-1].verdict == DIFFERS:
                differing.append((picture, reference.pixel_values))
        explain = partial(diagnose_pixels, walk.recipe, differing)
        self._add("image", "pixel values", "alone", PIXELS, items, explain=explain)
        return found

    def _picture_network(
        self, walk: PictureWalk, pictures: Sequence[PictureGolden], own: dict[int, Feeds]
    ) -> None:
        """The network fed with the reference's pixel values, then the reference's pooled vector made a unit one."""
        if walk.takes_levels:
            note = "the graph takes 8-bit levels, so it cannot be fed with pixel values"
            self._add("image", "pooled", "alone", self._bound("pooled"), [], note)
            return
        raw: list[Difference] = []
        pooled: list[Difference] = []
        explanations: list[Callable[[], Diagnosis]] = []
        for number, picture in enumerate(pictures):
            # What the network takes beside the values, such as a mask of patches, comes from our own steps.
            prepared = {**own.get(number, {}), "pixel_values": picture.pixel_values[None]}
            start = None
            try:
                if picture.raw is not None and (name := walk.raw_output(picture.raw)):
                    (values,) = walk.run(prepared, (name,))
                    raw.append(compare(picture.name, values[0], picture.raw, self._bound("raw")))
                    start = picture.raw if name == walk.tensor else None
                vector = walk.embed(prepared)[0] if start is None else walk.pool(start[None])[0]
            except EngineError as error:
                pooled.append(_refused(picture.name, error))
                explanations.append(partial(diagnose_refusal, str(error)))
                continue
            pooled.append(compare(picture.name, vector, picture.pooled, self._bound("pooled")))
            if pooled[-1].verdict == DIFFERS:
                explanations.append(partial(diagnose_vectors, vector, picture.pooled))
        kept = any(picture.raw is not None for picture in pictures)
        self._add("image", "raw", "alone", self._bound("raw"), raw, "" if raw else _no_raw(kept))
        self._add("image", "pooled", "alone", self._bound("pooled"), pooled, explain=_first(explanations))
        unit = [_unit(picture.name, picture.pooled, picture.unit) for picture in pictures]
        self._add("image", "unit", "alone", FP32, unit)

    # Texts.

    def texts(self, texts: Sequence[TextGolden]) -> None:
        """All stages of the texts of the reference."""
        if not texts:
            return
        if self.exact.card.text is None:
            self._lacks("texts", len(texts))
            return
        walk = TextWalk(self.exact.text)
        texts = [text for text in texts if self._is_known_role(walk, text)]
        tokens: list[Difference] = []
        explanations: list[Callable[[], Diagnosis]] = []
        for text in texts:
            ids = walk.ids(text.text, text.role)
            tokens.append(compare(short_name(text.text), ids, text.input_ids, EQUAL))
            if tokens[-1].verdict == DIFFERS:
                explanations.append(partial(diagnose_tokens, walk, text.text, text.role, text.input_ids))
        self._add("text", "tokens", "alone", EQUAL, tokens, explain=_first(explanations))
        self._text_network(walk, texts)
        self._through("text", texts, [text.text for text in texts], self._embed_texts(texts))

    def _is_known_role(self, walk: TextWalk, text: TextGolden) -> bool:
        try:
            walk.tokens(text.text, text.role)
        except InputError as error:
            self.problems.append(Problem(short_name(text.text), str(error), fails=True))
            return False
        return True

    def _text_network(self, walk: TextWalk, texts: Sequence[TextGolden]) -> None:
        """The network fed with the reference's token ids, then the reference's pooled vector made a unit one."""
        raw: list[Difference] = []
        pooled: list[Difference] = []
        explanations: list[Callable[[], Diagnosis]] = []
        for text in texts:
            name = short_name(text.text)
            tokens = walk.fed_with(text.input_ids, text.text, text.role)
            vector = None
            try:
                if text.raw is not None and (hidden := walk.raw(tokens, text.raw)) is not None:
                    raw.append(compare(name, hidden, text.raw, self._bound("raw")))
                    vector = walk.pool(text.raw, tokens)
                vector = walk.embed(tokens) if vector is None else vector
            except (
                EngineError,
                ModelFormatError,
            ) as error:  # ids the network does not have, or too many of them
                pooled.append(_refused(name, error))
                explanations.append(partial(diagnose_refusal, str(error)))
                continue
            pooled.append(compare(name, vector, text.pooled, self._bound("pooled")))
            if pooled[-1].verdict == DIFFERS:
                given = (text.text, text.role, text.input_ids, text.pooled)
                explanations.append(partial(diagnose_pooling, walk, *given))
        kept = any(text.raw is not None for text in texts)
        self._add("text", "raw", "alone", self._bound("raw"), raw, "" if raw else _no_raw(kept))
        self._add("text", "pooled", "alone", self._bound("pooled"), pooled, explain=_first(explanations))
        unit = [_unit(short_name(text.text), text.pooled, text.unit) for text in texts]
        self._add("text", "unit", "alone", FP32, unit)

    def _embed_texts(self, texts: Sequence[TextGolden]) -> Callable[[Encoder, list[Input]], list[Outcome]]:
        roles = [text.role for text in texts]

        def embed(encoder: Encoder, some: list[Input]) -> list[Outcome]:
            """Each role is a call of its own."""
            found: list[Outcome] = [Outcome(number) for number in range(len(some))]
            for role in dict.fromkeys(roles):
                rows = [number for number, own in enumerate(roles) if own == role]
                for row, outcome in zip(
                    rows, encoder.outcomes([some[row] for row in rows], role=role), strict=True
                ):
                    found[row] = outcome
            return found

        return embed

    # Both.

    def _lacks(self, what: str, count: int) -> None:
        message = f"The reference has {count} {what}, and the model takes none: is a graph of it missing?"
        self.problems.append(Problem(what, message, fails=True))

    def _through(
        self,
        tower: str,
        items: Sequence[PictureGolden | TextGolden],
        sources: Sequence[Input | None],
        embed: Callable[[Encoder, list[Input]], list[Outcome]],
    ) -> None:
        """From the file or text to the unit vector, as a user's call goes, in `exact` and in the user's precision."""
        kept = [(item, source) for item, source in zip(items, sources, strict=True) if source is not None]
        runs = {"exact": self.exact, self.user.precision: self.user}
        failed: set[str] = set()
        for precision, encoder in runs.items():
            bound = self._bound("unit") if precision == "exact" else user_bound(self.user, tower)
            found = []
            for (item, _), outcome in zip(kept, embed(encoder, [source for _, source in kept]), strict=True):
                name = item.name if isinstance(item, PictureGolden) else short_name(item.text)
                if outcome.vector is None and name not in failed:
                    failed.add(name)
                    self.problems.append(replace(problem_of(name, outcome.error, encoder), fails=True))
                elif outcome.vector is not None:
                    found.append(compare(name, outcome.vector, item.unit, bound))
            self._add(tower, "unit", "through", bound, found, precision=precision)

    def _bound(self, stage: str) -> Bound:
        own = self.golden.bound(stage) if self.golden else None
        if own is None or self.golden is None:
            return FP32
        return cosine_bound(own, str(self.golden.meta.get("why_bound", "the reference's own bound")))

    def _add(
        self,
        tower: str,
        stage: str,
        run: str,
        bound: Bound,
        items: Sequence[Difference],
        note: str = "",
        *,
        precision: str = "exact",
        explain: Callable[[], Diagnosis] | None = None,
    ) -> None:
        if any(item.note == NOT_FINITE for item in items):
            explain = diagnose_not_finite
        if explain is not None:
            self.explain[len(self.stages)] = explain
        self.stages.append(StageReport(tower, stage, run, precision, bound, tuple(items), note))

    # The end.

    def report(self, path: Path | None) -> Report:
        """Put everything together and explain the first difference."""
        first = first_difference((*self.stages, *self.checks))
        explain = self.explain.get(self.stages.index(first)) if first in self.stages else None
        golden = self.golden
        reference = golden and Reference(
            str(path or ""),
            golden.model,
            str(golden.meta.get("profile", "")),
            golden.made_with,
            len(golden.pictures),
            len(golden.texts),
        )
        return Report(
            model=self.user.card.name,
            space=self.user.card.space,
            reference=reference or None,
            precision=self.user.precision,
            numerics={"exact": self.exact.numerics(), self.user.precision: self.user.numerics()},
            stages=tuple(self.stages),
            checks=tuple(self.checks),
            problems=tuple(dict.fromkeys(self.problems)),
            given=tuple(self.known),
            first=first,
            diagnosis=explain() if explain else self.other,
        )


def _width(encoder: Encoder) -> int:
    """Numbers of a picture's vector."""
    return encoder.image.dimensions(encoder.image.tower.output)


def _compare_decoded(picture: PictureGolden, ours: NDArray[np.uint8]) -> Difference:
    if picture.decoded is not None:
        return compare(picture.name, ours, picture.decoded, EQUAL)
    if pixels_sha256(ours) == picture.decoded_sha256:
        return compare(picture.name, ours, ours, EQUAL)
    note = "the reference keeps only the hash of the pixels, and it is another"
    return Difference(picture.name, 0.0, float("inf"), 0, ours.size, None, DIFFERS, note)


def _unit(name: str, pooled: Array, unit: Array) -> Difference:
    """The reference's pooled vector, scaled here, against its own unit vector."""
    outcome = unit_outcome(0, pooled)
    return compare(name, pooled if outcome.vector is None else outcome.vector, unit, FP32)


def _refused(name: str, error: Exception) -> Difference:
    return Difference(name, 0.0, float("inf"), 0, 0, None, DIFFERS, str(error))


def _first(explanations: Sequence[Callable[[], Diagnosis]]) -> Callable[[], Diagnosis] | None:
    return explanations[0] if explanations else None


def _no_raw(kept: bool) -> str:
    return "the graph has no such output" if kept else "not in the reference"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
