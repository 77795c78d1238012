"""The classes that Ray Serve runs, and the application that they make.

Inside of an encoder's replica requests share batches through `bowerbird.serve.batching`, not through `serve.batch`:
that waits for a time and takes what has come in this order, whatever its length, and one input that fails fails the
batch. Ours begins at once when a thread is free, puts texts of like length together within a budget of tokens, lets
short requests pass, and gives every input its own outcome. Cross-encoders are asked for one query at a time, and have
their batch already. So `serve.batch` is used nowhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast

from ray import serve

from bowerbird.flow.recipe import ModelRecipe
from bowerbird.models.crossencoder import CrossEncoder, Judgement
from bowerbird.record import Record
from bowerbird.serve.batching import BusyError, Scheduler
from bowerbird.serve.cluster.packed import Packed
from bowerbird.serve.cluster.plan import Deployed, ServedModel, options, resolved
from bowerbird.serve.cluster.remote import RemoteModels, RemoteRerankers, Towers
from bowerbird.serve.encoders import SharedEncoder
from bowerbird.serve.indexed import ServedIndex
from bowerbird.serve.limits import Limits
from bowerbird.serve.models import Models
from bowerbird.serve.rerankers import Rerankers
from bowerbird.serve.service import LocalService, facts_of

__all__ = [
    "EncoderReplica",
    "IngressReplica",
    "RerankReplica",
    "SearchReplica",
    "WriterReplica",
    "application",
]

_LOG = logging.getLogger("bowerbird.serve")

T = TypeVar("T")

SEARCHES = 32
"""Searches of one replica at once; each waits for its query's vectors most of the time."""


READS = ("facts", "original", "page", "record", "report", "search", "thumbnails")
"""What may be asked of an index by name."""


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
        """
        return Packed.of(await self.shared.embed(inputs, output=output, role=role, normalize=normalize))

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

    async def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """How well each document answers its question, in order."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, self.model.outcomes, pairs)


class SearchReplica:
    """The index, for many readers. Vectors of queries come from the deployments of the encoders.

    A new commit is looked for every few seconds, when `user_config` changes, and when a caller has seen a newer one
    elsewhere; searches that have begun go on with what they began with.

    Args:
        place: of the index.
        towers: by name of each model of the index.
        recipes: likewise.
        rerankers: by name, the handles of the cross-encoders.
        limits: of the service.
        poll: seconds between two looks.
        writable: whether a writer is deployed; it is told, not used.
        threads: that it may use.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        place: str,
        towers: Mapping[str, Towers],
        recipes: Mapping[str, ModelRecipe],
        rerankers: Mapping[str, Any],
        limits: Limits,
        poll: float,
        *,
        writable: bool = False,
        threads: int = 1,
    ) -> None:
        os.environ["BOWERBIRD_THREADS"] = str(threads)
        self.writable = writable
        self.pool = ThreadPoolExecutor(SEARCHES, thread_name_prefix="bowerbird-search")
        self.models = RemoteModels(towers, recipes, limits)
        # In a thread: what it may ask of the encoders is waited for.
        self.index = await asyncio.to_thread(
            ServedIndex,
            place,
            cast("Models", self.models),
            rerankers=cast("Rerankers", RemoteRerankers(rerankers, limits)),
        )
        self.ended = threading.Event()
        threading.Thread(target=self._look, args=(poll,), name="bowerbird-look", daemon=True).start()

    async def read(
        self, method: str, arguments: Sequence[Any], keywords: Mapping[str, Any], seen: int
    ) -> tuple[Any, int]:
        """What one of `READS` of the index gives, and the version that was asked.

        Args:
            method: its name.
            arguments: for it.
            keywords: likewise.
            seen: a version that the caller knows of; an older one is not asked, unless that one is not there any more.
        """
        assert method in READS

        def read() -> tuple[Any, int]:
            if self.version < seen:
                self.index.refresh()
            version = self.version
            if method == "facts":
                return facts_of(self.index, writable=self.writable), version
            return getattr(self.index, method)(*arguments, **keywords), version

        return await self._in(read)

    async def refresh(self) -> tuple[bool, int]:
        """Search what was committed last from now on: whether there was anything new, and its version."""
        fresh = await self._in(self.index.refresh)
        return fresh, self.version

    @property
    def version(self) -> int:
        """Of what is searched at the moment."""
        return self.index.now.manifest.table_version

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Serve calls it when `user_config` has changed, without a restart."""
        await self._in(self.index.refresh)

    async def check_health(self) -> None:
        """Ask the store."""
        await self._in(partial(self.index.page, limit=1))

    def __del__(self) -> None:
        if hasattr(self, "ended"):
            self.ended.set()
            self.pool.shutdown(wait=False, cancel_futures=True)

    async def _in(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, function)

    def _look(self, seconds: float) -> None:
        said = ""
        while not self.ended.wait(seconds):
            try:
                self.index.refresh()
            except Exception as error:  # noqa: BLE001  it is tried again
                # What was searched until now goes on being searched; and it is said once.
                if str(error) != said:
                    said = str(error)
                    _LOG.warning("The newest commit of the index cannot be opened: %s", said)


class WriterReplica:
    """The one who changes the index. It embeds what it adds by itself, so it holds the models of the index.

    Args:
        place: of the index.
        limits: of the service.
        threads: that it may use.
    """

    async def __init__(self, place: str, limits: Limits, threads: int) -> None:  # type: ignore[misc]
        os.environ["BOWERBIRD_THREADS"] = str(threads)
        self.service = await asyncio.to_thread(LocalService, place, limits=limits, writable=True)
        self.tending = asyncio.create_task(self.service.tend())

    async def add(self, records: Sequence[Record]) -> tuple[Any, int]:
        """See `Service.add`; and the version that has them."""
        return await self.service.add(records), self._version()

    async def remove(self, ids: Sequence[str]) -> tuple[int, int]:
        """See `Service.remove`; and the version without them."""
        return await self.service.remove(ids), self._version()

    def _version(self) -> int:
        assert self.service.index is not None
        return self.service.index.now.manifest.table_version


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
    threads = max(1, int(deployed.cpus))

    def bound(name: str, kind: type, *arguments: Any, **keywords: Any) -> Any:
        return serve.deployment(kind).options(name=name, **given[name]).bind(*arguments, **keywords)

    towers = {
        model.name: {
            modality: bound(
                model.deployment(modality), EncoderReplica, model.recipe, modality, threads, limits
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
            deployed.index,
            towers,
            {model.name: model.recipe for model in models},
            rerankers,
            limits,
            deployed.poll_seconds,
            writable=deployed.writable,
            threads=max(1, int(deployed.search_cpus)),
        )
        if deployed.writable:
            parts["writer"] = bound("writer", WriterReplica, deployed.index, limits, threads)
    # Without the index: an ingress reads none.
    own = {name: value for name, value in deployed.to_args().items() if name != "index"}
    return bound("ingress", serve.ingress()(IngressReplica), own, models, towers, rerankers, parts)
