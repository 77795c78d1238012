"""The classes that Ray Serve runs, and the application that they make.

Inside of an encoder's replica requests share batches through `bowerbird.serve.batching`, not through `serve.batch`:
that waits for a time and takes what has come in this order, whatever its length, and one input that fails fails the
batch. Ours begins at once when a thread is free, puts texts of like length together within a budget of tokens, lets
short requests pass, and gives every input its own outcome. Cross-encoders are asked for one query at a time, and have
their batch already. So `serve.batch` is used nowhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve

import bowerbird
from bowerbird.flow.recipe import ModelRecipe
from bowerbird.models.crossencoder import CrossEncoder, Judgement
from bowerbird.serve.batching import BusyError, Scheduler
from bowerbird.serve.cluster.index import SearchReplica, WriterReplica
from bowerbird.serve.cluster.packed import Packed
from bowerbird.serve.cluster.plan import FRONT, Deployed, ServedModel, options, resolved
from bowerbird.serve.cluster.remote import Towers
from bowerbird.serve.encoders import SharedEncoder
from bowerbird.serve.limits import Limits

__all__ = [
    "EncoderReplica",
    "IngressReplica",
    "RerankReplica",
    "application",
]


class EncoderReplica:
    """One tower of one model. The other one is never loaded here.

    Args:
        recipe: of the model.
        modality: `text` or `image`.
        threads: that it may use.
        limits: of the service.
    """

    def __init__(self, recipe: ModelRecipe, modality: str, threads: int, limits: Limits) -> None:
        # Whatever counts processors in here shall count those of this replica, not of the machine.
        os.environ["BOWERBIRD_THREADS"] = str(threads)
        self.modality = modality
        self.tokens = limits.tokens
        self.encoder = recipe.for_worker(threads).build()
        getattr(self.encoder, modality)  # the tower is loaded
        self.scheduler = Scheduler(
            threads, queue_seconds=limits.queue_seconds, queue_bytes=limits.queue_bytes
        )
        self.shared = SharedEncoder(self.encoder, self.scheduler)

    async def embed(self, inputs: Sequence[Any], output: str, role: str, normalize: bool) -> Packed:
        """An outcome for each input; see `SharedEncoder.embed`.

        Raises:
            BusyError: too much is waiting.
            UnsupportedInputError: there is no such output, or the texts have too many tokens.
        """
        return Packed.of(
            await self.shared.embed(inputs, output=output, role=role, normalize=normalize, tokens=self.tokens)
        )

    async def told(self) -> dict[str, Any]:
        """What is known of a model once its tower is loaded: fields of `ModelState`."""
        numerics = self.encoder.numerics()
        if self.modality == "text":
            side = self.encoder.text
            return {
                "numerics": numerics,
                "dimensions": side.dimensions,
                "max_tokens": side.tower.rules.max_tokens,
                "prompts": tuple(name for name, _ in side.tower.rules.prompts),
            }
        image = self.encoder.image
        dimensions = image.dimensions(image.tower.output)
        return {"numerics": numerics, "dimensions": dimensions, "outputs": image.outputs}

    async def check_health(self) -> None:
        """Run the model; Serve replaces a replica in which that fails."""
        from PIL import Image

        probe: Any = "ready?" if self.modality == "text" else Image.new("RGB", (32, 32), "white")
        try:
            answer = await self.shared.embed([probe])
        except BusyError:
            return  # it is at work
        if error := answer.outcomes[0].error:
            raise error

    def __del__(self) -> None:
        # Serve has waited for what was accepted.
        if hasattr(self, "scheduler"):
            self.scheduler.stop(0.0)


class RerankReplica:
    """A cross-encoder.

    Args:
        name: as `CrossEncoder.load` takes it.
        threads: that it may use.
    """

    def __init__(self, name: str, threads: int) -> None:
        os.environ["BOWERBIRD_THREADS"] = str(threads)
        self.model = CrossEncoder.load(name)
        self.pool = ThreadPoolExecutor(1)

    async def told(self) -> dict[str, Any]:
        """What is known of it: fields of `ModelState`."""
        return {"max_tokens": self.model.card.rules.max_tokens, "space": self.model.space}

    async def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """How well each document answers its question, in order."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, self.model.outcomes, pairs)


