"""From examples to batches: pictures are read, decoded and prepared in threads while the network learns.

A picture is decoded as search decodes it, and prepared by the stack's own processor: what the network learns from is
what it will be asked with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import InputError, LearnError
from bowerbird.flow.pictures import default_policy, opened, read_picture
from bowerbird.learn.examples import Examples, Picture
from bowerbird.learn.split import draw
from bowerbird.lookahead import chunks, ordered_map
from bowerbird.origin.original import Feeds, Original, Tower
from bowerbird.origin.packages import TRAIN, need
from bowerbird.settings import settings

KEPT_BYTES = 1 << 30
"""Prepared pictures that stay in memory from one epoch to the next; the others are read again."""

QUERY = "query"
"""The prompt, where a model has one of that name, that texts are given: they are what pictures are searched with."""

_AT_ONCE = 32
"""Pictures or texts in a batch where nothing is learned."""


@dataclass
class Batch:
    """Pairs, prepared.

    Attributes:
        image: inputs of the tower for pictures, by name, tensors (b, ...).
        text: likewise; None where there is no tower for texts.
        pictures: int64 (b,): place of each picture in the examples.
        captions: int64 (b,): place of its text.
        labels: int64 (b,): its class; None: there are none.
    """

    image: Mapping[str, Any]
    text: Mapping[str, Any] | None
    pictures: Any
    captions: Any
    labels: Any = None

    def __len__(self) -> int:
        return len(self.pictures)

    def to(self, device: Any, non_blocking: bool = False) -> Batch:
        """The same on a device."""
        del non_blocking

        def moved(feeds: Mapping[str, Any] | None) -> Any:
            return feeds and {name: value.to(device) for name, value in feeds.items()}

        return replace(
            self,
            image=moved(self.image),
            text=moved(self.text),
            pictures=self.pictures.to(device),
            captions=self.captions.to(device),
            labels=None if self.labels is None else self.labels.to(device),
        )


class Feeder:
    """Prepares the pictures and texts of some examples for a model.

    Args:
        original: the model.
        kept: bytes of prepared pictures that may stay in memory.
    """

    def __init__(self, original: Original, *, kept: int = KEPT_BYTES) -> None:
        self._original = original
        self._threads = settings().worker_threads
        self._policy = default_policy()
        self._left = kept
        self._lock = Lock()
        self._pictures: dict[str, Feeds] = {}
        self._texts: dict[str, Feeds] = {}
        text = original.text
        self._role = QUERY if text and QUERY in text.roles else ""

    def pictures(self, pictures: Sequence[Picture], at_once: int = _AT_ONCE) -> Iterator[dict[str, Any]]:
        """Batches of pictures, in order.

        Raises:
            LearnError: one can no longer be read.
        """
        tower = _tower(self._original.image, self._original, "pictures")
        prepared = ordered_map(self._picture, pictures, threads=self._threads)
        for batch in chunks(prepared, at_once):
            yield _tensors(collated(batch, tower))

    def by_share(self, shares: Sequence[Sequence[Picture]]) -> Iterator[dict[str, Any]]:
        """Batches of the given pictures, in order, each read while those before it are in use."""
        tower = _tower(self._original.image, self._original, "pictures")
        prepared = ordered_map(self._picture, chain.from_iterable(shares), threads=self._threads)
        for share in shares:
            yield _tensors(collated(list(islice(prepared, len(share))), tower))

    def texts(self, texts: Sequence[str], at_once: int = _AT_ONCE) -> Iterator[dict[str, Any]]:
        """Batches of texts, in order."""
        tower = _tower(self._original.text, self._original, "texts")
        for batch in chunks(texts, at_once):
            yield _tensors(collated([self._text(text) for text in batch], tower))

    def _picture(self, picture: Picture) -> Feeds:
        if found := self._pictures.get(picture.content):
            return found
        try:
            data = read_picture(picture.source, self._policy)
            image = opened(data, self._policy, picture.name).image
        except InputError as error:
            raise LearnError(
                f"{picture.name} can no longer be read: {error.message}",
                hint="Put it back and resume the run.",
            ) from error
        tower = _tower(self._original.image, self._original, "pictures")
        feeds = tower.prepare(image, "")
        size = sum(array.nbytes for array in feeds.values())
        with self._lock:
            if size <= self._left:
                self._left -= size
                self._pictures[picture.content] = feeds
        return feeds

    def _text(self, text: str) -> Feeds:
        # Not in threads: fast tokenizers are changed by the way they are called.
        if text not in self._texts:
            self._texts[text] = _tower(self._original.text, self._original, "texts").prepare(text, self._role)
        return self._texts[text]


class Batches:
    """`batches(epoch)`: the pairs of some examples in an order of that epoch's own, as the loop takes them.

    Each picture comes once in an epoch, with one of its texts, drawn anew each time.

    Args:
        examples: to learn from.
        feeder: prepares them.
        batch_size: pairs in a batch, of all processes together.
        seed: of the order and of the texts drawn.
        rank: which of the processes this is; each gets its share of every batch.
        count: how many there are.
        texts: whether the texts take part.
    """

    def __init__(
        self,
        examples: Examples,
        feeder: Feeder,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        count: int = 1,
        texts: bool = True,
    ) -> None:
        self._examples = examples
        self._feeder = feeder
        self._size = batch_size
        self._seed = seed
        self._rank, self._count = rank, count
        self._with_texts = texts

    def __call__(self, epoch: int) -> _Epoch:
        """The batches of an epoch, counted from 1; the same ones whenever it is asked for."""
        links = draw(self._examples, epoch - 1, self._seed)
        links = links[np.random.default_rng([self._seed, epoch]).permutation(len(links))]
        whole = [links[start : start + self._size] for start in range(0, len(links), self._size)]
        # A pair alone has no negatives, and every process needs one at least.
        whole = [batch for batch in whole if len(batch) >= max(2, self._count)] or whole[:1]
        return _Epoch(self, [np.array_split(batch, self._count)[self._rank] for batch in whole])

    def prepared(self, shares: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """Batches of some links, made while the one before is in use."""
        torch = need("torch", TRAIN)
        examples = self._examples
        feeds = self._feeder.by_share([[examples.pictures[row] for row, _ in links] for links in shares])
        for links, image in zip(shares, feeds, strict=True):
            pictures, captions = torch.from_numpy(np.ascontiguousarray(links.T))
            text = None
            if self._with_texts:
                text = next(self._feeder.texts([examples.texts[row] for _, row in links], len(links)))
            labels = None if examples.labels is None else torch.from_numpy(examples.labels[links[:, 0]])
            yield Batch(image, text, pictures, captions, labels)


class _Epoch:
    """One epoch's batches, with a length."""

    def __init__(self, batches: Batches, shares: list[NDArray[np.int64]]) -> None:
        self._batches = batches
        self._shares = shares

    def __len__(self) -> int:
        return len(self._shares)

    def __iter__(self) -> Iterator[Batch]:
        return self._batches.prepared(self._shares)


def collated(feeds: Sequence[Feeds], tower: Tower) -> Feeds:
    """Several prepared inputs as one batch; texts are padded with zeros on the right, which their mask leaves out.

    Raises:
        LearnError: they are of several sizes and there is no mask.
    """
    found: Feeds = {}
    for name in tower.inputs:
        arrays = [one[name] for one in feeds]
        if any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
            if "attention_mask" not in tower.inputs:
                raise LearnError(
                    f"{tower.graph} takes inputs of several sizes and no mask: they cannot be put into one batch.",
                    hint="Use a processor that crops pictures to one size.",
                )
            width = max(array.shape[1] for array in arrays)
            arrays = [np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in arrays]
        found[name] = np.concatenate(arrays)
    return found


def _tensors(feeds: Feeds) -> dict[str, Any]:
    torch = need("torch", TRAIN)
    return {name: torch.from_numpy(array) for name, array in feeds.items()}


def _tower(tower: Tower | None, original: Original, what: str) -> Tower:
    if tower is None:
        raise LearnError(f"{original.name} does not take {what}.")
    return tower
