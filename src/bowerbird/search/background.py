"""What unrelated pairs score under a model in an index: samples of its columns and neutral questions.

It is measured without labels, from a sample whose size does not grow with the index, and kept beside the manifest:
the vectors in one `.npz` file, whose name has its hash, the rest in `ModelEntry.calibration`.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.errors import IndexDamagedError, SpaceMismatchError
from bowerbird.record import Modality
from bowerbird.search import gap
from bowerbird.search.evidence import (
    BEST,
    PRIOR,
    SIGMAS,
    Floats,
    Group,
    Pair,
    fitted,
    groups_of,
    standardised,
)
from bowerbird.search.gap import ENOUGH, Correction, Vectors, centred
from bowerbird.settings import settings
from bowerbird.store.filters import And, IsNull, Not
from bowerbird.store.manifest import CALIBRATIONS, ModelEntry, now
from bowerbird.store.table import VectorColumn

if TYPE_CHECKING:
    from bowerbird.models.card import Calibration
    from bowerbird.models.encoder import Encoder
    from bowerbird.search.index import Index
    from bowerbird.store.location import Location
    from bowerbird.store.table import Table

FORMAT = 1
SAMPLE = 1024
"""Rows of each column that questions are compared with."""

OWN = 256
"""Of these, so many ask in their turn, to find out what pairs in this index are like."""

QUERY_TEXTS = "query:text"
NEUTRAL_TEXTS = "neutral:text"

NOTHING = np.zeros((0, 0), np.float32)

SAME = 0.9999
"""A cosine of a question and a row of a sample above this: the row is the question itself, or its copy."""


@lru_cache(maxsize=1)
def bank() -> tuple[str, ...]:
    """Neutral questions: short queries about all sorts of things, most of which an index does not hold."""
    lines = (Path(__file__).parent / "bank.txt").read_text("utf-8").splitlines()
    return tuple(line for line in lines if line)


@dataclass(frozen=True)
class Found:
    """What the best results of a question say.

    Attributes:
        presence: whether there is anything of the kind, 0 to 1.
        level: the mean score of those that say so, and of the best one.
    """

    presence: float
    level: float


@dataclass(frozen=True)
class Background:
    """What is known of unrelated pairs under one model.

    Attributes:
        space: fingerprint of the model.
        records: how many the index had at the time.
        correction: of the modality gap.
        pairs: by kind of question (`text`, `image`) and name of the column.
        arrays: samples by name of the column, float32 (n, dim); `query:text`, the mean of queries, and
            `neutral:text`, the neutral ones.
        made: when, ISO 8601.
        sigmoid: scale and bias of a model that was trained with a sigmoid for each pair (SigLIP, arXiv 2303.15343):
            `1 / (1 + exp(-(scale * cosine + bias)))` is the probability that a text and a picture belong together.
        labels: what was learned from labelled pairs; see `bowerbird.search.labels`.
    """

    space: str
    records: int
    correction: Correction
    pairs: Mapping[tuple[str, str], Pair]
    arrays: Mapping[str, Vectors]
    made: str = ""
    sigmoid: tuple[float, float] | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    _centred: dict[str, Vectors] = field(default_factory=dict, repr=False, compare=False)

    def pair(self, kind: str, column: VectorColumn) -> Pair:
        """What is known of a kind of question and a column; nothing in particular where nothing was measured."""
        return self.pairs.get((kind, column.name)) or Pair()

    def centre(self, column: VectorColumn) -> Vectors | None:
        """What the rows of a column are moved by; None where the gap is not corrected, or the column is beside it."""
        return self.arrays.get(f"mean:{column.name}") if self.correction.on else None

    def query_centre(self, modality: str, column: VectorColumn) -> Vectors | None:
        """What questions of a modality are moved by before they are asked of a column."""
        if self.centre(column) is None:
            return None
        return self.arrays.get(QUERY_TEXTS if modality == Modality.TEXT else "query:image")

    def sample(self, column: VectorColumn) -> Vectors:
        """Rows of a column as they are compared: moved, where the gap is corrected."""
        found = self._centred.get(column.name)
        if found is None:
            rows = self.arrays.get(column.name)
            centre = self.centre(column)
            found = np.zeros((0, column.dimensions), np.float32) if rows is None else rows
            found = found if centre is None else centred(found, centre)
            self._centred[column.name] = found
        return found

    def evidence(self, kind: str, column: VectorColumn, vector: Vectors, scores: Floats) -> Floats:
        """How far scores stand out from those of unrelated pairs; see `bowerbird.search.evidence`.

        Args:
            kind: of the question.
            column: that was asked.
            vector: float32 (dim,): the question as it was asked, so moved where the gap is corrected.
            scores: (n,) of the same.
        """
        pair = self.pair(kind, column)
        background = self.sample(column) @ vector
        return pair.evidence(standardised(scores, background[background < SAME], pair))

    def presence(self, kind: str, column: VectorColumn, scores: Floats, rows: Vectors, raw: float) -> Found:
        """Whether the best results are more than any other question would find.

        Args:
            kind: of the question.
            column: that was asked.
            scores: (n,): of its best results, as they were asked, best first.
            rows: float32 (n, dim): their vectors, moved where the gap is corrected.
            raw: raw score of the best one.
        """
        if not len(scores):
            return Found(0.0, 1.0)
        if self.sigmoid and kind == Modality.TEXT and column.modality == Modality.IMAGE:
            scale, bias = self.sigmoid
            odds = max(-700.0, min(700.0, scale * raw + bias))
            return Found(1 / (1 + math.exp(-odds)), float(scores[0]))
        pair = self.pair(kind, column)
        standing = -np.sort(-_standing(scores, rows, self.neutral(kind, column), pair))
        presence, count = pair.presence(standing)
        # Half way up to the very best: what was asked for may be it alone, though ten say that it has a place here.
        return Found(presence, float(np.mean(scores[:count]) + scores[0]) / 2)

    def neutral(self, kind: str, column: VectorColumn) -> Vectors | None:
        """Neutral questions as a column is asked them; None for pictures, of which there are too few."""
        rows = self.arrays.get(NEUTRAL_TEXTS) if kind == Modality.TEXT else None
        centre = self.query_centre(kind, column)
        if rows is None or centre is None:
            return rows
        key = f"{NEUTRAL_TEXTS} {column.name}"
        if key not in self._centred:
            self._centred[key] = centred(rows, centre)
        return self._centred[key]

    def save(self, location: Location) -> dict[str, Any]:
        """Write the vectors beside the manifest; what the manifest says of them is returned."""
        buffer = io.BytesIO()
        kept = {name: array.astype(np.float16) for name, array in self.arrays.items()}
        np.savez(buffer, **kept)  # type: ignore[arg-type]  # of its stubs: names are free
        data = buffer.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        name = f"{CALIBRATIONS}{self.space[:8]}-{digest[:12]}.npz"
        location.replace(name, data)
        return {
            "format": FORMAT,
            "space": self.space,
            "records": self.records,
            "made": self.made,
            "file": name,
            "sha256": digest,
            "correction": asdict(self.correction),
            "pairs": [
                {"query": kind, "column": column, **pair.to_dict()}
                for (kind, column), pair in self.pairs.items()
            ],
            "sigmoid": list(self.sigmoid) if self.sigmoid else None,
            "labels": dict(self.labels),
        }

    @classmethod
    def load(cls, location: Location, entry: ModelEntry) -> Background:
        """Read what was measured for a model of an index.

        Raises:
            SpaceMismatchError: it belongs to another model.
            IndexDamagedError: it cannot be read.
        """
        told = entry.calibration
        again = "Measure it again with: bowerbird calibrate"
        if told.get("space") != entry.space:
            raise SpaceMismatchError(
                f"The calibration of {entry.name} in {location} was made for the space {told.get('space')}, and the "
                f"model is of {entry.space}: its scores mean something else.",
                hint=again,
            )
        try:
            data = location.read_bytes(told["file"])
            if data is None or hashlib.sha256(data).hexdigest() != told["sha256"]:
                raise ValueError("missing" if data is None else "damaged")
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name].astype(np.float32) for name in file.files}
            pairs = {
                (found.pop("query"), found.pop("column")): Pair.of(found)
                for found in map(dict, told["pairs"])
            }
            scale = told.get("sigmoid")
            return cls(
                entry.space,
                int(told["records"]),
                Correction(**told["correction"]),
                pairs,
                arrays,
                str(told.get("made", "")),
                (float(scale[0]), float(scale[1])) if scale else None,
                dict(told.get("labels") or {}),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise IndexDamagedError(
                f"The calibration of {entry.name} in {location} cannot be read: {error}.", hint=again
            ) from error


def _standing(scores: Floats, rows: Vectors, neutral: Vectors | None, pair: Pair) -> Floats:
    """How far scores stand out from those of neutral questions: from all of them, and from those of the same row.

    Some rows are near to every question (hubs): compared with what others score there, they say less.

    Args:
        scores: (..., n).
        rows: float32 (..., n, dim), as they were asked.
        neutral: float32 (b, dim); None: there are too few to compare row by row.
        pair: of the questions and the column.
    """
    deviation = max(pair.deviation, 1e-6)
    overall: Floats = (np.asarray(scores, np.float64) - pair.neutral) / deviation
    if neutral is None:
        return overall
    there = rows @ neutral.T  # (..., n, b)
    rowwise: Floats = (scores - there.mean(-1)) / np.maximum(there.std(-1), deviation / 2)
    both: Floats = (overall + rowwise) / 2
    return both


def measure(index: Index, entry: ModelEntry, *, seed: int = 0) -> Background:
    """Find out what unrelated pairs score under a model of an index.

    Args:
        index: whose records are sampled.
        entry: of the model.
        seed: of the sample.
    """
    encoder, table = index.encoder(entry.space), index.table
    arrays = {column.name: _sampled(table, column, seed) for column in entry.columns}
    pictures = _shared(entry, encoder, Modality.IMAGE)
    texts = _shared(entry, encoder, Modality.TEXT)
    known = encoder.card.calibration
    correction = _correction(table, pictures, texts, arrays, seed, known)
    if encoder.card.text:
        arrays[NEUTRAL_TEXTS] = _neutral_texts(encoder)
    _add_means(arrays, pictures, texts, known)
    sigmoid = encoder.card.sigmoid or (pictures and _brought(known, len(arrays[pictures.name]))) or None
    found = Background(entry.space, len(index), correction, {}, arrays, now(), sigmoid)
    pairs: dict[tuple[str, str], Pair] = {}
    for kind, column in _asked(entry, encoder, pictures, texts):
        asking = arrays[NEUTRAL_TEXTS] if kind == "text" else _neutral_pictures(encoder, column, pictures)
        own = arrays.get(_own(kind, column, pictures, texts), np.zeros((0, column.dimensions), np.float32))
        total = table.count(Not(IsNull(column.norm)))
        pairs[kind, column.name] = _pair(found, kind, column, asking, own[:OWN], total)
    return replace(found, pairs=pairs)


def _sampled(table: Table, column: VectorColumn, seed: int) -> Vectors:
    found = table.sample([column.name], SAMPLE, seed=seed, where=Not(IsNull(column.norm)))
    return _rows(found, column)


def _rows(found: Any, column: VectorColumn) -> Vectors:
    """A column of an Arrow table as an array, float32 (n, dim)."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in found[column.name].chunks]
    flat = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    return flat.reshape(-1, column.dimensions).astype(np.float32, copy=False)


