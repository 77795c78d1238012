"""What is deployed: plain data, which a Serve config file keeps, and what comes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

from bowerbird.errors import BowerbirdError
from bowerbird.flow.recipe import ModelRecipe
from bowerbird.models.card import Options
from bowerbird.models.encoder import load
from bowerbird.search.entries import labels
from bowerbird.search.index import Index
from bowerbird.serve.callers import check_callers
from bowerbird.serve.keys import Key
from bowerbird.serve.limits import Limits
from bowerbird.serve.listening import PORT
from bowerbird.settings import settings

__all__ = [
    "FRONT",
    "IMPORT_PATH",
    "Deployed",
    "ServedModel",
    "as_yaml",
    "config",
    "digest_line",
    "options",
    "resolved",
]

IMPORT_PATH = "bowerbird.serve.cluster.deployments:application"
"""What a Serve config file names; called with the fields of `Deployed`."""

FRONT = ("page", "fetch_urls", "keys", "cors", "hosts", "show_paths", "public_metrics", "limits")
"""Fields of `Deployed` that an ingress is made with: it is not renewed for the sake of others."""

QUEUED = 8
"""For each place in a replica so many requests may wait at whoever asks; more are told to come back."""

PLACES = 4
"""A replica takes so many requests at once for each that it is meant to have: its batches are made of them."""

SMALL = 0.1
"""Of a processor, for what mostly waits for others."""


@dataclass(frozen=True)
class Deployed:
    """What `bowerbird deploy` is told, and a Serve config file has under `args`.

    Attributes:
        index: path or address, which every machine of the cluster has to reach; empty: only models are served. Its
            models are deployed. It is searched as long as `user_config` of `search` and `writer` name no other.
        models: further ones, as `load` takes them; `NAME=SOURCE` for one that requests call otherwise.
        rerankers: cross-encoders.
        min_replicas: of each encoder and of the search service; 0: they end when nobody asks, and begin with the next
            request.
        max_replicas: likewise.
        target: requests that a replica is meant to have at once; with more of them further replicas are started.
        cpus: processors of an encoder's replica, and the threads it uses; a part of one is allowed.
        gpus: likewise of graphics processors.
        search_cpus: processors of a replica of the search service.
        ingress: replicas of the ingress at the most. The page keeps to one process, so more come without it.
        page: whether the page for people is served at /.
        writable: whether records can be added and removed.
        fetch_urls: whether pictures at http(s) addresses are fetched.
        keys: lines as of `bowerbird.serve.keys`, with the digests of keys: `sha256:... name=shop`. None: everybody
            may ask.
        cors: origins whose pages may ask; `*`: any.
        hosts: names that requests may know the ingress by; none: any.
        show_paths: whether answers say where files lie.
        public_metrics: whether /metrics is told without a key.
        precision: models are loaded with.
        idle_seconds: after which a replica that is not needed ends.
        poll_seconds: a commit to the index is searched after so many.
        limits: of the service, where they are not the usual ones, by name.
    """

    index: str = ""
    models: tuple[str, ...] = ()
    rerankers: tuple[str, ...] = ()
    min_replicas: int = 1
    max_replicas: int = 4
    target: float = 8.0
    cpus: float = 1.0
    gpus: float = 0.0
    search_cpus: float = 1.0
    ingress: int = 1
    page: bool = True
    writable: bool = False
    fetch_urls: bool = False
    keys: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    show_paths: bool = False
    public_metrics: bool = False
    precision: str = ""
    idle_seconds: float = 300.0
    poll_seconds: float = 2.0
    limits: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("models", "rerankers", "keys", "cors", "hosts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not 0 <= self.min_replicas <= self.max_replicas or not self.max_replicas:
            raise BowerbirdError(
                f"{self.min_replicas} to {self.max_replicas} replicas cannot be had.",
                hint="Give --min 0 or more, and --max 1 or more and not below it.",
            )
        for name in ("cpus", "search_cpus", "target", "poll_seconds"):
            if not (value := getattr(self, name)) > 0:
                raise BowerbirdError(
                    f"{name}={value:g} is not more than 0.", hint="Give 1, or another number above 0."
                )
        for name in ("gpus", "idle_seconds"):
            if not (value := getattr(self, name)) >= 0:
                raise BowerbirdError(f"{name}={value:g} is negative.", hint="Give 0 or more.")
        if self.ingress < 1:
            raise BowerbirdError(f"ingress={self.ingress}: at least one is needed.", hint="Give 1.")
        if self.page and self.ingress > 1:
            raise BowerbirdError(
                "The page keeps to one process, so there cannot be several ingresses with it.",
                hint="Leave it out with --no-page, or deploy it with one ingress.",
            )
        check_callers(origins=self.cors, hosts=self.hosts)
        self.caps()

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> Deployed:
        """From the `args` of a config file.

        Raises:
            BowerbirdError: a name that is not known, or a value that is not allowed.
        """
        known = [field.name for field in fields(cls)]
        for name in args:
            if name not in known:
                near = get_close_matches(name, known, 1)
                meant = f" Did you mean {near[0]}?" if near else ""
                raise BowerbirdError(
                    f"The args of the application have no {name!r}.{meant}",
                    hint=f"Known: {', '.join(known)}.",
                )
        return cls(**args)

    def to_args(self) -> dict[str, Any]:
        """What is not as usual, as plain data."""
        values = asdict(self)
        usual = {field.name: field.default for field in fields(self)}
        kept = {name: value for name, value in values.items() if value != usual[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}

    def caps(self) -> Limits:
        """The limits of the service.

        Raises:
            BowerbirdError: a name that is not known, or a value that is not allowed.
        """
        given = dict(self.limits or {})
        known = [field.name for field in fields(Limits)]
        for name in given:
            if name not in known:
                raise BowerbirdError(f"There is no limit {name!r}.", hint=f"Known: {', '.join(known)}.")
        return Limits(**given)


@dataclass(frozen=True)
class ServedModel:
    """A model, and which of its towers are deployed.

    Attributes:
        name: what requests call it.
        slug: what its deployments are called after.
        recipe: from which their replicas load it.
        modalities: `text`, `image`, or both.
    """

    name: str
    slug: str
    recipe: ModelRecipe
    modalities: tuple[str, ...]

    def deployment(self, modality: str) -> str:
        """The name of the deployment of a tower."""
        return f"{self.slug}-{modality}"


def resolved(deployed: Deployed) -> tuple[ServedModel, ...]:
    """The models that are deployed: first those of the index, under the names that it has for them.

    Reads the manifest of the index, and the cards of further models; no weights are loaded.

    Raises:
        StoreError: the index cannot be read.
        ModelError: there is no such model.
    """
    found: list[tuple[str, ModelRecipe, tuple[str, ...]]] = []
    precision = deployed.precision or settings().precision
    if deployed.index:
        entries = Index.open(deployed.index).manifest.models
        names = labels(entries)
        for entry in entries:
            recipe = ModelRecipe(
                entry.name,
                entry.source,
                Options.of(**entry.options),
                entry.space,
                precision,
                settings().engine,
            )
            takes = tuple(modality for modality in ("text", "image") if entry.takes(modality))
            found.append((names[entry.space], recipe, takes))
    listed = deployed.models or (() if found else (settings().model,))
    for given in listed:
        name, _, source = given.partition("=")
        if name in [known for known, _, _ in found]:
            continue
        encoder = load(source or name, precision=deployed.precision)
        found.append((name, ModelRecipe.of(encoder), tuple(str(m) for m in encoder.card.modalities)))
    return tuple(
        ServedModel(name, slug, recipe, takes)
        for (name, recipe, takes), slug in zip(found, _slugs([name for name, _, _ in found]), strict=True)
    )


def _slugs(names: list[str]) -> list[str]:
    """Names as deployments may be called, no two alike."""
    slugs: list[str] = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.") or "model"
        slug, number = base, 1
        while slug in slugs:
            number += 1
            slug = f"{base}-{number}"
        slugs.append(slug)
    return slugs


def options(deployed: Deployed, models: tuple[ServedModel, ...]) -> dict[str, dict[str, Any]]:
    """By name of each deployment, the options that Serve takes for it: what the application is built with, and what a
    config file shows, where they can be changed for each.
    """
    found: dict[str, dict[str, Any]] = {"ingress": _ingress(deployed)}
    for model in models:
        for modality in model.modalities:
            found[model.deployment(modality)] = _scaled(deployed, deployed.cpus, deployed.gpus)
    for _name, slug in zip(deployed.rerankers, _slugs(list(deployed.rerankers)), strict=True):
        found[f"rerank-{slug}"] = _scaled(deployed, deployed.cpus, deployed.gpus)
    if deployed.index:
        found["search"] = {
            **_scaled(deployed, deployed.search_cpus, 0.0),
            # Another one is opened by the replicas that are there.
            "user_config": {"index": deployed.index},
        }
        if deployed.writable:
            writer = _scaled(deployed, deployed.cpus, 0.0)
            writer["autoscaling_config"]["min_replicas"] = min(1, deployed.min_replicas)
            writer["autoscaling_config"]["max_replicas"] = 1
            writer["max_surge_percent"] = 0  # never two who write
            writer["user_config"] = {"index": deployed.index}
            found["writer"] = writer
    return found


def _ingress(deployed: Deployed) -> dict[str, Any]:
    limits = deployed.caps()
    return {
        # One is always there: it answers at once, and says what wakes up.
        "autoscaling_config": {
            "min_replicas": 1,
            "max_replicas": deployed.ingress,
            "target_ongoing_requests": 64.0,
        },
        "max_ongoing_requests": max(1, limits.connections),
        "max_queued_requests": max(1, limits.connections),
        "backpressure_config": {"retry_after_s": 1.0},
        "graceful_shutdown_timeout_s": limits.drain_seconds,
        "ray_actor_options": {"num_cpus": SMALL},
        "max_surge_percent": 100,
    }


def _scaled(deployed: Deployed, cpus: float, gpus: float) -> dict[str, Any]:
    places = max(1, round(deployed.target * PLACES))
    actor: dict[str, Any] = {"num_cpus": cpus}
    if gpus:
        actor["num_gpus"] = gpus
    return {
        "autoscaling_config": {
            "min_replicas": deployed.min_replicas,
            "max_replicas": deployed.max_replicas,
            "target_ongoing_requests": deployed.target,
            "upscale_delay_s": 3.0,
            "downscale_delay_s": deployed.idle_seconds,
        },
        "max_ongoing_requests": places,
        "max_queued_requests": places * QUEUED,
        "health_check_period_s": 10.0,
        "health_check_timeout_s": 30.0,
        "graceful_shutdown_timeout_s": deployed.caps().drain_seconds,
        "ray_actor_options": actor,
        # A new version starts before the old one ends, so that one always answers.
        "max_surge_percent": 100,
    }


def config(
    deployed: Deployed,
    *,
    name: str = "bowerbird",
    host: str = "127.0.0.1",
    port: int = PORT,
) -> dict[str, Any]:
    """A Serve config file as plain data, for `serve deploy` and `serve run`.

    Raises:
        BowerbirdError: as of `resolved`.
    """
    listed = options(deployed, resolved(deployed))
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "applications": [
            {
                "name": name,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": deployed.to_args(),
                "deployments": [{"name": each, **given} for each, given in listed.items()],
            }
        ],
    }


def as_yaml(deployed: Deployed, *, name: str = "bowerbird", host: str = "127.0.0.1", port: int = PORT) -> str:
    """The Serve config file; see `config`."""
    import yaml

    head = (
        "# Written by `bowerbird deploy --config`. Deploy it, and what is changed in it, with `serve deploy FILE`.\n"
        "# Numbers of a deployment, and the index that search and writer have under user_config, can be changed while\n"
        "# everything runs on; what is changed under args renews every deployment.\n"
    )
    listed = config(deployed, name=name, host=host, port=port)
    text: str = yaml.safe_dump(listed, sort_keys=False, allow_unicode=True)
    return head + text


def digest_line(key: Key) -> str:
    """A key as a line of `Deployed.keys`, which does not give it away."""
    said = [f"sha256:{key.digest.hex()}", f"name={key.name}", f"scope={key.scope}"]
    if key.per_minute is not None:
        said.append(f"rate={key.per_minute}")
    if key.concurrent is not None:
        said.append(f"concurrent={key.concurrent}")
    return " ".join(said)
