"""A model whose batches are shared: an `Encoder` to whoever uses it, whatever runs behind it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.errors import BowerbirdError, InputError, ModelFormatError, UnsupportedInputError
from bowerbird.models.card import ModelCard
from bowerbird.models.encoder import IMAGE_BATCH, Encoder, Outcome, clean, one_by_one, unit_outcome
from bowerbird.models.text.tokens import Tokens
from bowerbird.models.text.tower import LONGEST_BATCH, TOKENS_PER_BATCH, TextSide
from bowerbird.models.vision.tower import ImageSide, Input
from bowerbird.serve.batching import BusyError, Scheduler
from bowerbird.serve.lanes import Call, Lane, Work
from bowerbird.serve.threads import Threads
from bowerbird.serve.tokenising import tokens_of

__all__ = ["Answer", "SharedEncoder", "TooManyTokensError", "check_characters", "check_tokens"]

_LOG = logging.getLogger("bowerbird.serve")

AT_ONCE = 8192
"""Characters that are tokenised where the request is read; more are in another thread, so that nobody waits."""

TOKEN_CHARACTERS = 16
"""Of a token, more than in any language on average: texts of more are refused without counting their tokens."""

RUN_TOKENS = 12
"""What a run of a text tower costs beside its tokens, in tokens."""

TEXT_BYTES, TOKEN_BYTES = 400, 44
"""What a text holds that waits, and each of its tokens."""

READERS = Threads("bowerbird-tokens", 2, seconds=10.0, most=256)
"""Who sends much text waits for others who do, and for nobody else."""

PROBE = "A photograph of a red dress in a shop window."


@dataclass(frozen=True)
class Answer:
    """What became of the inputs of one request.

    Attributes:
        outcomes: one for each input, in order.
        tokens: that the model has read in all texts, special ones included.
        cut: tokens that did not fit.
        waited: seconds until the first input was begun; 0 where there was nothing to do.
        ran: seconds of the model that this request has taken.
        decoded: seconds that decoding and preparing its pictures took, of all workers together.
        pictures: that were given, readable or not.
    """

    outcomes: list[Outcome]
    tokens: int = 0
    cut: int = 0
    waited: float = 0.0
    ran: float = 0.0
    decoded: float = 0.0
    pictures: int = 0


@dataclass(frozen=True)
class Prepared:
    """An array that is ready for the network: float32 (3, height, width), as of `preprocess="none"`."""

    array: NDArray[np.float32]


class TooManyTokensError(UnsupportedInputError):
    """The texts of one request have more tokens than are taken at once."""


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
        self._lock = threading.Lock()

    def numerics(self) -> dict[str, dict[str, Any]]:
        """As of `Encoder`."""
        return self.encoder.numerics()

    def warm(self) -> SharedEncoder:
        """Load every tower, and run each, so that its speed is known before anybody waits for it.

        Raises:
            ModelError: a tower cannot be loaded, or fails.
        """
        encoder = self.encoder.warm()
        if self.card.text:
            side = encoder.text
            tokens = side.tokens([PROBE] * 4)
            lane = self.text_lane(side, "")
            side.vectors(tokens[:1])  # the first run of a network is slower than any other
            began = time.perf_counter()
            side.vectors(tokens)
            lane.learn(sum(_cost(side, one) for one in tokens), time.perf_counter() - began)
        if self.card.image and not encoder.image.tower.prepared:
            image = encoder.image
            output = image.tower.output
            pixels = image.ready(Image.new("RGB", (64, 64), "white"))
            image.run([pixels], (output,))
            began = time.perf_counter()
            image.run([pixels], (output,))
            self.image_lane(image, output).learn(1, time.perf_counter() - began)
        return self

    def lanes(self) -> list[Lane]:
        """Those that were used so far."""
        with self._lock:
            return list(self._lanes.values())

    # Asking

    def outcomes(
        self,
        inputs: Input | Iterable[Input | Prepared],
        *,
        output: str = "",
        role: str = "",
        normalize: bool = True,
    ) -> list[Outcome]:
        """As of `Encoder`; waits for its turn. Not to be called by a worker of the scheduler.

        Raises:
            BusyError: too much is waiting.
            ModelError: the model failed on every input.
        """
        self._scheduler.check()
        asked = _Asked(self, one_by_one(inputs), output, role)  # type: ignore[arg-type]
        call = self._scheduler.wait(asked.works, len(asked.inputs))
        return asked.answer(call, normalize=normalize).outcomes

    async def embed(
        self,
        inputs: Sequence[Input | Prepared],
        *,
        output: str = "",
        role: str = "",
        normalize: bool = True,
        tokens: int = 0,
    ) -> Answer:
        """An outcome for each input, in order. Cancelling it takes what has not begun out of the queue.

        Args:
            inputs: a `str` is a text; see `Input` and `Prepared` for pictures.
            output: name of a picture output; empty: the one shared with texts.
            role: name of a prompt of the model.
            normalize: scale vectors to length 1.
            tokens: that all texts may have together, as the model counts them; 0: any number.

        Raises:
            BusyError: too much is waiting.
            UnsupportedInputError: there is no such output, or the texts have more tokens.
            ModelError: the model failed on every input.
        """
        self._scheduler.check()  # what would be refused is not tokenised first
        asked = _Asked(self, inputs, output, role)
        characters = sum(len(value) for value in inputs if isinstance(value, str))
        check_characters(characters, tokens)
        if characters > min(AT_ONCE, tokens or AT_ONCE):
            await READERS.run(asked.read_texts)
            asked.check(tokens)
        call = await self._scheduler.result(asked.works, len(inputs))
        return asked.answer(call, normalize=normalize)

    # Lanes

    def text_lane(self, side: TextSide, role: str) -> Lane:
        """That of texts under one prompt: what is pooled depends on it."""
        prompt = side.tower.rules.prompt(role)

        def made() -> Lane:
            return Lane(f"{self.card.name}/text", side.vectors, TOKENS_PER_BATCH, LONGEST_BATCH, RUN_TOKENS)

        return self._lane("text", prompt, made)

    def image_lane(self, side: ImageSide, output: str, *, prepared: bool = False) -> Lane:
        """That of pictures for one output; of prepared ones apart, which are of another type."""
        through = side.run_prepared if prepared else side.run

        def run(pixels: Sequence[Any]) -> Sequence[Any]:
            (vectors,) = through(pixels, (output,))
            return list(vectors)

        def made() -> Lane:
            return Lane(f"{self.card.name}/image", run, IMAGE_BATCH, IMAGE_BATCH)

        return self._lane("prepared" if prepared else "image", output, made)

    def _lane(self, kind: str, name: str, made: Callable[[], Lane]) -> Lane:
        """One for each name, whatever number of threads ask; as fast as others of its tower to begin with."""
        with self._lock:
            if (kind, name) not in self._lanes:
                lane = made()
                like = [known.speed for known in self._lanes.values() if known.name == lane.name]
                lane.speed = next(filter(None, like), 0.0)
                self._lanes[kind, name] = lane
            return self._lanes[kind, name]


def check_characters(total: int, most: int) -> None:
    """Refuse texts that have more tokens than are taken, as can be seen without counting them.

    Args:
        total: characters of all texts.
        most: tokens that are taken; 0: any number.

    Raises:
        TooManyTokensError: there are more.
    """
    if most and total > TOKEN_CHARACTERS * most:
        raise TooManyTokensError(
            f"The texts have {total:,} characters, and so more than the {most:,} tokens together "
            "that are taken at once.",
            hint="Send them in several requests.",
        )


def check_tokens(total: int, most: int) -> None:
    """Refuse more tokens than are taken; 0: any number is.

    Raises:
        TooManyTokensError: there are more.
    """
    if most and total > most:
        raise TooManyTokensError(
            f"The texts have {total:,} tokens together; {most:,} are taken at once.",
            hint="Send them in several requests.",
        )


class _Asked:
    """The inputs of one request on their way through a model."""

    def __init__(
        self, shared: SharedEncoder, inputs: Sequence[Input | Prepared], output: str, role: str
    ) -> None:
        self.shared = shared
        self.inputs = inputs
        self.output = output
        self.role = role
        self.tokens: dict[int, Tokens] | None = None
        self.begun: set[int] = set()  # of which only about is known how many more tokens they have
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
                raise _about(
                    "output",
                    UnsupportedInputError(
                        f"Texts have no output {self.output!r}.", hint="Leave out `output` to embed texts."
                    ),
                )
            texts = [clean(str(self.inputs[index])) for index in indices]
            side = encoder.text
            try:
                tokens, begun = tokens_of(side, texts, self.role)
            except UnsupportedInputError as error:
                raise _about("role", error) from None
            self.tokens = dict(zip(indices, tokens, strict=True))
            self.begun = {indices[place] for place in begun}
        except UnsupportedInputError as error:
            self.refused.update(dict.fromkeys(indices, error))

    def check(self, most: int) -> None:
        """Refuse more tokens than are taken.

        Raises:
            UnsupportedInputError: there are more.
        """
        check_tokens(sum(len(one.ids) for one in (self.tokens or {}).values()), most)

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
            found += [
                Work(call, index, _cost(side, tokens), tokens, lane, size=_size(tokens))
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
            try:
                image.dimensions(output)
            except ModelFormatError as error:  # the fault of whoever asks, and of the whole call
                told = UnsupportedInputError(error.message, hint=error.hint)
                raise _about("output", told) from None
            for index in pictures:
                value = self.inputs[index]
                ready = isinstance(value, Prepared)
                payload = value.array if isinstance(value, Prepared) else value
                lane = shared.image_lane(image, output, prepared=ready)
                make = image.prepared if ready else image.ready
                found.append(Work(call, index, 1, payload, lane, make, _size(payload)))
        return found

    def answer(self, call: Call, *, normalize: bool) -> Answer:
        """The outcomes of a call that is finished.

        Raises:
            ModelError: the model failed on every input, which is no fault of theirs.
        """
        tokens = self.tokens or {}
        lost = {index: one.dropped for index, one in tokens.items() if one.dropped}
        limit = self.shared.encoder.text.tower.rules.max_tokens if lost else 0
        outcomes: list[Outcome] = []
        for index, result in enumerate(call.results):
            error = self.refused.get(index) or _as_input_error(result, call)
            if error is not None:
                outcomes.append(Outcome(index, error=error))
                continue
            about = "about " if index in self.begun else ""
            note = f"cut to {limit} tokens; {about}{lost[index]} more were not read" if index in lost else ""
            outcomes.append(unit_outcome(index, result, note, normalize=normalize))
        return Answer(
            outcomes,
            tokens=sum(len(one.ids) for one in tokens.values()),
            cut=sum(lost.values()),
            waited=max(0.0, call.waited),
            ran=call.ran,
            decoded=call.prepared,
            pictures=sum(not isinstance(value, str) for value in self.inputs),
        )


def _as_input_error(result: Any, call: Call) -> InputError | None:
    """What is wrong with an input. A model that fails on every one is not their fault: that is raised."""
    if not isinstance(result, BaseException):
        return None
    if isinstance(result, InputError):
        return result
    if isinstance(result, BusyError) or all(
        isinstance(other, BaseException) for other in call.results if other is not None
    ):
        raise result
    said = result.message if isinstance(result, BowerbirdError) else str(result)
    _LOG.warning("A model failed on one input alone: %s", said)
    return InputError("The model failed on this input alone.", hint="Leave it out.")


def _about(param: str, error: UnsupportedInputError) -> UnsupportedInputError:
    """An error of an argument of the call, rather than of an input."""
    error.param = param
    return error


def _cost(side: TextSide, tokens: Tokens) -> int:
    """What a text takes of a batch."""
    return max(1, len(tokens.ids), side.tower.rules.padding)


def _size(payload: Any) -> int:
    """Bytes that an input holds while it waits; about."""
    if isinstance(payload, bytes):
        return len(payload)
    if isinstance(payload, Tokens):
        return TEXT_BYTES + TOKEN_BYTES * len(payload.ids)
    if isinstance(payload, Image.Image):
        return payload.width * payload.height * len(payload.getbands())
    return int(getattr(payload, "nbytes", 0))
