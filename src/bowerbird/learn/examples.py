"""What is learned from: pictures, what was said of them, and the vectors of both under frozen towers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Picture:
    """One picture, whatever number of rows named it.

    Attributes:
        id: of its record.
        name: for people.
        source: what a model reads: a path, bytes, or something that is read when it is needed.
        content: id of its bytes; pictures with the same one are the same picture.
        part: that the user's data say it is for: `train`, `validation` or `test`; empty: they do not say.
    """

    id: str
    name: str
    source: Any
    content: str
    part: str = ""


@dataclass(frozen=True, eq=False)
class Examples:
    """Pictures, texts, and which belong together.

    Attributes:
        pictures: each once.
        texts: each once, as they are embedded.
        links: int64 (m, 2): place of a picture, place of one of its texts.
        labels: int64 (n,): place in `classes` of each picture's class; None where pairs, not classes, were given.
        classes: names, where there are any; then `texts` holds their prompts.
        images: by tensor of the picture tower, float32 (n, dim), of length 1; empty until they are embedded.
        words: likewise of the text tower, (t, dim).
    """

    pictures: tuple[Picture, ...]
    texts: tuple[str, ...]
    links: Places
    labels: Places | None = None
    classes: tuple[str, ...] = ()
    images: Mapping[str, Vectors] | None = None
    words: Mapping[str, Vectors] | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def digest(self) -> str:
        """What they are, as 16 hexadecimal digits: bytes of the pictures, texts, links and labels, in their order."""
        told = [[picture.content for picture in self.pictures], self.texts, self.links.tolist(), self.classes]
        labels = None if self.labels is None else self.labels.tolist()
        return hashlib.sha256(json.dumps([*told, labels]).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def only(self, pictures: Sequence[int] | Places) -> Examples:
        """Those of some pictures, in their order, with the texts that belong to them; of classes all texts stay."""
        rows = np.asarray(pictures, np.int64)
        place = np.full(len(self.pictures), -1, np.int64)
        place[rows] = np.arange(len(rows))
        links = self.links[place[self.links[:, 0]] >= 0]
        kept = np.arange(len(self.texts)) if self.classes else np.unique(links[:, 1])
        text_place = np.full(len(self.texts), -1, np.int64)
        text_place[kept] = np.arange(len(kept))
        return replace(
            self,
            pictures=tuple(self.pictures[row] for row in rows),
            texts=tuple(self.texts[row] for row in kept),
            links=np.stack([place[links[:, 0]], text_place[links[:, 1]]], 1),
            labels=None if self.labels is None else self.labels[rows],
            images={name: array[rows] for name, array in self.images.items()}
            if self.images is not None
            else None,
            words={name: array[kept] for name, array in self.words.items()}
            if self.words is not None
            else None,
        )
