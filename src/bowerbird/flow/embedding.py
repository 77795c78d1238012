"""The step that embeds: each worker builds the model by itself, and computes only what the cache does not have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.errors import InputError, UnreadableError, UnsupportedInputError
from bowerbird.flow.cache import Entry, VectorCache
from bowerbird.flow.functions import failed
from bowerbird.flow.pictures import (
    address,
    as_record,
    default_policy,
    facts,
    opened,
    picture_content,
    read_picture,
    record_content,
    text_content,
)
from bowerbird.flow.plan import CAPACITY, Chunk, Clock, Stateless
from bowerbird.flow.recipe import ModelRecipe, WorkerLocal
from bowerbird.flow.report import LOADING
from bowerbird.lookahead import chunks
from bowerbird.models.encoder import IMAGE_BATCH, clean, unit_outcome
from bowerbird.record import Failure, Modality, Record, name_of
from bowerbird.settings import settings

if TYPE_CHECKING:
    from bowerbird.models.encoder import Encoder
    from bowerbird.models.vision.tower import ImageSide, Pixels

Known = Callable[[Sequence[str], Sequence[str]], Sequence[bool]]
"""For some content ids, and the ids of the records that hold them: which need not be embedded."""


PASSED = "passed"
"""Among the facts of a record of which the model takes no part; see `Embed.also`."""

_UNREAD = object()
"""In the place of a picture of which only the content is known so far."""


@dataclass
class _Work:
    """A record on its way through the step.

    Attributes:
        place: in the chunk.
        record: as it came.
        picture: what `read_picture` gave; None when there is none; `_UNREAD` when the cache is asked first.
        contents: content ids of the parts: of the picture, if there is one, then of the texts.
        image: what became of the picture.
        texts: what became of each text.
    """

    place: int
    record: Record
    picture: Any = None
    contents: list[str] = field(default_factory=list)
    image: Entry | None = None
    texts: list[Entry] = field(default_factory=list)

    @property
    def text_contents(self) -> list[str]:
        return self.contents[self.picture is not None :]


@dataclass(frozen=True)
class Embed(Stateless):
    """Both parts of each record become vectors of length 1, as far as the model takes them.

    Attributes:
        recipe: of the model.
        label: see `Step`.
        name: put before the names of the vectors, so that several models can be told apart.
        role: of texts: which of the model's prompts they get.
        thumbnails: whether `facts` gets a small JPEG of the picture as well.
        cached: whether vectors are taken from, and given to, the cache that all runs share.
        known: says of which contents no vectors are needed, since the table written to has them; such a record comes
            out with its content, and without vectors.
        also: what other models of the same table take, `image` and `text`: the contents of records cover it as well,
            and a record that has only such parts passes without vectors, with `PASSED` among its facts.
        told: whether the content of a picture is taken from the fact `picture`, where it is there: then what the cache
            holds is not read. A picture that is read and has other bytes is an error.
    """

    recipe: ModelRecipe
    label: str
    name: str = ""
    role: str = "document"
    thumbnails: bool = False
    cached: bool = True
    known: Known | None = None
    also: frozenset[str] = frozenset()
    told: bool = False
    threads: int = 0
    local: WorkerLocal = field(default_factory=WorkerLocal, compare=False, repr=False)
    timed = True

    @property
    def actor(self) -> bool:
        """It keeps a model."""
        return True

    def for_worker(self, threads: int) -> Embed:
        """See `Stateless`."""
        if self.recipe.threads == threads:
            return self  # and the model that it has loaded
        return replace(self, recipe=self.recipe.for_worker(threads), local=WorkerLocal())

    def with_known(self, known: Known) -> Embed:
        """The step for a table that has some contents already."""
        return replace(self, known=known)

    looks = False  # it opens pictures by itself, at the scale that the model needs

    def cost(self, item: Any) -> int:
        """So that a chunk holds one batch of pictures, or many texts, which are sorted by length."""
        if not isinstance(item, Record):
            return 1
        return (CAPACITY // IMAGE_BATCH if item.image is not None else 0) + max(1, len(item.texts))

    def vector_name(self, part: str) -> str:
        """What the vectors of a part are called: `image`, `text`, `image.OUTPUT`, with the name before them."""
        return f"{self.name}.{part}" if self.name else part

    def encoder(self) -> Encoder:
        """The worker's own model."""
        model: Encoder = self.local.get("model", self.recipe.build)
        return model

    def _loaded(self, clock: Clock) -> Encoder:
        """The model with its towers open, so that opening them is counted for itself."""

        def load() -> Encoder:
            with clock.stage(LOADING):
                return self.encoder().warm()

        loaded: Encoder = self.local.get("loaded", load)
        return loaded

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """See `Stateless`."""
        results = list(map(as_record, items))
        work: list[_Work] = []
        encoder = self._loaded(clock)
        for place, item in enumerate(results):
            if item.__class__ is Failure:
                continue
            one = _Work(place, item)
            try:
                self._check(encoder, item)
            except InputError as error:
                results[place] = failed(item, self.label, error)
                continue
            try:
                self._begin(encoder, one, clock)
            except InputError as error:
                results[place] = failed(item, "read", error)
            else:
                work.append(one)
        work = list(self._unknown(work, results))
        self._pictures(encoder, work, results, clock)
        self._texts(encoder, work, results, clock)
        for one in work:
            if results[one.place].__class__ is not Failure:
                results[one.place] = self._finished(encoder, one)
        return results

    def _check(self, encoder: Encoder, item: Any) -> None:
        if not isinstance(item, Record):
            raise UnsupportedInputError(
                f"embed takes records, texts and paths, not {type(item).__name__}.",
                hint="Map to bowerbird.Record, or use Collection.from_glob or Collection.from_texts.",
            )
        texts: object = item.texts  # of whatever type the user has given
        if not isinstance(texts, (tuple, list)) or not all(isinstance(text, str) for text in texts):
            raise UnsupportedInputError(
                f"The texts of {item.id} are {name_of(item.texts)}, not a tuple of texts.",
                hint="Give them as Record(..., texts=('one', 'two')).",
            )
        card = encoder.card
        takes_image, takes_texts = card.image and item.image is not None, card.text and item.texts
        if not (takes_image or takes_texts or self._passes(item)):
            if item.image is None and not item.texts:
                raise UnsupportedInputError(
                    f"{item.id} has neither a picture nor a text.",
                    hint="Name their columns with image= and text=, or leave it out with drop_missing.",
                )
            has = "a picture" if item.image is not None else "a text"
            raise UnsupportedInputError(
                f"{item.id} has {has}, which {card.name} does not take.", hint="Use a model that does."
            )

    def _passes(self, record: Record) -> bool:
        """Whether another model takes a part of it."""
        return bool(
            (record.image is not None and Modality.IMAGE in self.also)
            or (record.texts and Modality.TEXT in self.also)
        )

    def _begin(self, encoder: Encoder, work: _Work, clock: Clock) -> None:
        record, takes = work.record, encoder.card.image is not None
        if record.image is not None and (takes or Modality.IMAGE in self.also):
            told = record.facts.get("picture") if self.told else None
            if told:
                work.picture = _UNREAD
                work.contents.append(told)
            else:
                with clock.stage("read"):
                    policy = encoder.image.decode if takes else default_policy()
                    work.picture = read_picture(record.source, policy)
                    work.contents.append(picture_content(work.picture))
        work.contents.extend(map(text_content, record.texts))

    def _unknown(self, work: Sequence[_Work], results: Chunk) -> Iterator[_Work]:
        """The records that have to be embedded; the others are finished."""
        if self.known is None:
            yield from work
            return
        contents = [record_content(one.contents) for one in work]
        known = self.known(contents, [one.record.id for one in work])
        for one, content, skip in zip(work, contents, known, strict=True):
            if skip:
                results[one.place] = replace(one.record, content=content, facts=self._facts(one))
            else:
                yield one

    def _pictures(self, encoder: Encoder, work: Sequence[_Work], results: Chunk, clock: Clock) -> None:
        work = [one for one in work if one.picture is not None]
        if not (work and encoder.card.image):
            return
        side, cache = encoder.image, self._cache(encoder, "image")
        entries = self._cached(cache, [one.contents[0] for one in work], clock)
        fresh: dict[str, Entry] = {}
        ready: list[tuple[str, Pixels, dict[str, Any]]] = []
        preparing: set[str] = set()
        for one in work:
            content = one.contents[0]
            if content in entries or content in preparing:
                continue
            label = "read"
            try:
                if one.picture is _UNREAD:
                    self._read(side, one, clock)
                label = "decode"
                pixels, told = self._prepared(side, one, clock)
            except InputError as error:
                results[one.place] = failed(one.record, label, error)
                continue
            preparing.add(content)
            ready.append((content, pixels, told))
        for batch in chunks(ready, IMAGE_BATCH):
            with clock.stage("network"):
                # A picture alone is run twice: engines multiply a single row in another way, and its vector may not
                # depend on whether there were others in its chunk.
                arrays = side.run([pixels for _, pixels, _ in batch] * (1 + (len(batch) == 1)), side.outputs)
            for row, (content, _, told) in enumerate(batch):
                entry = _entry(
                    {name: array[row] for name, array in zip(side.outputs, arrays, strict=True)}, told
                )
                fresh[content] = entry
        self._keep(cache, fresh)
        for one in work:
            if results[one.place].__class__ is not Failure:
                self._give(one, {**entries, **fresh}[one.contents[0]], results)

    def _give(self, one: _Work, entry: Entry | InputError, results: Chunk) -> None:
        if isinstance(entry, InputError):
            results[one.place] = failed(one.record, self.label, entry)
        else:
            one.image = entry

    def _read(self, side: ImageSide, one: _Work, clock: Clock) -> None:
        with clock.stage("read"):
            one.picture = read_picture(one.record.source, side.decode)
            if picture_content(one.picture) != one.contents[0]:
                raise UnreadableError(
                    f"{address(one.record.source) or one.record.id} has changed since it was indexed.",
                    hint="Index it again.",
                )

    def _prepared(self, side: ImageSide, one: _Work, clock: Clock) -> tuple[Pixels, dict[str, Any]]:
        if side.tower.prepared:
            return side.prepared(one.picture), {}
        with clock.stage("decode"):
            name = address(one.record.source) or one.record.id
            picture = opened(one.picture, side.decode, name, side.tower.steps.target)
        with clock.stage("prepare"):
            told = facts(picture)
            if self.thumbnails:
                told["thumbnail"] = picture.thumbnail()
            return side.pixels(picture), told

    def _texts(self, encoder: Encoder, work: Sequence[_Work], results: Chunk, clock: Clock) -> None:
        if encoder.card.text is None:
            return
        work = [one for one in work if one.record.texts and results[one.place].__class__ is not Failure]
        wanted = {
            content: text
            for one in work
            for content, text in zip(one.text_contents, one.record.texts, strict=True)
        }
        if not wanted:
            return
        cache = self._cache(encoder, "text")
        entries: dict[str, Entry] = self._cached(cache, list(wanted), clock)
        missing = [content for content in wanted if content not in entries]
        if missing:
            with clock.stage("network"):
                # Repeatable: chunks differ from executor to executor, and vectors may not.
                vectors, dropped = encoder.text.encode(
                    [clean(wanted[content]) for content in missing], self.role, repeatable=True
                )
            if cut := sum(map(bool, dropped)):
                clock.count("texts cut to the model's length", cut)
            fresh = {
                content: _entry({"text": vector}, {})
                for content, vector in zip(missing, vectors, strict=True)
            }
            self._keep(cache, fresh)
            entries.update(fresh)
        for one in work:
            found = [entries[content] for content in one.text_contents]
            broken = next((entry for entry in found if isinstance(entry, InputError)), None)
            if broken is not None:
                results[one.place] = failed(one.record, self.label, broken)
            else:
                one.texts = found

    def _finished(self, encoder: Encoder, one: _Work) -> Record:
        record, vectors, norms = one.record, dict(one.record.vectors), dict(one.record.norms)
        told = self._facts(one)
        if one.image is None and not one.texts:
            told[PASSED] = True
        if one.image is not None:
            shared = encoder.image.tower.output
            for output, vector in one.image.vectors.items():
                name = self.vector_name("image" if output == shared else f"image.{output}")
                vectors[name], norms[name] = vector, one.image.norms[output]
            told = {**told, **_with_time(one.image.facts)}
            if one.image.thumbnail is not None:
                told["thumbnail"] = one.image.thumbnail
        if one.texts:
            name = self.vector_name("text")
            arrays = [entry.vectors["text"] for entry in one.texts]
            lengths = [entry.norms["text"] for entry in one.texts]
            vectors[name] = arrays[0] if len(arrays) == 1 else np.stack(arrays)
            norms[name] = lengths[0] if len(lengths) == 1 else np.asarray(lengths, np.float32)
        content = record_content(one.contents)
        return replace(record, vectors=vectors, norms=norms, facts=told, content=content)

    def _facts(self, one: _Work) -> dict[str, Any]:
        """What was known of a record, and for a table the content id of its picture alone."""
        keep = one.picture is not None and (self.thumbnails or self.told)
        return {**one.record.facts, **({"picture": one.contents[0]} if keep else {})}

    def _cached(self, cache: VectorCache | None, contents: Sequence[str], clock: Clock) -> dict[str, Any]:
        if cache is None:
            return {}
        with clock.stage("cache"):
            found = cache.get(list(dict.fromkeys(contents)))
        if self.thumbnails:
            found = {content: entry for content, entry in found.items() if entry.thumbnail is not None}
        if found:
            clock.count("vectors from the cache", len(found))
        return dict(found)

    def _keep(self, cache: VectorCache | None, fresh: Mapping[str, Entry | InputError]) -> None:
        good = {content: entry for content, entry in fresh.items() if isinstance(entry, Entry)}
        if cache is not None and good:
            cache.put(good)

    def _cache(self, encoder: Encoder, tower: str) -> VectorCache | None:
        """The cache for a tower, in the numerics that it runs in here."""
        if not (self.cached and settings().cache_bytes):
            return None

        def open_cache() -> VectorCache:
            numerics = {key: value for key, value in encoder.numerics()[tower].items() if key != "reason"}
            prompt = encoder.text.tower.rules.prompt(self.role) if tower == "text" else ""
            meaning = json.dumps([numerics, prompt], sort_keys=True, default=str)
            digest = hashlib.sha256(meaning.encode()).hexdigest()[:8]
            return VectorCache(f"{encoder.card.space}-{tower}-{digest}")

        found: VectorCache = self.local.get(f"cache of {tower}", open_cache)
        return found


def _entry(raw: Mapping[str, Any], told: Mapping[str, Any]) -> Any:
    """What is kept of a picture or a text; an `InputError` where the network gave what is not a number."""
    vectors, norms = {}, {}
    for name, vector in raw.items():
        outcome = unit_outcome(0, vector)
        if outcome.vector is None:
            return outcome.error
        vectors[name], norms[name] = outcome.vector, outcome.norm
    plain = {key: value for key, value in told.items() if key != "thumbnail"}
    if plain.get("taken_at"):
        plain["taken_at"] = plain["taken_at"].isoformat()  # the cache keeps JSON
    return Entry(vectors, norms, plain, told.get("thumbnail"))


def _with_time(told: Mapping[str, Any]) -> dict[str, Any]:
    time = told.get("taken_at")
    return {**told, "taken_at": datetime.fromisoformat(time)} if time else dict(told)
