"""What is asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import Any

from bowerbird.errors import QueryError
from bowerbird.record import Modality

WORDS = "words"
"""The part of a record that is searched for the words themselves."""

PARTS = (str(Modality.IMAGE), str(Modality.TEXT), WORDS)


@dataclass(frozen=True)
class Query:
    """A question.

    Attributes:
        texts: words to look for.
        image: a picture to look for: a `Path`, or the bytes of a picture file.
        like: id or path of an indexed record.
        weights: one for each text, then one for the picture or the record; empty for equal ones.
        without: words to move away from.
        among: what is searched, with commas between: `image`, the pictures by their vectors; `text`, the texts by
            theirs; `words`, the texts by the words in them (BM25). Empty: pictures and texts, as far as there are any.
        unlike: ids or paths of indexed records to move away from.

    Raises:
        QueryError: nothing is asked, or the parts contradict each other.
    """

    texts: tuple[str, ...] = ()
    image: Path | bytes | None = None
    like: str = ""
    weights: tuple[float, ...] = ()
    without: tuple[str, ...] = ()
    among: str = ""
    unlike: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in (*self.texts, *self.without):
            if not text.strip():
                raise QueryError(
                    "The query is empty.", hint='Say what to look for, such as "a red dress".', param="text"
                )
        for part in self.asked:
            if part not in PARTS:
                near = get_close_matches(part, PARTS, 1)
                raise QueryError(
                    f"There is no part {part!r} to search.{f' Did you mean {near[0]}?' if near else ''}",
                    hint="Use image, text, words, or several with commas between them.",
                    param="among",
                )
        if WORDS in self.asked and not self.texts:
            raise QueryError(
                "Only words can be looked for among words.",
                hint="Give some, or leave the part out.",
                param="among",
            )
        if self.image is not None and self.like:
            raise QueryError(
                "A query picture and a record to be like were both given.",
                hint="Give one of the two.",
                param="like",
            )
        if not self.parts:
            raise QueryError(
                "The query is empty.", hint="Give words, a picture, or a record to be like.", param="text"
            )
        if self.weights and len(self.weights) != self.parts:
            raise QueryError(
                f"{len(self.weights)} weights were given for {self.parts} parts of the query.",
                hint="Give one for each text, then one for the picture.",
                param="weights",
            )
        if any(not math.isfinite(weight) for weight in self.weights) or (
            self.weights and not any(self.weights)
        ):
            raise QueryError(
                f"The weights {self.weights} cannot be used.",
                hint="Give numbers that are not all zero.",
                param="weights",
            )

    @property
    def asked(self) -> tuple[str, ...]:
        """The parts of records that are searched, as `among` has them."""
        return tuple(dict.fromkeys(part for part in map(str.strip, self.among.split(",")) if part))

    @property
    def parts(self) -> int:
        """How many things are looked for."""
        return len(self.texts) + (self.image is not None) + bool(self.like)

    @property
    def modality(self) -> str:
        """`text`, `image`, or `text+image` for a blend."""
        words = bool(self.texts or self.without)
        pictures = self.image is not None or bool(self.like or self.unlike)
        return "+".join(str(m) for m, asked in ((Modality.TEXT, words), (Modality.IMAGE, pictures)) if asked)

    def __str__(self) -> str:
        parts = [*self.texts]
        if self.image is not None:
            parts.append(self.image.name if isinstance(self.image, Path) else "a picture")
        if self.like:
            parts.append(f"like {os.path.basename(self.like)}")
        away = (*self.without, *(f"like {os.path.basename(one)}" for one in self.unlike))
        return " + ".join(parts) + "".join(f" − {one}" for one in away)


def check_request(queries: object, request: Mapping[str, Any]) -> None:
    """See that what `Index.ask_all` is given is of the types that it says.

    Args:
        queries: what is asked.
        request: the other arguments, by name.

    Raises:
        QueryError: one is of another type.
    """
    if not isinstance(queries, Sequence) or any(not isinstance(query, Query) for query in queries):
        raise QueryError(
            "What is asked is no list of queries.",
            hint='Give Query objects, such as Query(texts=("a red dress",)).',
        )
    for name in ("where", "fusion"):
        if not isinstance(request[name], str):
            raise QueryError(f"The {name} {request[name]!r} is no text.", hint=_EXAMPLES[name], param=name)
    models = request["models"]
    several = isinstance(models, Sequence) and all(isinstance(model, str) for model in models)
    if not isinstance(models, str) and not several:
        raise QueryError(f"The models {models!r} are no names.", hint=_EXAMPLES["models"], param="models")
    for name in ("min_match", "threshold"):
        if request[name] is not None and not _is_number(request[name]):
            raise QueryError(f"The {name} {request[name]!r} is no number.", hint=_EXAMPLES[name], param=name)
    weights = request["part_weights"]
    if weights is not None and not (
        isinstance(weights, Mapping) and all(_is_number(weight) for weight in weights.values())
    ):
        raise QueryError(
            f"The part_weights {weights!r} cannot be read.",
            hint=_EXAMPLES["part_weights"],
            param="part_weights",
        )
    if request["rerank"] is not None and not hasattr(request["rerank"], "rerank"):
        raise QueryError(
            f"The rerank {request['rerank']!r} is no reranker.", hint=_EXAMPLES["rerank"], param="rerank"
        )


_EXAMPLES = {
    "where": "Give a filter, such as \"width > 1000 and format = 'JPEG'\".",
    "fusion": "Give its name, such as 'calibrated'.",
    "models": "Give one name, or a list of them.",
    "min_match": "Give one between 0 and 1, such as 0.5.",
    "threshold": "Give one such as 0.3.",
    "part_weights": 'Give numbers by part, such as {"image": 0.7, "text": 0.3}.',
    "rerank": "Give an object of bowerbird.search.rerank, such as reranker('mmr').",
}


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
