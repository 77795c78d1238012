"""Bowerbird: embeddings of pictures and text you can trust, and search by meaning.

>>> import bowerbird as bb
>>> model = bb.load("mini")
>>> model.embed(["a red dress", "a pair of shoes"]).shape
(2, 384)

Names are imported when first used: ``import bowerbird`` itself loads no engine and no store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bowerbird.client.client import AsyncClient as AsyncClient
    from bowerbird.client.client import Client as Client
    from bowerbird.collection.collection import Collection as Collection
    from bowerbird.collection.pipelines import pipeline as pipeline
    from bowerbird.collection.samples import samples as samples
    from bowerbird.errors import BowerbirdError as BowerbirdError
    from bowerbird.errors import InputError as InputError
    from bowerbird.errors import InputErrors as InputErrors
    from bowerbird.errors import ServiceError as ServiceError
    from bowerbird.flow.cluster import Ray as Ray
    from bowerbird.flow.local import Local as Local
    from bowerbird.hits import Hit as Hit
    from bowerbird.hits import Hits as Hits
    from bowerbird.learn import losses as losses
    from bowerbird.learn import recipes as recipes
    from bowerbird.learn.finetune.lora import LoRA as LoRA
    from bowerbird.learn.finetune.tune import fine_tune as fine_tune
    from bowerbird.learn.fit import fit as fit
    from bowerbird.media.image import DecodePolicy as DecodePolicy
    from bowerbird.models.card import ModelCard as ModelCard
    from bowerbird.models.crossencoder import CrossEncoder as CrossEncoder
    from bowerbird.models.encoder import Encoder as Encoder
    from bowerbird.models.encoder import Outcome as Outcome
    from bowerbird.models.encoder import load as load
    from bowerbird.models.vision.steps import Steps as Steps
    from bowerbird.record import Failure as Failure
    from bowerbird.record import Modality as Modality
    from bowerbird.record import Record as Record
    from bowerbird.search.index import Index as Index
    from bowerbird.search.query import Query as Query

# Not when first used: the module of the same name would take its place.
from bowerbird.settings import settings

__version__ = "0.1.0"

_HOME = {
    "AsyncClient": "client.client",
    "BowerbirdError": "errors",
    "Client": "client.client",
    "Collection": "collection.collection",
    "CrossEncoder": "models.crossencoder",
    "DecodePolicy": "media.image",
    "Encoder": "models.encoder",
    "Failure": "record",
    "Hit": "hits",
    "Hits": "hits",
    "Index": "search.index",
    "InputError": "errors",
    "InputErrors": "errors",
    "LoRA": "learn.finetune.lora",
    "Local": "flow.local",
    "Modality": "record",
    "ModelCard": "models.card",
    "Outcome": "models.encoder",
    "Query": "search.query",
    "Ray": "flow.cluster",
    "Record": "record",
    "ServiceError": "errors",
    "Steps": "models.vision.steps",
    "fine_tune": "learn.finetune.tune",
    "fit": "learn.fit",
    "load": "models.encoder",
    "pipeline": "collection.pipelines",
    "samples": "collection.samples",
}

# Modules that are used under a short name.
_MODULES = {"losses": "learn.losses", "recipes": "learn.recipes"}

__all__ = ["__version__", "settings", *sorted((*_HOME, *_MODULES))]  # noqa: PLE0604  names of _HOME are strings


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        value: Any = import_module(f"bowerbird.{_MODULES[name]}")
    elif name in _HOME:
        value = getattr(import_module(f"bowerbird.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'bowerbird' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
