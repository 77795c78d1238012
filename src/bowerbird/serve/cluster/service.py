"""The service whose work is done by deployments on Ray: what an ingress asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from bowerbird.errors import InputError, ModelNotFoundError
from bowerbird.hits import Hits
from bowerbird.media.policy import DecodePolicy
from bowerbird.models.crossencoder import Judgement
from bowerbird.models.vision.tower import Input
from bowerbird.record import Record
from bowerbird.serve.cluster.calls import asked
from bowerbird.serve.cluster.packed import Packed, merged
from bowerbird.serve.cluster.plan import ServedModel
from bowerbird.serve.cluster.remote import Towers, parted, sent
from bowerbird.serve.encoders import Answer, Prepared, check_characters, check_tokens
from bowerbird.serve.indexed import Added, Ask, Page, Stored
from bowerbird.serve.limits import Limits
from bowerbird.serve.models import ModelState
from bowerbird.serve.service import Facts, NoIndexError, NotServedError, Readiness, ReadOnlyError

__all__ = ["RayService"]

STATUS_SECONDS = 1.0
"""What Serve's controller says of the deployments is asked for so often at the most."""


class RayService:
    """A `Service` over handles of deployments. What only reads is asked again where a replica has died with it.

    Args:
        models: that are served, the first being the default.
        towers: by name of each model, the handles of its towers.
        rerankers: by name of each cross-encoder, its handle.
        parts: the handles of `search` and `writer`, as far as these are deployed.
        limits: of the service.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        towers: Mapping[str, Towers],
        rerankers: Mapping[str, Any],
        parts: Mapping[str, Any],
        limits: Limits,
    ) -> None:
        self._models = {model.name: model for model in models}
        self._towers = towers
        self._rerankers = rerankers
        self._parts = parts
        self._limits = limits
        self._seen = 0
        self._told: dict[str, dict[str, Any]] = {}
        self._since: dict[str, float] = {}
        self._used: dict[str, float] = {}
        self._status: tuple[float, Mapping[str, Any]] = (0.0, {})

    @property
    def limits(self) -> Limits:
        """See `Service`."""
        return self._limits

    async def embed(
        self,
        model: str,
        inputs: Sequence[Input | Prepared],
        *,
        output: str = "",
        role: str = "",
        normalize: bool = True,
    ) -> Answer:
        """See `Service`. Texts and pictures go to deployments of their own, large requests to several replicas."""
        name = self._named(model)
        self._used[name] = time.time()
        towers = self._towers[name]
        check_characters(sum(len(value) for value in inputs if isinstance(value, str)), self._limits.tokens)
        pieces, refused = parted(name, inputs, towers)
        listed: list[Any] = []
        for value in inputs:
            try:
                listed.append(sent(value))
            except InputError as error:
                refused[len(listed)] = error
                listed.append(None)
        pieces = [(modality, [p for p in places if p not in refused]) for modality, places in pieces]

        async def ask(modality: str, places: Sequence[int]) -> tuple[Sequence[int], Packed]:
            given = [listed[place] for place in places]
            return places, await asked(towers[modality], "embed", given, output, role, normalize)

        answer = merged(await _together([ask(*piece) for piece in pieces if piece[1]]), refused)
        check_tokens(answer.tokens, self._limits.tokens)  # each piece was held to it by itself
        return answer

    async def rerank(self, model: str, query: str, documents: Sequence[str]) -> list[Judgement]:
        """See `Service`."""
        name = model or next(iter(self._rerankers), "")
        if name not in self._rerankers:
            raise ModelNotFoundError(
                f"There is no cross-encoder {name!r} here." if name else "No cross-encoder is served.",
                hint=f"Use one of: {', '.join(self._rerankers)}."
                if self._rerankers
                else "Deploy one with --reranker MODEL.",
            )
        self._used[name] = time.time()
        pairs = [(query, document) for document in documents]
        found: list[Judgement] = await asked(self._rerankers[name], "judge", pairs)
        return found

    async def search(self, ask: Ask) -> Hits:
        """See `Service`."""
        hits: Hits = await self._read("search", ask)
        return hits

    async def facts(self) -> Facts | None:
        """See `Service`."""
        if "search" not in self._parts:
            return None
        facts: Facts = await self._read("facts")
        return facts

    async def page(self, *, after: str = "", limit: int = 100, where: str = "", paths: bool = False) -> Page:
        """See `Service`."""
        page: Page = await self._read("page", after=after, limit=limit, where=where, paths=paths)
        return page

    async def record(self, id_: str) -> Stored | None:
        """See `Service`."""
        stored: Stored | None = await self._read("record", id_)
        return stored

    async def thumbnail(self, id_: str) -> bytes | None:
        """See `Service`."""
        return (await self.thumbnails([id_])).get(id_)

    async def thumbnails(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """See `Service`."""
        found: Mapping[str, bytes] = await self._read("thumbnails", list(ids))
        return found

    async def original(self, id_: str) -> bytes | None:
        """See `Service`."""
        data: bytes | None = await self._read(
            "original", id_, DecodePolicy(max_bytes=self._limits.body_bytes)
        )
        return data

    async def preview(self, id_: str, side: int) -> bytes | None:
        """See `Service`."""
        policy = DecodePolicy(max_bytes=self._limits.body_bytes)
        data: bytes | None = await self._read("preview", id_, side, policy)
        return data

    async def add(self, records: Sequence[Record]) -> Added:
        """See `Service`. When the writer dies meanwhile it is not tried again: what it did is not known."""
        added: Added
        added, self._seen = await asked(self._writer(), "add", list(records), again=False)
        return added

    async def remove(self, ids: Sequence[str]) -> int:
        """See `Service`; likewise."""
        removed: int
        removed, self._seen = await asked(self._writer(), "remove", list(ids), again=False)
        return removed

    async def report(self, kind: str, *, model: str = "", colour: str = "") -> str:
        """See `Service`."""
        page: str = await self._read("report", kind, model=model, colour=colour)
        return page

    async def refresh(self) -> bool:
        """See `Service`. Other replicas follow with the next question that this ingress asks them."""
        if "search" not in self._parts:
            return False
        before = self._seen
        fresh, self._seen = await asked(self._parts["search"], "refresh")
        return bool(fresh) or before not in (0, self._seen)

    async def models(self) -> list[ModelState]:
        """See `Service`. A model is loaded as long as a replica of one of its towers runs."""
        running = await self._running()
        states = [await self._state(name, running) for name in self._models]
        return [*states, *[await self._judge_state(name, running) for name in self._rerankers]]

    async def load(self, model: str) -> ModelState:
        """See `Service`: a replica of each tower is awake when it returns; it ends again when nobody asks."""
        if model in self._rerankers:
            self._told[model] = await asked(self._rerankers[model], "told")
            self._status = (0.0, {})
            return await self._judge_state(model, await self._running())
        name = self._named(model)
        for modality in self._towers[name]:
            self._told[f"{name} {modality}"] = await asked(self._towers[name][modality], "told")
        self._status = (0.0, {})
        return await self._state(name, await self._running())

    async def unload(self, model: str) -> bool:
        """Not here: Serve ends replicas that nobody asks, as `min_replicas` and `downscale_delay_s` say.

        Raises:
            NotServedError: always, for a model that there is.
            ModelNotFoundError: the service has no such model.
        """
        if model not in self._rerankers:
            self._named(model)
        raise NotServedError(
            "On a cluster models are not unloaded by hand.",
            hint="Deploy with --min 0, and their replicas end when nobody asks.",
        )

    async def ready(self) -> Readiness:
        """Whether every deployment can answer, as Serve says: its health checks run the model of every replica, and ask
        the store. Nothing is woken up: what is asleep counts as ready.
        """
        status = await self._statuses()
        checks: dict[str, str] = {}
        for name, said in status.items():
            bad = said.status.value in ("UNHEALTHY", "DEPLOY_FAILED")
            checks[name] = (said.message or said.status.value).splitlines()[0] if bad else "ok"
        if not status:
            checks["deployments"] = "nothing is known of them"
        return Readiness(all(said == "ok" for said in checks.values()), checks)

    async def tend(self) -> None:
        """See `Service`. Nothing is left to do here: Serve ends what nobody asks, and the search service looks for
        commits by itself.
        """
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """See `Service`. Serve itself waits for what a replica has accepted before it ends it."""

    # Inside

    def _named(self, model: str) -> str:
        name = model or next(iter(self._models))
        if name not in self._models:
            near = get_close_matches(name, self._models, 1)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise ModelNotFoundError(
                f"There is no model {name!r} here.", hint=f"{meant}Use one of: {', '.join(self._models)}."
            )
        return name

    async def _read(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """What the search service says, of a version that is not older than what was seen before."""
        if "search" not in self._parts:
            raise NoIndexError(
                "No index is served here.", hint="Deploy one: bowerbird deploy photos.bower --on ray"
            )
        seen = self._seen
        found, version = await asked(self._parts["search"], "read", method, arguments, keywords, seen)
        # An older one than was asked for: there is none newer any more, such as after another index took its place.
        self._seen = max(self._seen, version) if version >= seen else version
        return found

    def _writer(self) -> Any:
        if "writer" not in self._parts:
            raise ReadOnlyError(
                "The index is served read-only.", hint="Deploy it with --writable to allow changes."
            )
        return self._parts["writer"]

    async def _statuses(self) -> Mapping[str, Any]:
        """By name of the deployment, what Serve's controller says of it."""
        at, known = self._status
        if time.monotonic() - at > STATUS_SECONDS:
            known = await asyncio.to_thread(_deployments)
            self._status = (time.monotonic(), known)
        return known

    async def _running(self) -> Mapping[str, int]:
        """By name of the deployment, how many of its replicas run."""
        return {
            name: sum(
                n for state, n in said.replica_states.items() if getattr(state, "value", state) == "RUNNING"
            )
            for name, said in (await self._statuses()).items()
        }

    async def _state(self, name: str, running: Mapping[str, int]) -> ModelState:
        model = self._models[name]
        awake = [modality for modality in model.modalities if running.get(model.deployment(modality))]
        if not awake:
            self._since.pop(name, None)
            return ModelState(
                name,
                used=self._used.get(name, 0.0),
                modalities=model.modalities,
                space=model.recipe.space,
            )
        told: dict[str, Any] = {"numerics": {}}
        for modality in awake:
            key = f"{name} {modality}"
            if key not in self._told:
                self._told[key] = await asked(self._towers[name][modality], "told")
            one = self._told[key]
            told = {**one, **told, "numerics": {**told["numerics"], **one["numerics"]}}
        return ModelState(
            name,
            loaded=True,
            since=self._since.setdefault(name, time.time()),
            used=self._used.get(name, 0.0),
            modalities=model.modalities,
            space=model.recipe.space,
            **told,
        )

    async def _judge_state(self, name: str, running: Mapping[str, int]) -> ModelState:
        """What is told of a cross-encoder."""
        state = ModelState(name, kind="reranker", used=self._used.get(name, 0.0), modalities=("text",))
        handle = self._rerankers[name]
        if not running.get(handle.deployment_name):
            self._since.pop(name, None)
            return state
        if name not in self._told:
            self._told[name] = await asked(handle, "told")
        return replace(
            state, loaded=True, since=self._since.setdefault(name, time.time()), **self._told[name]
        )


def _deployments() -> Mapping[str, Any]:
    from ray import serve

    app = serve.get_replica_context().app_name
    known = serve.status().applications.get(app)
    return dict(known.deployments) if known else {}


async def _together(asking: Sequence[Any]) -> list[Any]:
    """All of them; when one fails, or nobody waits any more, the others are cancelled."""
    if len(asking) == 1:
        return [await asking[0]]
    tasks = [asyncio.ensure_future(one) for one in asking]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
