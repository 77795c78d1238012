"""A model whose batches are shared: an `Encoder` to whoever uses it, whatever runs behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import InputError, UnsupportedInputError
from bowerbird.models.card import ModelCard
from bowerbird.models.encoder import IMAGE_BATCH, Encoder, Outcome, clean, unit_outcome
from bowerbird.models.text.tower import LONGEST_BATCH, TOKENS_PER_BATCH, TextSide
from bowerbird.models.vision.tower import ImageSide, Input
from bowerbird.serve.batching import Call, Lane, Scheduler, Work

__all__ = ["Answer", "SharedEncoder"]

AT_ONCE = 8192
"""Characters that are tokenised where the request is read; more are in another thread, so that nobody waits."""


@dataclass(frozen=True)
class Answer:
    """What became of the inputs of one request.

    Attributes:
        outcomes: one for each input, in order.
        tokens: that the model has read in all texts, special ones included.
        cut: tokens that did not fit.
        waited: seconds until the first input was begun; 0 where there was nothing to do.
        ran: seconds of the model that this request has taken.
    """

    outcomes: list[Outcome]
    tokens: int = 0
    cut: int = 0
    waited: float = 0.0
    ran: float = 0.0


@dataclass(frozen=True)
class Prepared:
    """An array that is ready for the network: float32 (3, height, width), as of `preprocess="none"`."""

    array: NDArray[np.float32]


class SharedEncoder:
    """A model behind a `Scheduler`: what many threads and requests ask shares batches.

    `outcomes` is that of `Encoder`, so an index can be opened with it.

    Args:
        encoder: the model; its towers are loaded when they are first asked.
        scheduler: runs it.

    Attributes:
        card: of the model.
    """

    def __init__(self, encoder: Encoder, scheduler: Scheduler) -> None:
        self.encoder = encoder
        self.card: ModelCard = encoder.card
        self._scheduler = scheduler
        self._lanes: dict[tuple[str, str], Lane] = {}

    def numerics(self) -> dict[str, dict[str, Any]]:
        """As of `Encoder`."""
        return self.encoder.numerics()

    def warm(self) -> SharedEncoder:
        """Load every tower, and run each once, so that its speed is known.

        Raises:
            ModelError: a tower cannot be loaded.
        """
        self.encoder.warm()
        return self

    def lanes(self) -> list[Lane]:
        """Those that were used so far."""
        return list(self._lanes.values())

    # Asking

    def outcomes(
        self,
        inputs: Iterable[Input | Prepared],
        *,
        output: str = "",
        role: str = "",
        normalize: bool = True,
    ) -> list[Outcome]:
        """As of `Encoder`; waits for its turn. Not to be called by a worker of the scheduler.

        Raises:
            BusyError: too much is waiting.
        """
        asked = _Asked(self, list(inputs), output, role)
        call = self._scheduler.wait(asked.works, len(asked.inputs))
        return asked.answer(call, normalize=normalize).outcomes

    async def embed(
        self,
        inputs: Sequence[Input | Prepared],
        *,
        output: str = "",
        role: str = "",
        normalize: bool = True,
    ) -> Answer:
        """An outcome for each input, in order. Cancelling it takes what has not begun out of the queue.

        Args:
            inputs: a `str` is a text; see `Input` and `Prepared` for pictures.
            output: name of a picture output; empty: the one shared with texts.
            role: name of a prompt of the model.
            normalize: scale vectors to length 1.

        Raises:
            BusyError: too much is waiting.
            ModelFormatError: there is no such output.
        """
        asked = _Asked(self, inputs, output, role)
        if sum(len(value) for value in inputs if isinstance(value, str)) > AT_ONCE:
            await asyncio.to_thread(asked.read_texts)
        call = await self._scheduler.result(asked.works, len(inputs))
        return asked.answer(call, normalize=normalize)

    # Lanes

    def text_lane(self, side: TextSide, role: str) -> Lane:
        """That of texts under one prompt: what is pooled depends on it."""
        key = ("text", side.tower.rules.prompt(role))
        if key not in self._lanes:
            self._lanes[key] = Lane(f"{self.card.name}/text", side.vectors, TOKENS_PER_BATCH, LONGEST_BATCH)
        return self._lanes[key]

    def image_lane(self, side: ImageSide, output: str, *, prepared: bool = False) -> Lane:
        """That of pictures for one output; of prepared ones apart, which are of another type."""
        key = ("prepared" if prepared else "image", output)
        if key not in self._lanes:
            through = side.run_prepared if prepared else side.run

            def run(pixels: Sequence[Any]) -> Sequence[Any]:
                (vectors,) = through(pixels, (output,))
                return list(vectors)

            self._lanes[key] = Lane(f"{self.card.name}/image", run, IMAGE_BATCH, IMAGE_BATCH)
        return self._lanes[key]


class _Asked:
    """The inputs of one request on their way through a model."""

    def __init__(
        self, shared: SharedEncoder, inputs: Sequence[Input | Prepared], output: str, role: str
    ) -> None:
        self.shared = shared
        self.inputs = inputs
        self.output = output
        self.role = role
        self.tokens: dict[int, Any] | None = None
        self.refused: dict[int, InputError] = {}

    def read_texts(self) -> None:
        """Tokenise; where the model takes no texts, or has no such role, each of them has its error."""
        self.tokens = {}
        indices = [index for index, value in enumerate(self.inputs) if isinstance(value, str)]
        if not indices:
            return
        encoder = self.shared.encoder
        card = encoder.card
        outputs = ("", card.text.output if card.text else "", card.image.output if card.image else "")
        try:
            if self.output not in outputs:
                raise UnsupportedInputError(
                    f"Texts have no output {self.output!r}.", hint="Leave out `output` to embed texts."
                )
            texts = [clean(str(self.inputs[index])) for index in indices]
            self.tokens = dict(zip(indices, encoder.text.tokens(texts, self.role), strict=True))
        except UnsupportedInputError as error:
            self.refused.update(dict.fromkeys(indices, error))

    def works(self, call: Call) -> list[Work]:
        """What is to be done for a call."""
        if self.tokens is None:
            self.read_texts()
        assert self.tokens is not None
        encoder, shared = self.shared.encoder, self.shared
        found: list[Work] = []
        if self.tokens:
            side = encoder.text
            lane = shared.text_lane(side, self.role)
            padding = side.tower.rules.padding
            found += [
                Work(call, index, max(len(tokens.ids), padding), tokens, lane)
                for index, tokens in self.tokens.items()
            ]
        pictures = [index for index, value in enumerate(self.inputs) if not isinstance(value, str)]
        if pictures:
            try:
                image = encoder.image
            except UnsupportedInputError as error:
                self.refused.update(dict.fromkeys(pictures, error))
                return found
            output = self.output or image.tower.output
            image.dimensions(output)  # a name that the model does not have is an error of the call
            for index in pictures:
                value = self.inputs[index]
                ready = isinstance(value, Prepared)
                payload = value.array if isinstance(value, Prepared) else value
                lane = shared.image_lane(image, output, prepared=ready)
                size = len(value) if isinstance(value, bytes) else 0
                make = image.prepared if ready else image.ready
                found.append(Work(call, index, 1, payload, lane, make, size=size))
        return found

    def answer(self, call: Call, *, normalize: bool) -> Answer:
        """The outcomes of a call that is finished.

        Raises:
            ModelError: the model failed on every input, which is no fault of theirs.
        """
        outcomes: list[Outcome] = []
        tokens = self.tokens or {}
        for index, result in enumerate(call.results):
            error = self.refused.get(index)
            if error is None and isinstance(result, InputError):
                error = result
            if error is not None:
                outcomes.append(Outcome(index, error=error))
            elif isinstance(result, BaseException):
                raise result
            else:
                lost = tokens[index].dropped if index in tokens else 0
                limit = self.shared.encoder.text.tower.rules.max_tokens if lost else 0
                note = f"cut to {limit} tokens; {lost} more were not read" if lost else ""
                outcomes.append(unit_outcome(index, result, note, normalize=normalize))
        return Answer(
            outcomes,
            sum(len(one.ids) for one in tokens.values()),
            sum(one.dropped for one in tokens.values()),
            max(0.0, call.waited),
            call.ran,
        )