class IngressReplica:
    """The API and the page, over a `RayService`.

    Args:
        args: of `Deployed`, without what only others need.
        models: that are served.
        towers: by name of each model.
        rerankers: by name of each cross-encoder.
        parts: the handles of `search` and `writer`, as far as there are any.
    """

    def __init__(
        self,
        args: Mapping[str, Any],
        models: Sequence[ServedModel],
        towers: Mapping[str, Towers],
        rerankers: Mapping[str, Any],
        parts: Mapping[str, Any],
    ) -> None:
        from bowerbird.serve.cluster.service import RayService

        deployed = Deployed.of(args)
        self.deployed = deployed
        self.service = RayService(models, towers, rerankers, parts, deployed.caps())

    def __serve_build_asgi_app__(self) -> Any:
        """What `serve.ingress` serves."""
        from bowerbird.serve.cluster.front import Front

        return Front(self.service, self.deployed)


def application(args: Mapping[str, Any]) -> Any:
    """The application of a Serve config file, and of `bowerbird deploy`.

    Args:
        args: fields of `Deployed`.

    Raises:
        BowerbirdError: what is asked for cannot be deployed.
    """
    deployed = Deployed.of(args)
    models = resolved(deployed)
    given = options(deployed, models)
    limits = deployed.caps()
    of_encoders = Limits(
        tokens=limits.tokens, queue_seconds=limits.queue_seconds, queue_bytes=limits.queue_bytes
    )
    threads = max(1, int(deployed.cpus))

    named: dict[int, str] = {}

    def bound(name: str, kind: type, *arguments: Any, **keywords: Any) -> Any:
        made = serve.deployment(kind).options(name=name, **given[name])
        # Serve renews what has another version; without one of ours, all that is deployed again.
        version = _digest((kind.__name__, arguments, keywords), named)
        made = made.options(version=version, _internal=True).bind(*arguments, **keywords)
        named[id(made)] = name
        return made

    towers = {
        model.name: {
            modality: bound(
                model.deployment(modality), EncoderReplica, model.recipe, modality, threads, of_encoders
            )
            for modality in model.modalities
        }
        for model in models
    }
    parts: dict[str, Any] = {}
    deployments = [name for name in given if name.startswith("rerank-")]
    rerankers = {
        name: bound(deployment, RerankReplica, name, threads)
        for name, deployment in zip(deployed.rerankers, deployments, strict=True)
    }
    if deployed.index:
        parts["search"] = bound(
            "search",
            SearchReplica,
            towers,
            {model.name: model.recipe for model in models},
            rerankers,
            limits,
            deployed.poll_seconds,
            writable=deployed.writable,
            threads=max(1, int(deployed.search_cpus)),
        )
        if deployed.writable:
            parts["writer"] = bound("writer", WriterReplica, limits, threads)
    own = {name: value for name, value in deployed.to_args().items() if name in FRONT}
    return bound("ingress", serve.ingress()(IngressReplica), own, models, towers, rerankers, parts)


def _digest(value: Any, named: Mapping[int, str]) -> str:
    """Of what a deployment is made of, by this version of the package.

    Args:
        value: plain data, and other deployments.
        named: names of these, by their `id`.
    """

    def told(one: Any) -> Any:
        if id(one) in named:
            return named[id(one)]
        if isinstance(one, Mapping):
            return {str(name): told(each) for name, each in one.items()}
        if isinstance(one, (list, tuple)):
            return [told(each) for each in one]
        return one

    return hashlib.sha256(repr((bowerbird.__version__, told(value))).encode()).hexdigest()
