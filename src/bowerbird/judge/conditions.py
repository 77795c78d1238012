"""What each wrong condition would cost on one's own pictures: the faults of `faults.py`, and 8-bit weights."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.errors import EngineError, InputError, QueryError
from bowerbird.judge.faults import Feeds, Recipe, faults_of, together
from bowerbird.judge.verify import exact_of
from bowerbird.judge.walk import PictureWalk
from bowerbird.lookahead import chunks, ordered_map
from bowerbird.media.exif import orientation_and_time
from bowerbird.media.image import Picture, decode, read_bytes
from bowerbird.models.encoder import IMAGE_BATCH, Encoder, load
from bowerbird.models.network.engine import Engine, open_quantised

Array: TypeAlias = NDArray[Any]

INT8 = "dynamic int8"
LOGITS = "logits"
"""Name of the output that classifies, where a graph has one."""


@dataclass(frozen=True)
class Spread:
    """Cosines between all pairs of pictures.

    Attributes:
        least: of all pairs.
        median: of all pairs.
        most: of all pairs.
    """

    least: float
    median: float
    most: float


@dataclass(frozen=True)
class Cost:
    """What one wrong condition does.

    Attributes:
        name: of the condition, such as `BGR`.
        what: a clause that follows "as if".
        pictures: how many it concerns.
        mean: cosine to the right conditions, mean of those pictures.
        least: the same, of the worst picture.
        worst: that picture.
        neighbour: share of those pictures whose nearest neighbour in the set stays the same when all are embedded
            under the wrong condition; None with fewer than three pictures.
        label: share of those pictures whose first class stays the same; None when the model does not classify.
        spread: between all pictures under the wrong condition; None with fewer than two.
    """

    name: str
    what: str
    pictures: int
    mean: float
    least: float
    worst: str
    neighbour: float | None
    label: float | None
    spread: Spread | None


@dataclass(frozen=True)
class CostReport:
    """What wrong conditions cost a model on a set of pictures.

    Attributes:
        model: name of the model.
        output: the tensor that was compared.
        steps: the right conditions, as a recipe.
        pictures: how many were embedded.
        spread: between all pictures under the right conditions; None with fewer than two.
        costs: in the order of the table of faults.
        without: name of a condition -> why it was not tried.
        problems: name of a picture -> why it could not be used.
    """

    model: str
    output: str
    steps: str
    pictures: int
    spread: Spread | None
    costs: tuple[Cost, ...]
    without: Mapping[str, str]
    problems: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def conditions(
    model: Encoder | str, pictures: Iterable[Path | bytes], *, output: str = "", int8: bool = True
) -> CostReport:
    """Embed pictures under the right conditions and under every wrong one, in fp32 in ONNX Runtime.

    A picture is decoded once, and once more only for a fault of decoding that concerns it.

    Args:
        model: an encoder or a model's name.
        pictures: files or their bytes; those that fail are reported in `problems`.
        output: the tensor to compare; empty takes the one that compares pictures with pictures best.
        int8: also try 8-bit weights.

    Raises:
        UnsupportedInputError: the model takes no pictures, or has no such output.
        QueryError: none of the pictures can be used.
    """
    encoder = load(model) if isinstance(model, str) else model
    exact = exact_of(encoder)
    side = exact.image
    chosen = output or side.tower.similarity_output
    side.dimensions(chosen)
    walk = PictureWalk(side, chosen)
    with tempfile.TemporaryDirectory() as folder:
        small = _quantised(side.tower.graph.path, Path(folder)) if int8 else "it was not asked for"
        bench = _Bench(walk, small if not isinstance(small, str) else None)
        for batch in ordered_map(bench.embed, chunks(list(pictures), IMAGE_BATCH), threads=exact.threads):
            bench.collect(batch)
    if not bench.names:
        first = next(iter(bench.problems.values()), "none was given")
        raise QueryError(
            f"None of the pictures can be used: {first}", hint="Give pictures, or folders of them."
        )
    return CostReport(
        model=encoder.card.name,
        output=chosen,
        steps=str(walk.recipe.steps),
        pictures=len(bench.names),
        spread=_spread(bench.right),
        costs=tuple(bench.costs()),
        without={**bench.without(), **({INT8: small} if isinstance(small, str) else {})},
        problems=dict(bench.problems),
    )


@dataclass(frozen=True)
class _Row:
    """One picture under all conditions: condition -> (vector, class); None of both where it does not concern it."""

    name: str
    found: Mapping[str, tuple[Array, int]]
    problem: str = ""


_RIGHT = ""


class _Bench:
    """Embeds batches under every condition, and counts."""

    def __init__(self, walk: PictureWalk, small: Engine | None) -> None:
        self.walk = walk
        self.small = small
        self.faults = faults_of(walk.recipe)
        self.names: list[str] = []
        self.problems: dict[str, str] = {}
        self._rows: list[_Row] = []
        classifies = LOGITS in walk.engine.outputs
        self._tensors = (walk.tensor, LOGITS) if classifies else (walk.tensor,)

    # One batch, in one thread.

    def embed(self, batch: Sequence[Path | bytes]) -> list[_Row]:
        """Rows of a batch, problems at their own place."""
        names = [str(source) if isinstance(source, Path) else "picture" for source in batch]
        rows: list[_Row | None] = [None] * len(batch)
        prepared: dict[str, dict[int, Feeds]] = {_RIGHT: {}}
        for number, (name, source) in enumerate(zip(names, batch, strict=True)):
            try:
                for condition, feeds in self._prepare(source, name).items():
                    prepared.setdefault(condition, {})[number] = feeds
            except InputError as error:
                rows[number] = _Row(name, {}, str(error))
        found: dict[int, dict[str, tuple[Array, int]]] = {number: {} for number in prepared[_RIGHT]}
        for condition, parts in prepared.items():
            if parts:
                self._run(condition, parts, found)
        if self.small is not None:
            self._run(INT8, prepared[_RIGHT], found, self.small)
        return [row or _Row(names[number], found[number]) for number, row in enumerate(rows)]

    def _prepare(self, source: Path | bytes, name: str) -> dict[str, Feeds]:
        """The network's input under every condition that concerns the picture."""
        right = self.walk.recipe
        data = read_bytes(source, right.decode) if isinstance(source, Path) else source
        picture = decode(data, right.decode, name=name)
        concerned = _concerns(data)
        feeds = {_RIGHT: right.prepare(picture)}
        for fault, recipe in self.faults:
            if fault.concerns not in concerned:
                continue
            seen = self._seen(data, recipe, name) if recipe.decode != right.decode else picture
            if seen is not None:
                feeds[fault.name] = recipe.prepare(seen)
        return feeds

    @staticmethod
    def _seen(data: bytes, recipe: Recipe, name: str) -> Picture | None:
        """The picture as another decode policy gives it; None where a reduced scale is the full one."""
        picture = decode(data, recipe.decode, name=name, target=recipe.steps.target)
        return None if recipe.decode.scaled is not None and picture.scale == 1 else picture

    def _run(
        self,
        condition: str,
        parts: Mapping[int, Feeds],
        found: dict[int, dict[str, tuple[Array, int]]],
        engine: Engine | None = None,
    ) -> None:
        """Run the pictures of a batch that a condition concerns."""
        # With 8-bit weights one by one: the scales of dynamic quantisation are those of the whole batch.
        batches = [list(parts)] if engine is None else [[number] for number in parts]
        for numbers in batches:
            prepared = together([parts[number] for number in numbers])
            hidden, *logits = self.walk.run(prepared, self._tensors, engine)
            classes = logits[0].argmax(axis=1) if logits else np.full(len(numbers), -1)
            for number, vector, first in zip(numbers, self.walk.pool(hidden), classes, strict=True):
                unit = vector / max(float(np.linalg.norm(vector)), 1e-12)
                found[number][condition] = (unit, int(first))

    # All batches.

    def collect(self, rows: Sequence[_Row]) -> None:
        """Keep a batch."""
        for row in rows:
            if row.problem:
                self.problems[row.name] = row.problem
            else:
                self.names.append(row.name)
                self._rows.append(row)

    @property
    def right(self) -> Array:
        """(n, d) unit vectors under the right conditions."""
        return np.stack([row.found[_RIGHT][0] for row in self._rows])

    def costs(self) -> list[Cost]:
        """One for each condition that concerns any picture."""
        named = [(fault.name, fault.what) for fault, _ in self.faults]
        named.append((INT8, "weights and activations were quantised to 8 bits while it runs"))
        return [self._cost(name, what) for name, what in named if self._concerned(name)]

    def without(self) -> dict[str, str]:
        """Conditions that no picture is concerned by, and why."""
        reasons = {
            "turned": "no picture has an EXIF orientation",
            "see-through": "no picture is transparent",
            "jpeg": "no JPEG is large enough",
        }
        return {
            fault.name: reasons[fault.concerns] for fault, _ in self.faults if not self._concerned(fault.name)
        }

    def _concerned(self, name: str) -> list[int]:
        return [number for number, row in enumerate(self._rows) if name in row.found]

    def _cost(self, name: str, what: str) -> Cost:
        rows = self._concerned(name)
        right = self.right
        wrong = right.copy()
        for row in rows:
            wrong[row] = self._rows[row].found[name][0]
        cosines = (right[rows] * wrong[rows]).sum(axis=1)
        labels = [
            self._rows[row].found[_RIGHT][1] == self._rows[row].found[name][1]
            for row in rows
            if self._rows[row].found[_RIGHT][1] >= 0
        ]
        same = (_nearest(right) == _nearest(wrong))[rows] if len(right) >= 3 else None
        return Cost(
            name=name,
            what=what,
            pictures=len(rows),
            mean=float(cosines.mean()),
            least=float(cosines.min()),
            worst=self.names[rows[int(cosines.argmin())]],
            neighbour=None if same is None else float(same.mean()),
            label=float(np.mean(labels)) if labels else None,
            spread=_spread(wrong),
        )


def _nearest(vectors: Array) -> Array:
    """(n,) the row most like each, other than itself."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    nearest: Array = similar.argmax(axis=1)
    return nearest


def _spread(vectors: Array) -> Spread | None:
    if len(vectors) < 2:
        return None
    pairs = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    return Spread(float(pairs.min()), float(np.median(pairs)), float(pairs.max()))


def _concerns(data: bytes) -> set[str]:
    """Which kinds of fault can concern a file that could be decoded; only its header is read."""
    found = {"all"}
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format in ("JPEG", "MPO"):
                found.add("jpeg")
            if orientation_and_time(image)[0] > 1:
                found.add("turned")
            if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
                found.add("see-through")
    except Exception:  # noqa: BLE001  the picture was decoded; a header that cannot be read again concerns nobody
        pass
    return found


def _quantised(graph: Path, folder: Path) -> Engine | str:
    """The graph with 8-bit weights, or why that is not to be had."""
    try:
        return open_quantised(graph, folder)
    except EngineError as error:
        return error.message
