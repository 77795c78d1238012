"""A second look at the best results: every reranker is given the first stage's candidates and puts them in an order.

A reranker never adds results or loses any. It looks at the first `depth` of them, whatever number is shown, and those
beyond keep their places behind: so the first page is the same whether one page is asked for or three.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import QueryError
from bowerbird.record import Modality
from bowerbird.store.filters import among

if TYPE_CHECKING:
    from bowerbird.hits import Hits
    from bowerbird.models.crossencoder import CrossEncoder
    from bowerbird.search.index import Index
    from bowerbird.search.query import Query
    from bowerbird.store.manifest import ModelEntry
    from bowerbird.store.table import VectorColumn

NAMES = ("exact", "mmr", "mmr:DIVERSITY", "cross:MODEL")
"""What `reranker` understands."""

Scores = NDArray[np.float32]


class Reranker(Protocol):
    """What puts the candidates of a search in a new order."""

    @property
    def depth(self) -> int:
        """How many candidates it wants to see."""
        ...

    @property
    def exact(self) -> bool:
        """Whether these have to be the best of all records, without any approximate index."""
        ...

    def rerank(self, index: Index, query: Query, hits: Hits) -> Hits:
        """The same hits in another order, with scores of the scale that they name, descending.

        Hits that could not be judged, and those beyond `depth`, follow in the order in which they came; their score
        is NaN. `match` and everything else that is known of a hit stays with it.

        Raises:
            QueryError: this reranker cannot judge such a question.
        """
        ...


@dataclass(frozen=True)
class Exact:
    """The question is compared with every record, rather than with those that an approximate index proposes.

    This happens before anything is fused or cut, so the order that comes of it is final: nothing is left to do here.
    """

    @property
    def depth(self) -> int:
        """None but those that are shown."""
        return 1

    @property
    def exact(self) -> bool:
        """See `Reranker.exact`."""
        return True

    def rerank(self, index: Index, query: Query, hits: Hits) -> Hits:
        """The hits as they are."""
        return hits


@dataclass(frozen=True)
class MMR:
    """Maximal marginal relevance: results that answer the question and are not like those above them.

    Carbonell & Goldstein, "The use of MMR, diversity-based reranking", SIGIR 1998. One after the other, of what is
    left, the hit d is taken that has the largest::

        lambda * rel(d) - (1 - lambda) * max(0, max over the hits s taken so far of cos(d, s))

    with lambda = 1 - diversity. `rel` is `match`, or the scores moved into 0 to 1 where there is none. The cosine is
    that of the vectors which matched; where both pictures and texts did, that of the picture where a record has one,
    else that of its text. What has no vector counts as like the others as they are on average. Of equals the first
    comes first. Scores are the values above.

    Attributes:
        diversity: 0 (the order stays as it is) to 1 (only that results differ counts).
        depth: how many candidates are looked at.

    Raises:
        QueryError: the diversity is not between 0 and 1, or the depth is less than 1.
    """

    diversity: float = 0.3
    depth: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.diversity <= 1:  # NaN is not
            raise QueryError(
                f"The diversity {self.diversity} cannot be used.",
                hint="Give 0 to 1, such as 0.3.",
                param="rerank",
            )
        _check_depth(self.depth)

    @property
    def exact(self) -> bool:
        """See `Reranker.exact`."""
        return False

    def rerank(self, index: Index, query: Query, hits: Hits) -> Hits:
        """See `Reranker.rerank`."""
        head = min(len(hits), self.depth)
        if head == 0:
            return hits
        order, values = spread(_relevance(hits, head), _likeness(index, query, hits, head), self.diversity)
        scores = np.full(len(hits), np.nan, np.float32)
        scores[:head] = values
        scale = f"mmr {self.diversity:g} of {hits.scale}"
        return _in_order(hits, [*order, *range(head, len(hits))], scores, scale)


@dataclass(frozen=True)
class CrossEncode:
    """A cross-encoder reads the question and a record's text together.

    Of several texts of a record, one a line, the best one counts. Of a question with several texts each is asked by
    itself, and the scores are blended as vectors would be: by their weights, and words to move away from subtracted
    with `WITHOUT_WEIGHT`.

    Attributes:
        model: the cross-encoder.
        depth: how many candidates it reads; every line of each is a run of the network.

    Raises:
        QueryError: the depth is less than 1.
    """

    model: CrossEncoder
    depth: int = 100

    def __post_init__(self) -> None:
        _check_depth(self.depth)

    @property
    def exact(self) -> bool:
        """See `Reranker.exact`."""
        return False

    def rerank(self, index: Index, query: Query, hits: Hits) -> Hits:
        """See `Reranker.rerank`. Hits without a text cannot be judged.

        Raises:
            QueryError: a picture or a record is asked about.
        """
        if query.image is not None or query.like:
            raise QueryError(
                "A cross-encoder reads words only, and the question has a picture.",
                hint="Leave out the picture, or rerank with exact or mmr.",
                param="rerank",
            )
        head = min(len(hits), self.depth)
        lines = [_lines(text) for text in _texts(index, hits[:head])]
        best, cut = self._best(query, lines)
        asked = np.asarray(_weights(query), np.float64)
        values = best @ asked
        known = np.flatnonzero(~np.isnan(values))
        judged = known[np.argsort(-values[known], kind="stable")].tolist()
        left = sorted(set(range(len(hits))) - set(judged))
        scores = np.full(len(hits), np.nan, np.float32)
        scores[: len(judged)] = values[judged]
        notes = []
        if unread := head - len(judged):
            notes.append(
                f"{unread} of {head} candidates have no text that {self.model.name} could judge; they come last."
            )
        if cut:
            most = self.model.card.rules.max_tokens
            notes.append(f"{self.model.name} reads {most} tokens, so {cut} texts only in part.")
        scale = f"cross:{self.model.name} ({self.model.space}) {self.model.range} text->text"
        return _in_order(hits, [*judged, *left], scores, scale, notes)

    def _best(self, query: Query, lines: Sequence[Sequence[str]]) -> tuple[NDArray[np.float64], int]:
        """The score of the best line of each record for each text of the question, (records, texts), NaN for none;
        and how many lines were cut.
        """
        asked = [*query.texts, *query.without]
        places = {line: at for at, line in enumerate(dict.fromkeys(line for own in lines for line in own))}
        found = self.model.outcomes((text, line) for text in asked for line in places)
        scores = np.asarray([np.nan if j.score is None else j.score for j in found], np.float64)
        scores = scores.reshape(len(asked), len(places))
        cut = {judged.index % len(places) for judged in found if judged.note}
        best = np.full((len(lines), len(asked)), np.nan)
        for row, own in enumerate(lines):
            these = scores[:, [places[line] for line in own]]
            kept = these[:, ~np.isnan(these).any(0)]
            if kept.size:
                best[row] = kept.max(1)
        return best, len(cut)


def reranker(name: str) -> Reranker:
    """The reranker of a name, as the command line has it.

    Args:
        name: one of `NAMES`: `exact`, `mmr`, `mmr:0.5`, `cross:cross-encoder/ms-marco-MiniLM-L6-v2`.

    Raises:
        QueryError: there is no such reranker, or its diversity is no number from 0 to 1.
        ModelError: the cross-encoder cannot be loaded.
    """
    kind, colon, rest = name.strip().partition(":")
    if kind == "exact" and not colon:
        return Exact()
    if kind == "mmr":
        return MMR(_number(rest, name)) if colon else MMR()
    if kind == "cross" and rest.strip():
        from bowerbird.models.crossencoder import CrossEncoder

        return CrossEncode(CrossEncoder.load(rest.strip()))
    if kind == "cross":
        raise QueryError(
            f"{name!r} names no cross-encoder.",
            hint="Write cross:MODEL, such as cross:cross-encoder/ms-marco-MiniLM-L6-v2.",
            param="rerank",
        )
    near = get_close_matches(kind, ("exact", "mmr", "cross"), 1)
    meant = f"Did you mean {near[0]}? " if near else ""
    raise QueryError(
        f"There is no reranker {name!r}.", hint=f"{meant}Use {', '.join(NAMES)}.", param="rerank"
    )


def spread(
    relevance: NDArray[np.float64], likeness: NDArray[np.float64], diversity: float
) -> tuple[list[int], NDArray[np.float64]]:
    """The order of `MMR`, and the value that each had when it was taken; they never increase.

    Args:
        relevance: (n,).
        likeness: (n, n) from 0 to 1.
        diversity: 0 to 1.
    """
    own = (1 - diversity) * relevance
    above = np.zeros(len(own))  # how like the most alike of those taken so far
    left = np.ones(len(own), bool)
    order: list[int] = []
    values = np.empty(len(own))
    for place in range(len(own)):
        value = np.where(left, own - diversity * above, -np.inf)
        taken = int(value.argmax())  # the first of equals
        order.append(taken)
        values[place] = value[taken]
        left[taken] = False
        above = np.maximum(above, likeness[taken])
    return order, values


def _relevance(hits: Hits, head: int) -> NDArray[np.float64]:
    """`match` or the scores, in 0 to 1; ranks where neither falls along the list, which is the order to start from."""
    if hits.match is not None and _falls(hits.match[:head]):
        return np.asarray(hits.match[:head], np.float64)
    scores = np.asarray(hits.scores[:head], np.float64)
    if not _falls(scores):
        scores = -np.arange(head, dtype=np.float64)
    span = scores[0] - scores[-1]
    return (scores - scores[-1]) / span if span > 0 else np.ones(head)


def _falls(values: NDArray[Any]) -> bool:
    return bool(np.isfinite(values).all() and (np.diff(values) <= 0).all())


def _likeness(index: Index, query: Query, hits: Hits, head: int) -> NDArray[np.float64]:
    """How alike each two of the first hits are: max(0, cosine), (head, head)."""
    vectors = _own_vectors(index, query, hits[:head])
    known = np.flatnonzero([vector is not None for vector in vectors])
    likeness = np.zeros((head, head))
    if len(known):
        rows = np.stack([vector for vector in vectors if vector is not None]).astype(np.float64)
        among_known = np.maximum(rows @ rows.T, 0)
        pairs = len(known) * (len(known) - 1)
        usual = (among_known.sum() - np.trace(among_known)) / pairs if pairs else 0.0
        likeness[:] = usual
        likeness[np.ix_(known, known)] = among_known
    return likeness


def _own_vectors(index: Index, query: Query, hits: Hits) -> list[Scores | None]:
    """A unit vector for each hit, all of one model; None where a record has none."""
    columns = _matched(index, query, hits)
    found: dict[str, dict[str, Scores]] = {column.name: {} for column in columns}
    for batch in index.table.scan(["id", *found], among("id", hits.ids)):
        ids = np.asarray(batch.column(0).to_pylist(), object)
        for column, values in zip(columns, batch.columns[1:], strict=True):
            held = values.is_valid().to_numpy(zero_copy_only=False)
            rows = values.drop_null().flatten().to_numpy().reshape(-1, column.dimensions)
            found[column.name].update(zip(ids[held], rows, strict=True))
    return [
        next((found[column.name][id_] for column in columns if id_ in found[column.name]), None)
        for id_ in hits.ids
    ]


def _matched(index: Index, query: Query, hits: Hits) -> list[VectorColumn]:
    """The columns that hold the vectors of hits, the one to take first where a record has several."""
    # Vectors of two models cannot be compared: the one that found most of them speaks for all.
    models = [model for model in hits.models if model]
    usual = max(dict.fromkeys(models), key=models.count, default="")
    entries = index.manifest.models
    entry = next((entry for entry in entries if entry.name == usual), entries[0])
    parts = set(hits.parts)
    pictures = [column for column in entry.columns if column.modality == Modality.IMAGE]
    texts = [column for column in entry.columns if column.modality == Modality.TEXT]
    if parts == {str(Modality.TEXT)} or not pictures:
        return texts + pictures[:1]
    if query.modality == Modality.IMAGE and parts <= {str(Modality.IMAGE)}:
        return [_between_pictures(entry, pictures), *texts]
    return [pictures[0], *texts]


def _between_pictures(entry: ModelEntry, pictures: Sequence[VectorColumn]) -> VectorColumn:
    """The column that compares pictures best; the first where the index does not say."""
    image = entry.card.get("image") or {}
    wanted = image.get("similarity_output")
    return next((column for column in pictures if column.output == wanted), pictures[0])


def _texts(index: Index, hits: Hits) -> list[str]:
    """What is said of each hit; empty where nothing is."""
    texts = hits.attributes.get("text")
    if texts is None:
        held: dict[str, str] = {}
        for batch in index.table.scan(["id", "text"], among("id", hits.ids)):
            held.update(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        texts = [held.get(id_) for id_ in hits.ids]
    return [str(text or "") for text in texts]


def _lines(text: str) -> list[str]:
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def _weights(query: Query) -> list[float]:
    """One for each text, summing to 1 in magnitude, then one for each text to move away from."""
    from bowerbird.search.question import WITHOUT_WEIGHT

    given = list(query.weights[: len(query.texts)]) or [1.0] * len(query.texts)
    total = math.fsum(map(abs, given))
    return [*(weight / total for weight in given), *(-WITHOUT_WEIGHT for _ in query.without)]


def _in_order(
    hits: Hits, order: Sequence[int], scores: Scores, scale: str, notes: Sequence[str] = ()
) -> Hits:
    """The hits in another order, everything that is known of each at its new place."""
    moved: dict[str, Any] = {}
    for field in fields(hits):
        value = getattr(hits, field.name)
        if isinstance(value, Mapping):
            moved[field.name] = {name: [column[at] for at in order] for name, column in value.items()}
        elif isinstance(value, np.ndarray):
            moved[field.name] = value[list(order)]
        elif field.name != "notes" and isinstance(value, (list, tuple)) and len(value) == len(hits):
            moved[field.name] = [value[at] for at in order]
    return replace(hits, **{**moved, "scores": scores, "scale": scale, "notes": (*hits.notes, *notes)})


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise QueryError(f"{depth} candidates cannot be reranked.", hint="Give a depth of at least 1.")


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise QueryError(
            f"{name!r}: {text!r} is no number.", hint="Write mmr:0.5, with 0 to 1.", param="rerank"
        ) from None
