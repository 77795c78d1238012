"""The models of an index whose towers run elsewhere: an `Encoder` to whoever searches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bowerbird.errors import InputError, ModelNotFoundError, UnreadableError, UnsupportedInputError
from bowerbird.flow.recipe import ModelRecipe
from bowerbird.models.card import ModelCard
from bowerbird.models.crossencoder import CrossCard, CrossEncoder, Judgement, read_cross_card
from bowerbird.models.encoder import Encoder, Outcome, one_by_one
from bowerbird.models.vision.tower import Input
from bowerbird.serve.cluster.calls import asked_and_waited
from bowerbird.serve.cluster.packed import merged
from bowerbird.serve.encoders import Answer, Prepared
from bowerbird.serve.limits import Limits

__all__ = ["RemoteEncoder", "RemoteModels", "RemoteRerankers", "Towers", "parted", "sent"]

PIECES = {"text": 256, "image": 16}
"""Inputs that travel together: a large request is shared out among replicas, and what a dead one had is asked again."""

Towers = Mapping[str, Any]
"""By modality, the handle of the deployment of a tower."""


def parted(
    name: str, inputs: Sequence[Input | Prepared], towers: Towers
) -> tuple[list[tuple[str, list[int]]], dict[int, InputError]]:
    """Which inputs go where: modality and places of each piece; and what the model has no tower for."""
    kinds: dict[str, list[int]] = {"text": [], "image": []}
    for place, value in enumerate(inputs):
        kinds["text" if isinstance(value, str) else "image"].append(place)
    pieces: list[tuple[str, list[int]]] = []
    refused: dict[int, InputError] = {}
    for modality, places in kinds.items():
        if places and modality not in towers:
            what = "texts" if modality == "text" else "pictures"
            error = UnsupportedInputError(
                f"The model {name!r} takes no {what}.", hint=f"Use a model that takes {what}."
            )
            refused.update(dict.fromkeys(places, error))
            continue
        size = PIECES[modality]
        pieces += [(modality, places[start : start + size]) for start in range(0, len(places), size)]
    return pieces, refused


def sent(value: Input | Prepared) -> Any:
    """An input as it travels: a picture in a file goes as its bytes, which the other machine need not see.

    Raises:
        UnreadableError: there is no such file.
    """
    if not isinstance(value, Path):
        return value
    try:
        return value.read_bytes()
    except OSError as error:
        raise UnreadableError(f"{value}: {error.strerror or error}.") from None


class RemoteEncoder(Encoder):
    """A model of which each tower is a deployment; here is only its card.

    Args:
        name: what requests call it.
        card: of the model.
        towers: that it has.
        seconds: that one call may take, the start of a replica included.
    """

    def __init__(self, name: str, card: ModelCard, towers: Towers, seconds: float) -> None:
        super().__init__(card)
        self.name = name
        self._towers = towers
        self._seconds = seconds

    @property
    def encoder(self) -> RemoteEncoder:
        """Itself: what one who needs an `Encoder` is given in the place of a `SharedEncoder`."""
        return self

    def outcomes(
        self, inputs: Input | Iterable[Input], *, output: str = "", role: str = "", normalize: bool = True
    ) -> list[Outcome]:
        """As of `Encoder`; waits for the deployments.

        Raises:
            BusyError: too much is waiting.
            TimeoutError: there was no answer in time.
        """
        listed = one_by_one(inputs)
        pieces, refused = parted(self.name, listed, self._towers)

        def ask(piece: tuple[str, list[int]]) -> Any:
            modality, places = piece
            given = [sent(listed[place]) for place in places]
            return asked_and_waited(
                self._towers[modality], "embed", given, output, role, normalize, seconds=self._seconds
            )

        if len(pieces) < 2:
            packs = [ask(piece) for piece in pieces]
        else:
            with ThreadPoolExecutor(min(8, len(pieces))) as pool:
                packs = list(pool.map(ask, pieces))
        found: Answer = merged(
            [(places, pack) for (_, places), pack in zip(pieces, packs, strict=True)], refused
        )
        return found.outcomes


class RemoteModels:
    """What a `ServedIndex` takes for the models of the service, where these are deployments.

    Args:
        towers: by name of the model.
        recipes: likewise.
        limits: of the service.
    """

    def __init__(
        self, towers: Mapping[str, Towers], recipes: Mapping[str, ModelRecipe], limits: Limits
    ) -> None:
        self._towers = {recipe.space: towers[name] for name, recipe in recipes.items()}
        self._seconds = limits.request_seconds or 60.0
        self._known: dict[str, RemoteEncoder] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Those that indexes have asked for."""
        return tuple(self._known)

    def add(self, name: str, source: Encoder, *, pinned: bool = False) -> None:
        """Have a model of an index.

        Args:
            name: what the index calls it; another index may call it otherwise.
            source: its card is read; it is not loaded.
            pinned: of no account: its deployments live as they are told.

        Raises:
            ModelNotFoundError: it was not deployed.
        """
        towers = self._towers.get(source.card.space)
        if towers is None:
            raise ModelNotFoundError(
                f"The index has a model {name!r} that is not deployed.",
                hint="Deploy it again: bowerbird deploy ...",
            )
        self._known[name] = RemoteEncoder(name, source.card, towers, self._seconds)

    def pin(self, name: str) -> None:
        """Nothing to do: its deployments live as they are told."""

    def get(self, name: str) -> RemoteEncoder:
        """The model of a name."""
        return self._known[name]


class RemoteCrossEncoder(CrossEncoder):
    """A cross-encoder that runs elsewhere; here is only its card.

    Args:
        card: of it.
        handle: of its deployment.
        seconds: that one call may take.
    """

    def __init__(self, card: CrossCard, handle: Any, seconds: float) -> None:
        self.card = card
        self._handle = handle
        self._seconds = seconds

    def outcomes(self, pairs: Iterable[tuple[str, str]]) -> list[Judgement]:
        """As of `CrossEncoder`; waits for the deployment."""
        found: list[Judgement] = asked_and_waited(self._handle, "judge", list(pairs), seconds=self._seconds)
        return found


class RemoteRerankers:
    """What a `ServedIndex` takes for the cross-encoders of the service, where these are deployments.

    Args:
        handles: by name.
        limits: of the service.
    """

    def __init__(self, handles: Mapping[str, Any], limits: Limits) -> None:
        self._handles = handles
        self._seconds = limits.request_seconds or 60.0

    def get(self, name: str = "") -> CrossEncoder:
        """The cross-encoder of a name.

        Raises:
            ModelNotFoundError: it was not deployed.
        """
        name = name or next(iter(self._handles), "")
        if name not in self._handles:
            raise ModelNotFoundError(
                f"There is no cross-encoder {name!r} here.", hint="Deploy it with --reranker MODEL."
            )
        return RemoteCrossEncoder(read_cross_card(name), self._handles[name], self._seconds)
