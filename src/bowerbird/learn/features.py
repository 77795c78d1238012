"""What frozen towers say of pictures and texts: computed once, kept in the cache that all runs share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.errors import LearnError
from bowerbird.flow.embedding import Embed
from bowerbird.flow.local import Local
from bowerbird.flow.plan import Plan
from bowerbird.flow.recipe import ModelRecipe
from bowerbird.flow.run import carried_out, closed
from bowerbird.flow.sources.values import IterableSource
from bowerbird.learn.examples import Examples, Places, Vectors
from bowerbird.learn.pairs import Dropped, require
from bowerbird.models.encoder import clean
from bowerbird.record import Failure, Record

if TYPE_CHECKING:
    from bowerbird.models.encoder import Encoder

ROLE = "query"
"""Of texts. A head is fitted so that words find pictures, and a search embeds its words as `query`. Fitted on texts as
`document`, a model with prompts (arctic-embed, e5) would be asked other vectors than it was fitted on."""

SAMPLE_PICTURES, SAMPLE_TEXTS = 16, 64
"""What is embedded once more to see how long it takes, where nearly all came from the cache."""

Progress = Callable[[int, int], None]
"""Is told how many vectors are there, of how many."""


@dataclass(frozen=True)
class Embedded:
    """Examples with their vectors, and what these took.

    Attributes:
        examples: those of which all vectors are there; `images` and `words` by tensor, unit rows.
        dropped: pictures and texts that failed, by name.
        problems: what a person should know, such as captions whose ends were not read.
        seconds: that it took, loading models aside.
        cached: vectors that came from the cache.
        computed: vectors that did not.
        seconds_a_picture: that one picture takes without the cache, for all its tensors together.
        seconds_a_text: that one text takes, likewise.
        picture_passes: in how many passes over the pictures their tensors came.
    """

    examples: Examples
    dropped: tuple[Dropped, ...]
    problems: tuple[str, ...]
    seconds: float
    cached: int
    computed: int
    seconds_a_picture: float
    seconds_a_text: float
    picture_passes: int

    @property
    def seconds_a_picture_pass(self) -> float:
        """What one picture takes in one pass, the mean of the passes: about what another layer takes."""
        return self.seconds_a_picture / max(self.picture_passes, 1)

    def seconds_if_recomputed(
        self, epochs: int, pictures: int | None = None, texts: int | None = None
    ) -> float:
        """What embedding would take if each epoch did it again, as training through frozen towers does.

        Args:
            epochs: that were trained.
            pictures: that one epoch looks at, those it validates with among them; None: all that were embedded.
            texts: likewise; where each picture has one drawn of its texts, only these.
        """
        many = len(self.examples.pictures) if pictures is None else pictures
        said = len(self.examples.texts) if texts is None else texts
        return epochs * (many * self.seconds_a_picture + said * self.seconds_a_text)

    def with_pictures_of(self, more: Embedded) -> Embedded:
        """With further tensors of the same pictures, and what these took.

        Args:
            more: what `embed` gave for the same pictures and no texts, none of them dropped.
        """
        return replace(
            self,
            examples=replace(
                self.examples, images={**(self.examples.images or {}), **(more.examples.images or {})}
            ),
            seconds=self.seconds + more.seconds,
            cached=self.cached + more.cached,
            computed=self.computed + more.computed,
            seconds_a_picture=self.seconds_a_picture + more.seconds_a_picture,
            picture_passes=self.picture_passes + more.picture_passes,
        )


def embed(
    examples: Examples,
    image_model: Encoder | None,
    text_model: Encoder | None,
    image_tensors: Sequence[str] = (),
    text_tensors: Sequence[str] = (),
    *,
    progress: Progress | None = None,
    role: str = ROLE,
) -> Embedded:
    """Embed all pictures and texts with frozen towers.

    The output that a tower shares with the other, and what it publishes to compare pictures by, come in one pass. Any
    other output or layer takes a pass of its own.

    Args:
        examples: what to embed.
        image_model: for the pictures; None: they get no vectors.
        text_model: for the texts; None: likewise.
        image_tensors: names of outputs or of layers as `Encoder.adapted` takes them; empty: those that it publishes.
        text_tensors: likewise; empty: its output.
        progress: see there.
        role: which of the text model's prompts texts get. Captions are what a search is asked, so `query`.

    Raises:
        LearnError: too few are left, the text of a class fails, or a tensor is not one vector for each.
        ModelError: a tower cannot be loaded, or the model has no such tensor.
        UnsupportedInputError: the tower has no such tensor, or no such role.
    """
    passes = [
        *(_image_passes(image_model, image_tensors) if image_model else ()),
        *(_text_passes(text_model, text_tensors) if text_model else ()),
    ]
    sizes = {True: len(examples.pictures), False: len(examples.texts)}
    total = sum(sizes[one.pictures] for one in passes)
    runs: list[_Run] = []
    for one in passes:
        begun = sum(len(run.broken) + run.done for run in runs)
        step = (lambda done, begun=begun: progress(begun + done, total)) if progress else None
        runs.append(_run(one, examples, role, step))
    left, dropped = _without(examples, runs)
    problems = [*_too_long(text_model, examples.texts, role)] if text_model else []
    each = [(one.pictures, _seconds(one, run, examples, role)) for one, run in zip(passes, runs, strict=True)]
    a_picture, a_text = (sum(took for of, took in each if of is kind) for kind in (True, False))
    return Embedded(
        left,
        dropped,
        tuple(problems),
        sum(run.seconds for run in runs),
        sum(run.cached for run in runs),
        sum(run.done - run.cached for run in runs),
        a_picture,
        a_text,
        sum(one.pictures for one in passes),
    )


@dataclass(frozen=True)
class _Pass:
    """One model run over all pictures, or over all texts.

    Attributes:
        encoder: as it is run.
        names: of the vectors of a record -> name of the tensor.
        pictures: whether it is run over pictures.
    """

    encoder: Encoder
    names: Mapping[str, str]
    pictures: bool

    def open(self) -> None:
        """Open the model now, so that it is not counted, and that it lacks the tower is an error of the call."""
        getattr(self.encoder.warm(), "image" if self.pictures else "text")


@dataclass(frozen=True)
class _Run:
    """What came of a pass.

    Attributes:
        arrays: by tensor, float32 (n, dim); rows of what failed are 0.
        broken: by place, why there is no vector.
        pictures: as of the pass.
        seconds: wall time, without loading.
        cached: how many came from the cache.
        done: how many there are.
    """

    arrays: Mapping[str, Vectors]
    broken: Mapping[int, Failure]
    pictures: bool
    seconds: float
    cached: int
    done: int


def _image_passes(model: Encoder, tensors: Sequence[str]) -> Iterator[_Pass]:
    tower = model.image.tower
    published = {name: "image" if name == tower.output else f"image.{name}" for name in model.image.outputs}
    wanted = tuple(dict.fromkeys(tensors or model.image.outputs))
    together = {published[name]: name for name in wanted if name in published}
    if together:
        yield _Pass(model, together, True)
    for name in wanted:
        if name not in published:
            yield _Pass(model.adapted(layer=name), {"image": name}, True)


def _text_passes(model: Encoder, tensors: Sequence[str]) -> Iterator[_Pass]:
    output = model.text.tower.output
    for name in dict.fromkeys(tensors or (output,)):
        yield _Pass(model if name == output else model.adapted(layer=name), {"text": name}, False)


def _records(examples: Examples, places: Sequence[int] | Places, *, pictures: bool) -> Iterator[Record]:
    for place in map(int, places):
        if pictures:
            picture = examples.pictures[place]
            # Known by its content, so that what the cache holds is not read again.
            yield Record(str(place), image=picture.source, facts={"picture": picture.content})
        else:
            yield Record(str(place), texts=(examples.texts[place],))


def _run(
    one: _Pass,
    examples: Examples,
    role: str,
    progress: Callable[[int], None] | None,
    places: Sequence[int] | None = None,
    *,
    cached: bool = True,
) -> _Run:
    """Carry out a pass, over all or over some places alone."""
    count = len(examples.pictures if one.pictures else examples.texts)
    recipe = ModelRecipe.of(one.encoder)
    step = Embed(recipe, f"embed({recipe.name})", role=role, cached=cached, told=one.pictures)
    step.local.get("model", lambda: one.encoder)
    here = Local(threads=one.encoder.threads)
    records = _records(examples, range(count) if places is None else places, pictures=one.pictures)
    arrays: dict[str, Vectors] = {}
    broken: dict[int, Failure] = {}
    done = 0
    one.open()
    started = time.perf_counter()
    with closed(carried_out(Plan(IterableSource(records), (step,)), here, pictures=False)) as chunks:
        for chunk in chunks:
            for item in chunk:
                place = int(item.id)
                if isinstance(item, Failure):
                    broken[place] = item
                    continue
                done += 1
                for vector_name, tensor in one.names.items():
                    vector = item.vectors[vector_name]
                    if tensor not in arrays:
                        _require_vector(vector, tensor, one.encoder.card.name)
                        arrays[tensor] = np.zeros((count, len(vector)), np.float32)
                    arrays[tensor][place] = vector
            if progress:
                progress(done + len(broken))
    seconds = time.perf_counter() - started
    from_cache = here.report.counts["vectors from the cache"]
    return _Run(arrays, broken, one.pictures, seconds, from_cache, done)


def _require_vector(vector: Any, tensor: str, model: str) -> None:
    if vector.ndim != 1:
        raise LearnError(
            f"{tensor or 'The output'} of {model} gives {len(vector)} vectors for one input.",
            hint="Load the model with a pooling that makes one of them.",
        )


def _without(examples: Examples, runs: Sequence[_Run]) -> tuple[Examples, tuple[Dropped, ...]]:
    """The examples with all vectors, without what failed in any pass."""
    lost: dict[bool, dict[int, Dropped]] = {True: {}, False: {}}
    for run in runs:
        for place, failure in run.broken.items():
            name = examples.pictures[place].name if run.pictures else examples.texts[place]
            fault = Dropped.of(name, failure.error)
            lost[run.pictures].setdefault(place, fault)
    dropped = [*lost[True].values(), *lost[False].values()]
    if examples.classes and lost[False]:
        first = next(iter(lost[False].values()))
        raise LearnError(f"The text of the class {first.name!r} cannot be embedded: {first.reason}")
    full = replace(
        examples,
        images={name: array for run in runs if run.pictures for name, array in run.arrays.items()} or None,
        words={name: array for run in runs if not run.pictures for name, array in run.arrays.items()} or None,
    )
    if dropped:
        links = examples.links
        kept = ~np.isin(links[:, 0], list(lost[True])) & ~np.isin(links[:, 1], list(lost[False]))
        alone = np.setdiff1d(links[:, 0], links[kept, 0])
        dropped += [
            Dropped(examples.pictures[place].name, "none of its texts could be embedded.", "no text")
            for place in alone.tolist()
            if place not in lost[True]
        ]
        full = replace(full, links=links[kept]).only(np.unique(links[kept, 0]))
        require(full, "", dropped)
    return full, tuple(dropped)


def _too_long(model: Encoder, texts: Sequence[str], role: str) -> Iterator[str]:
    """What to say of texts that are longer than the model reads; counted here, since the cache does not tell."""
    limit = model.text.tower.rules.max_tokens
    room = limit - len(model.text.tower.rules.prompt(role).encode()) - 8
    # No tokeniser makes more tokens than bytes: most captions need not be asked.
    likely = [clean(text) for text in texts if not text.isascii() or len(text) > room]
    cut = sum(token.dropped > 0 for token in model.text.tokens(likely, role)) if likely else 0
    if cut:
        yield (
            f"{cut:,} {'text is' if cut == 1 else 'texts are'} longer than the {limit} tokens that "
            f"{model.card.name} reads: {'its end was' if cut == 1 else 'their ends were'} not read."
        )


def _seconds(one: _Pass, run: _Run, examples: Examples, role: str) -> float:
    """How long one input of a pass takes without the cache: of those that were computed, or of a sample."""
    count = run.done + len(run.broken)
    enough = min(count, SAMPLE_PICTURES if one.pictures else SAMPLE_TEXTS)
    if run.done - run.cached < enough:
        good = [place for place in range(count) if place not in run.broken]
        step = max(1, len(good) // max(enough, 1))
        run = _run(one, examples, role, None, good[::step][:enough], cached=False)
    fresh = run.done - run.cached
    return run.seconds / fresh if fresh else 0.0
