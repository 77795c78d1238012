"""What came of a fit: how it went, what it is worth on pictures it has not seen, and how it is kept.

Two files beside the model hold it, and a report needs nothing else: `fit.json`, plain data, and `fit.npz`, the vectors
of the held-out set before and after. A model is made to be given to others, so that neither says where something lay
on the machine it was fitted on: of absolute paths the last part is kept. Thumbnails and texts of what was held out are
in them.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.errors import InputError
from bowerbird.flow.files import from_uri
from bowerbird.flow.pictures import default_policy, opened, read_picture
from bowerbird.flow.sources.addresses import base_name
from bowerbird.learn.examples import Examples, Picture, Places, Vectors
from bowerbird.learn.recall import with_intervals

if TYPE_CHECKING:
    from bowerbird.learn.choose import Try
    from bowerbird.learn.loop import History
    from bowerbird.learn.pairs import Dropped
    from bowerbird.learn.split import Copy

FACTS, ARRAYS = "fit.json", "fit.npz"
FORMAT = 1

SHOWN = 2000
"""Held-out pictures that are kept for the report, at most; of more, a sample is drawn."""

THUMBNAIL = 96
"""Of their longer side, in pixels."""

Told = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By direction, such as `text->image`, and measure: `mean`, `low`, `high`."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Pictures that a fit is judged by, before and after; `part` tells whether it has seen them.

    Attributes:
        part: `test`, or what had to stand in for it: `validation`, `train`.
        examples: the pictures and their texts.
        images_before: float32 (n, d), of length 1, as the models are; None where pictures and texts shared no space.
        texts_before: (t, d), likewise.
        images: (n, dim) as fitted.
        texts: (t, dim) likewise; None where there is no tower for texts.
    """

    part: str
    examples: Examples
    images_before: Vectors | None
    texts_before: Vectors | None
    images: Vectors
    texts: Vectors | None

    @cached_property
    def before(self) -> Told:
        """Figures of the models as they are; empty where pictures and texts shared no space."""
        if self.images_before is None:
            return {}
        return with_intervals(self.examples, self.images_before, self.texts_before)

    @cached_property
    def after(self) -> Told:
        """Figures as fitted."""
        return with_intervals(self.examples, self.images, self.texts)


@dataclass(frozen=True, eq=False)
class Account:
    """How it went, for people and for the report.

    Attributes:
        recipe: as it is written in Python.
        source: of the pairs.
        models: `image` and `text` -> name.
        counts: `pictures`, `texts`, `pairs`, and those for `train`, `validation` and `test`.
        dropped: what could not be used.
        copies: pictures that are copies of each other.
        problems: what a person should know.
        seconds: `embedding`, `training`, `recomputing` (what embedding again in every epoch would have taken) and
            `total`; and `cached`, how many vectors were there already.
        history: of the training; None: there was none.
        choice: between recipes; empty: there was none.
        settings: to do it again.
        versions: of what took part.
        made: when, as ISO 8601 has it.
    """

    recipe: str
    source: str
    models: Mapping[str, str]
    counts: Mapping[str, int]
    dropped: Sequence[Dropped] = ()
    copies: Sequence[Copy] = ()
    problems: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    history: History | None = None
    choice: Sequence[Try] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    made: str = ""


def kept(account: Account, held_out: HeldOut) -> dict[str, bytes]:
    """The two files: name -> content."""
    facts = _facts(account, held_out)
    every = held_out.examples
    images = {"images_before": held_out.images_before, "images_after": held_out.images}
    words = {"texts_before": held_out.texts_before, "texts_after": held_out.texts}
    shown = replace(every, images=_there(images), words=_there(words)).only(_sample(every))
    facts["held_out"] = held_out.part
    facts["held_out_of"] = {"pictures": len(every), "texts": len(every.texts)}
    facts["held_out_pictures"] = [_picture(picture) for picture in shown.pictures]
    facts["held_out_texts"] = list(shown.texts)
    facts["classes"] = list(shown.classes)
    arrays: dict[str, Any] = {"links": shown.links}
    for name, rows in {**(shown.images or {}), **(shown.words or {})}.items():
        arrays[name] = rows.astype(np.float16)
    if shown.labels is not None:
        arrays["labels"] = shown.labels
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return {FACTS: (json.dumps(finite(facts), indent=1) + "\n").encode(), ARRAYS: buffer.getvalue()}


def _there(arrays: Mapping[str, Vectors | None]) -> dict[str, Vectors]:
    return {name: rows for name, rows in arrays.items() if rows is not None}


def _sample(examples: Examples) -> Places:
    """At most `SHOWN` places, in order: drawn, the same ones every time, and as many of each class as its share is."""
    count = len(examples)
    if count <= SHOWN:
        return np.arange(count)
    drawn = np.random.default_rng(0).permutation(count)
    if examples.labels is not None:
        drawn = drawn[np.argsort(examples.labels[drawn], kind="stable")]
    return np.sort(drawn[np.arange(SHOWN) * count // SHOWN])


def _facts(account: Account, held_out: HeldOut) -> dict[str, Any]:
    history = account.history
    return {
        "format": FORMAT,
        "recipe": account.recipe,
        "settings": _without_places(account.settings),
        "source": _without_places(account.source),
        "models": _without_places(account.models),
        "counts": dict(account.counts),
        "dropped": [
            {"name": _without_places(one.name), "reason": _sentence(one.reason)} for one in account.dropped
        ],
        "problems": [_sentence(one) for one in account.problems],
        "copies": [_without_places(asdict(one)) for one in account.copies],
        "seconds": dict(account.seconds),
        "history": [
            {
                "epoch": epoch.number,
                "loss": epoch.loss,
                "metrics": dict(epoch.metrics),
                "seconds": epoch.seconds,
                "lr": epoch.lr,
                "step": epoch.step,
            }
            for epoch in (history.epochs if history else ())
        ],
        "steps": list(history.steps) if history else [],
        "best": history.best if history else 0,
        "stopped": history.stopped if history else "",
        "choice": [asdict(one) for one in account.choice],
        "before": held_out.before,
        "after": held_out.after,
        "versions": dict(account.versions),
        "made": account.made,
    }


def _picture(picture: Picture) -> dict[str, str]:
    names = {"id": picture.id, "name": picture.name}
    return {**{key: _without_places(name) for key, name in names.items()}, "thumbnail": _thumbnail(picture)}


def _without_places(value: Any) -> Any:
    """The same, with the last part alone of each absolute path in it."""
    if isinstance(value, Mapping):
        return {key: _without_places(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(one) for one in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and from_uri(value).startswith(("/", "~/")):
        return base_name(from_uri(value)) or value
    return value


def _sentence(text: str) -> str:
    """The same, with the last part alone of an absolute path in it; folders may have spaces in their names."""
    return _FOLDERS.sub("", text)


_FOLDERS = re.compile(r"(?<![^\s'\"(])(?:file://)?/(?:[^/\n]+/)+")


def _thumbnail(picture: Picture) -> str:
    """A small JPEG in base64; empty where the picture cannot be read any more."""
    policy = default_policy()
    try:
        read = opened(read_picture(picture.source, policy), policy, picture.name, THUMBNAIL)
        return base64.b64encode(read.thumbnail(THUMBNAIL)).decode()
    except InputError:
        return ""


def finite(value: Any) -> Any:
    """Plain data; what is no number, or infinite, is None, as JSON has no word for it."""
    if isinstance(value, Mapping):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
