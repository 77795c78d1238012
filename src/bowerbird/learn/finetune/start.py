"""Before anything learns: everything is embedded once as the model is, shared out, and new layers begin from that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bowerbird.errors import LearnError
from bowerbird.learn.choose import ENOUGH
from bowerbird.learn.examples import Examples, Vectors
from bowerbird.learn.finetune.classify import LOGITS, Layer, class_loss, first_layer
from bowerbird.learn.finetune.sources import first_bridge
from bowerbird.learn.finetune.training import Job, Ready, ready, unit, vectors
from bowerbird.learn.split import Split, split
from bowerbird.origin.original import Original
from bowerbird.origin.reference import probes


@dataclass(frozen=True, eq=False)
class Start:
    """A model that is about to learn, and what it is before that.

    Attributes:
        job: what is to be learned.
        made: the model.
        parts: which pictures are for what.
        part: name of the held-out one.
        held: its pictures.
        images: of the held-out pictures, as the model gives them before; None where two models shared no space.
        texts: likewise.
        scores: see `Tuned`.
        problems: what a person should know.
    """

    job: Job
    made: Ready
    parts: Split
    part: str
    held: Examples
    images: Vectors | None
    texts: Vectors | None
    scores: int
    problems: tuple[str, ...]


def begin(job: Job, examples: Examples, validation: Any, test: Any) -> Start:
    """Everything is embedded once: for near copies, for the beginning of new layers, and for the figures before."""
    labels = examples.labels
    # With a layer of nothing for now, since the pictures' vectors are needed to begin it.
    blank = Layer(np.zeros((1, 1), np.float32), np.zeros(1, np.float32)) if labels is not None else None
    made = ready(replace(job, layer=blank))
    scores = _scores(made.tuning.original)
    raw, words = vectors(made, examples, raw=True)
    parts = split(
        replace(examples, images={"embedding": unit(raw)}),
        validation=float(validation) if isinstance(validation, float | int) else 0.0,
        test=float(test) if isinstance(test, float | int) else 0.0,
        seed=job.schedule.seed,
    )
    named = (("test", parts.test), ("validation", parts.validation), ("train", parts.train))
    part, places = next((name, places) for name, places in named if len(places))
    train, chosen_by = examples.only(parts.train), examples.only(parts.validation)
    problems = list(parts.problems)
    choose = len(chosen_by) >= ENOUGH
    if not choose:
        problems.append(
            f"{len(chosen_by)} pictures for validation are too few to choose an epoch by (at least {ENOUGH}): the last "
            "one stands."
        )
    if part != "test":
        problems.append(f"There are no pictures for a test: the figures are those of the {part} set.")
    changed: dict[str, Any] = {}
    if train.labels is not None:
        changed["layer"] = first_layer(raw[parts.train], train.labels, len(examples.classes))
    if job.text_source and words is not None:
        of_train = examples.links[np.isin(examples.links[:, 0], parts.train)]
        changed["bridge"] = first_bridge(raw, words, of_train)
    elif words is not None and raw.shape[1] != words.shape[1]:
        raise LearnError(
            f"{made.tuning.original.name} gives vectors of {raw.shape[1]} for pictures and of "
            f"{words.shape[1]} for texts, which are not in one space."
        )
    job = replace(job, train=train, validation=chosen_by, choose=choose, **changed)
    if job.bridge is not None:
        made = replace(ready(job), feeder=made.feeder)
    elif job.layer is not None:
        made = replace(made, loss=class_loss(job.layer, made.loss.contrast))
    held = examples.only(places)
    shared = not job.text_source
    return Start(
        job,
        made,
        parts,
        part,
        held,
        raw[places] if shared or labels is not None else None,
        _of(words, examples, held) if shared else None,
        scores,
        tuple(problems),
    )


def _of(words: Vectors | None, examples: Examples, some: Examples) -> Vectors | None:
    """The vectors of the texts of some examples."""
    if words is None:
        return None
    place = {text: row for row, text in enumerate(examples.texts)}
    return words[[place[text] for text in some.texts]]


def _scores(original: Original) -> int:
    """How many classes the model's own final layer tells apart."""
    tower = original.image
    if tower is None or LOGITS not in tower.outputs:
        return 0
    given = tower.run(tower.prepare(probes()[0].image, ""))
    return int(given[LOGITS].shape[-1])
