"""Frozen recipes, from which each worker builds its own: sessions and clients are never sent anywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from bowerbird.errors import BowerbirdError, SpaceMismatchError

if TYPE_CHECKING:
    from bowerbird.models.card import ModelCard, Options
    from bowerbird.models.encoder import Encoder


class WorkerLocal:
    """What a worker process makes once and keeps; it arrives empty where it is sent."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._made: dict[str, Any] = {}

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """The thing of that name, made now if it has not been."""
        with self._lock:
            if name not in self._made:
                self._made[name] = make()
            return self._made[name]

    def __reduce__(self) -> tuple[type[WorkerLocal], tuple[()]]:
        return (WorkerLocal, ())


@dataclass(frozen=True)
class ModelRecipe:
    """How a worker loads a model: what `load` is given, and the space that has to come out.

    Attributes:
        name: what the user calls the model.
        source: as of `ModelCard`.
        options: as of `ModelCard`.
        space: fingerprint of the embedding space; a worker that loads another one refuses.
        precision: `auto`, `exact` or `fast`.
        engine: `auto`, `onnxruntime` or `openvino`.
        threads: that the model may use; 0: as many as the worker has processors.
    """

    name: str
    source: str
    options: Options
    space: str
    precision: str = "auto"
    engine: str = "auto"
    threads: int = 0

    @classmethod
    def of(cls, model: str | ModelCard | Encoder) -> ModelRecipe:
        """The recipe of a model: a name as `load` takes it, a card, or an encoder.

        Raises:
            ModelError: there is no such model, or its files cannot be read.
        """
        encoder = encoder_of(model)
        card = encoder.card
        recipe = cls(
            card.name,
            card.source,
            card.options,
            card.space,
            encoder.precision,
            encoder.engine,
            encoder.threads,
        )
        with _LOCK:
            return _keep(recipe, encoder)

    def for_worker(self, threads: int) -> ModelRecipe:
        """The same model, for a worker that may use so many threads."""
        return replace(self, threads=threads)

    def build(self) -> Encoder:
        """The encoder: one for each recipe in a process, however many steps ask for it.

        Raises:
            ModelError: it cannot be loaded here.
            SpaceMismatchError: what lies at its source here is another model.
        """
        with _LOCK:
            found = _BUILT.get(self)
            if found is not None:
                return found
            from bowerbird.models.directory import read_card
            from bowerbird.models.encoder import Encoder

            card = replace(read_card(self.source, self.options), name=self.name)
            if card.space != self.space:
                raise SpaceMismatchError(
                    f"The model {self.source} is of space {card.space} here, and of {self.space} where the run was "
                    "started.",
                    hint="Give every machine the same files of the model, or name a revision: ORG/NAME@REVISION.",
                )
            encoder = Encoder(card, precision=self.precision, engine=self.engine, threads=self.threads)
            _keep(self, encoder)
            return encoder


def encoder_of(model: str | ModelCard | Encoder) -> Encoder:
    """A model however it is given: by a name as `load` takes it, as a card, or as an encoder.

    Raises:
        ModelError: there is no such model, or its files cannot be read.
    """
    from bowerbird.models.card import ModelCard
    from bowerbird.models.encoder import Encoder, load

    if isinstance(model, ModelCard):
        return Encoder(model)
    if isinstance(model, str):
        return load(model)
    if isinstance(model, Encoder):
        return model
    raise BowerbirdError(
        f"A model cannot be given as {type(model).__name__}.",
        hint="Give its name, or what bowerbird.load returned.",
    )


_LOCK = threading.RLock()
# Weak: a model leaves memory with the last step or caller that uses it.
_BUILT: WeakValueDictionary[ModelRecipe, Encoder] = WeakValueDictionary()


def _keep(recipe: ModelRecipe, encoder: Encoder) -> ModelRecipe:
    _BUILT[recipe] = encoder
    return recipe