def _shared(entry: ModelEntry, encoder: Encoder, modality: Modality) -> VectorColumn | None:
    """The column of the output that pictures and texts share."""
    card = encoder.card
    tower = card.image if modality == Modality.IMAGE else card.text
    wanted = tower.output if tower else ""
    return next((c for c in entry.columns if c.modality == modality and c.output == wanted), None)


def _asked(
    entry: ModelEntry, encoder: Encoder, pictures: VectorColumn | None, texts: VectorColumn | None
) -> list[tuple[str, VectorColumn]]:
    """Which kinds of questions are asked of which columns."""
    card = encoder.card
    found: list[tuple[str, VectorColumn]] = []
    if card.text:
        found += [("text", column) for column in (pictures, texts) if column]
    if card.image:
        # Between pictures the output that compares them better, and the shared one in blends.
        found += [("image", column) for column in entry.columns if column.modality == Modality.IMAGE]
        found += [("image", texts)] if texts else []
    return found


def _own(kind: str, column: VectorColumn, pictures: VectorColumn | None, texts: VectorColumn | None) -> str:
    """The name of the column whose rows ask questions of a kind, as records of this index would."""
    if kind == column.modality:
        return column.name
    source = texts if kind == Modality.TEXT else pictures
    return source.name if source else ""


