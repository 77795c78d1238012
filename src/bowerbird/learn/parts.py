"""What is learned from and what is chosen by, with the vectors of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bowerbird.errors import LearnError
from bowerbird.learn.examples import Examples, Places
from bowerbird.learn.features import Embedded, embed
from bowerbird.learn.split import Split
from bowerbird.learn.towers import Models


class Parts:
    """The examples shared out, with their vectors, and with more of those when a recipe wants them.

    Args:
        models: that embed them.
        embedded: all of them.
        parts: what each is for.
    """

    def __init__(self, models: Models, embedded: Embedded, parts: Split) -> None:
        self.models = models
        self.embedded = embedded
        self.parts = parts
        self._made: dict[str, Examples] = {}

    @property
    def train(self) -> Examples:
        """To learn from."""
        return self._only("train", self.parts.train)

    @property
    def validation(self) -> Examples:
        """To choose by."""
        return self._only("validation", self.parts.validation)

    @property
    def both(self) -> Examples:
        """Of the two, where too few are there to choose by: they are better learned from."""
        return self._only("both", self.used.train)

    @property
    def used(self) -> Split:
        """The split, if both are learned from: nothing is left for validation."""
        train = np.union1d(self.parts.train, self.parts.validation)
        return replace(self.parts, train=train, validation=np.zeros(0, np.int64))

    def _only(self, name: str, places: Places) -> Examples:
        """Made once, and again when there are more vectors: it copies them."""
        if name not in self._made:
            self._made[name] = self.embedded.examples.only(places)
        return self._made[name]

    @property
    def seconds_a_layer(self) -> float:
        """What another layer takes: a pass over the pictures."""
        return len(self.embedded.examples) * self.embedded.seconds_a_picture_pass

    def add(self, tensors: Sequence[str]) -> None:
        """Embed the pictures again, for further tensors."""
        examples = self.embedded.examples
        new = [tensor for tensor in tensors if tensor not in (examples.images or {})]
        if not new:
            return
        more = embed(examples, self.models.image, None, new, ())
        if len(more.examples) != len(examples):
            raise LearnError(
                f"{more.dropped[0].name} can be embedded, but not at {new[0]}: {more.dropped[0].reason}"
            )
        self._made = {}
        self.embedded = self.embedded.with_pictures_of(more)