def _correction(
    table: Table,
    pictures: VectorColumn | None,
    texts: VectorColumn | None,
    arrays: Mapping[str, Vectors],
    seed: int,
    known: Calibration | None,
) -> Correction:
    if not pictures or not texts or pictures.dimensions != texts.dimensions:
        return Correction(False, "there is only one modality, so no gap to correct")
    where = And((Not(IsNull(pictures.norm)), Not(IsNull(texts.norm))))
    both = table.sample([pictures.name, texts.name], SAMPLE // 2, seed=seed, where=where)
    pair = (_rows(both, pictures), _rows(both, texts))
    return gap.decide(arrays[pictures.name], arrays[texts.name], pair, known)


def _brought(known: Calibration | None, rows: int) -> tuple[float, float] | None:
    """Scale and bias that a fitted model brings along, while there are too few pictures here to measure by.

    They were found among as many pairs that belong together as not. Here, if anything is there, one of all pictures is
    it: the odds fall by their number.
    """
    if not known or not known.match or not 0 < rows < ENOUGH:
        return None
    slope, bias = known.match
    return slope, bias - math.log(rows)


def _add_means(
    arrays: dict[str, Vectors],
    pictures: VectorColumn | None,
    texts: VectorColumn | None,
    known: Calibration | None,
) -> None:
    """Means by modality: of queries in words, half of what people ask anywhere and half of what is said here.

    Where little is here yet, those that a fitted model brings along take its place.
    """
    for column in (pictures, texts):
        if column and len(rows := arrays[column.name]):
            mean = gap.known_mean(known, column.modality, rows)
            arrays[f"mean:{column.name}"] = rows.mean(0) if mean is None else mean
    if pictures and f"mean:{pictures.name}" in arrays:
        arrays["query:image"] = arrays[f"mean:{pictures.name}"]
    if NEUTRAL_TEXTS in arrays:
        mean = arrays[NEUTRAL_TEXTS].mean(0)
        rows = arrays[texts.name] if texts else NOTHING
        said = gap.known_mean(known, Modality.TEXT, rows) if len(rows) else None
        if texts and (len(rows) >= ENOUGH or said is not None):
            mean = (mean + arrays[f"mean:{texts.name}"]) / 2
        arrays[QUERY_TEXTS] = mean


def _pair(
    found: Background, kind: str, column: VectorColumn, neutral: Vectors, own: Vectors, total: int
) -> Pair:
    """What neutral questions, and the index's own records, find in a column.

    Args:
        found: what is known so far.
        kind: of the questions.
        column: that they ask.
        neutral: float32 (b, dim).
        own: float32 (q, dim).
        total: rows that have a vector in this column.
    """
    sample, rows = found.sample(column), found.arrays[column.name]
    if not len(rows) or not len(neutral):
        return Pair()
    centre = found.query_centre(kind, column)
    plain = neutral @ rows.T
    # The photographs of the package may have been indexed themselves.
    others = plain < SAME
    if not others.any():
        return Pair()
    scores = ((neutral if centre is None else centred(neutral, centre)) @ sample.T).astype(np.float64)
    pair = Pair(
        neutral=float(scores[others].mean()),
        deviation=max(float(scores[others].std()), 1e-3),
        raw=float(plain[others].mean()),
        raw_deviation=max(float(plain[others].std()), 1e-3),
    )
    scores[~others] = -1.0
    asking = own if len(own) >= ENOUGH else neutral
    pooled = _pooled(asking, centre, sample, pair)
    if len(pooled) >= ENOUGH * ENOUGH:
        middle, spread, top = fitted(pooled)
        pair = replace(pair, middle=middle, spread=spread, top=top)
    return replace(pair, groups=_groups(found, kind, column, pair, scores, own, total))


def _pooled(asking: Vectors, centre: Vectors | None, sample: Vectors, pair: Pair) -> Floats:
    """Standardised scores of some questions against a sample, without those of a row against itself."""
    vectors = asking if centre is None else centred(asking, centre)
    parts = []
    for scores in vectors @ sample.T:
        others = scores[scores < SAME]
        parts.append(standardised(others, others, pair))
    return np.concatenate(parts) if parts else np.zeros(0)


def _groups(
    found: Background,
    kind: str,
    column: VectorColumn,
    pair: Pair,
    scores: Floats,
    own: Vectors,
    total: int,
) -> tuple[Group, ...]:
    """What the best results of neutral questions are like, and of the index's own pictures."""
    sample, neutral = found.sample(column), found.neutral(kind, column)
    standing = _best_standing(scores, sample, neutral, pair)
    ours = standing[:0]
    if neutral is None and len(own):
        centre = found.query_centre(kind, column)
        theirs = ((own if centre is None else centred(own, centre)) @ sample.T).astype(np.float64)
        theirs[own @ found.arrays[column.name].T >= SAME] = -1.0
        ours = _best_standing(theirs, sample, None, pair)
    # In the whole column the best of a question are better than in the sample: by as much as its tail is long.
    beyond = _tail(scores, pair) * math.log(max(total / len(sample), 1.0))
    groups = []
    for count, sigmas in groups_of(len(sample)):
        strengths = standing[:, :count].mean(1)
        if neutral is not None:
            # Most neutral questions ask for what is not there, and of the others the lowest know nothing.
            low, high = np.quantile(strengths, [0.05, 0.3])
            spread = max(float(high - low) / (-0.5244005127080407 + 1.6448536269514722), 0.05)
            absent = float(low) + 1.6448536269514722 * spread
            present = absent + sigmas * spread
        else:
            absent, spread = float(strengths.mean()), max(float(strengths.std()), 0.5)
            present = absent + sigmas * spread
            if len(ours) >= PRIOR:
                own_strengths = ours[:, :count].mean(1)
                spread = max(float(strengths.std()), float(own_strengths.std()) / 4, 0.05)
                present = absent + sigmas * spread
                if sigmas == SIGMAS:
                    # The pictures of this index are there, whatever strange ones find in it.
                    present = min(present, float(np.quantile(own_strengths, 0.1)))
                    absent = min(absent, present - spread)
        groups.append(Group(count, absent + beyond, present + beyond))
    return tuple(groups)


def _best_standing(scores: Floats, sample: Vectors, neutral: Vectors | None, pair: Pair) -> Floats:
    """How far the best results of each question stand out, (q, at most `BEST`), best first.

    Args:
        scores: (q, n).
        sample: float32 (n, dim).
        neutral: see `_standing`.
        pair: likewise.
    """
    places = np.argsort(-scores, axis=1)[:, :BEST]  # (q, best)
    standing = _standing(np.take_along_axis(scores, places, 1), sample[places], neutral, pair)
    return -np.sort(-standing, axis=1)


def _tail(scores: Floats, pair: Pair) -> float:
    """The mean excess over the 95th percentile: how much better the best of e times as many would be."""
    standing = (scores.ravel() - pair.neutral) / pair.deviation
    border = np.quantile(standing, 0.95)
    above = standing[standing > border]
    return float((above - border).mean()) if len(above) else 0.0


def _neutral_pictures(encoder: Encoder, column: VectorColumn, pictures: VectorColumn | None) -> Vectors:
    """The photographs that come with the package, in the output that a column is asked with."""
    output = column.output if column.modality == Modality.IMAGE else pictures.output if pictures else ""
    folder = Path(__file__).parents[1] / "models" / "probe"

    def embed() -> Vectors:
        found = encoder.outcomes(sorted(folder.glob("*.jpg")), output=output)
        rows = [outcome.vector for outcome in found if outcome.vector is not None]
        return np.stack(rows) if rows else np.zeros((0, column.dimensions), np.float32)

    return _kept(encoder, f"pictures {output}", embed)


def _neutral_texts(encoder: Encoder) -> Vectors:
    def embed() -> Vectors:
        return encoder.embed(bank(), role="query")

    return _kept(encoder, f"texts {hashlib.sha256(repr(bank()).encode()).hexdigest()}", embed)


def _kept(encoder: Encoder, what: str, embed: Any) -> Vectors:
    """Vectors from the cache of this machine, computed and put there the first time; they depend on the model alone."""
    key = hashlib.sha256(f"{encoder.card.space} {encoder.precision} {what}".encode()).hexdigest()[:24]
    path = settings().cache_path / "neutral" / f"{key}.npy"
    with suppress(OSError, ValueError, EOFError):
        found: Vectors = np.load(path, allow_pickle=False)
        if found.ndim == 2 and found.dtype == np.float32 and np.isfinite(found).all():
            return found
    found = np.ascontiguousarray(embed(), np.float32)
    with suppress(OSError):  # it is a cache
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        with beside.open("wb") as file:
            np.save(file, found)
        beside.replace(path)
    return found


def unused(names: Sequence[str], entries: Sequence[ModelEntry]) -> list[str]:
    """Of the names of files of an index, those of calibrations that no model uses any more."""
    used = {entry.calibration.get("file") for entry in entries}
    return [name for name in names if name.startswith(CALIBRATIONS) and name not in used]
