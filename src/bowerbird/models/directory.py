"""A model directory becomes a card: what its published files say, read as data.

Which tensor is the embedding is chosen by the names of the graph's outputs and by the configuration beside it, never by
a position and never by the model's name. What no published format says is read from `bowerbird.json` or the catalogue.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelFormatError
from bowerbird.media.policy import DecodePolicy
from bowerbird.models import layout as layouts
from bowerbird.models.card import (
    PREPARED,
    Artifact,
    ImageTower,
    ModelCard,
    Options,
    TextTower,
    artifact,
    graph_artifact,
)
from bowerbird.models.hub.fetch import EMBEDDED, Located, locate
from bowerbird.models.network.graph import GraphFacts, read_graph, resolve
from bowerbird.models.text.rules import TextRules, read_text_rules
from bowerbird.models.text.sentence import POOLINGS as TOKEN_POOLINGS
from bowerbird.models.vision.pooling import POOLINGS as PLACE_POOLINGS
from bowerbird.models.vision.processors import read_steps
from bowerbird.models.vision.steps import Steps
from bowerbird.settings import settings

ANNOTATIONS = "bowerbird.json"
"""Optional file of a model directory: what no published format says (see `docs/model-directory.md`)."""

PENULTIMATE = "penultimate"

IMAGE_OUTPUTS = (
    "image_embeds",
    "image_embeddings",
    "image_features",
    "pooler_output",
    "embedding",
    "embeddings",
    "features",
    "last_hidden_state",
)
"""Outputs of published picture graphs that are embeddings, the best first."""

POOLED_TEXT_OUTPUTS = (
    "text_embeds",
    "text_embeddings",
    "text_features",
    "sentence_embedding",
    "pooler_output",
    "embedding",
)
"""Outputs of text graphs that pool by themselves, the best first."""

TOKEN_OUTPUTS = ("sentence_embedding", "last_hidden_state", "token_embeddings", "hidden_states")
"""Outputs of text graphs whose pooling is told beside them: the pooled one when the graph has it, else the tokens."""

TOKEN_POOLING = {
    "ijepa": "avg",
    "beit": "avg",
    "data2vec-vision": "avg",
    "swin": "avg",
    "swinv2": "avg",
    "focalnet": "avg",
    "clip": "cls",
    "clip_vision_model": "cls",
    "deit": "cls",
    "dinov2": "cls",
    "dinov2_with_registers": "cls",
    "dinov3_vit": "cls",
    "vit": "cls",
    "vit_mae": "cls",
    "vit_msn": "cls",
}
"""`model_type` -> how the patch tokens of `last_hidden_state` become one vector, as the model's own head does it."""


@dataclass(frozen=True)
class Reading:
    """Everything that a directory holds, opened once.

    Attributes:
        located: where the model lies and what the catalogue says of it.
        layout: where its graphs lie.
        config: `config.json`, or empty.
        notes: `bowerbird.json`, or empty.
        options: what the user asked for.
    """

    located: Located
    layout: layouts.Layout
    config: Mapping[str, Any]
    notes: Mapping[str, Any]
    options: Options

    @property
    def directory(self) -> Path:
        """The model directory."""
        return self.located.directory


def read_card(name: str, options: Options | None = None) -> ModelCard:
    """Read the recipe of a model from the files it was published with, fetching them when they are not here.

    Args:
        name: see `bowerbird.models.hub.fetch.locate`.
        options: what is wanted beyond the model's own conditions.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelFormatError: a file is missing or damaged, or says something that is not understood.
    """
    options = options or Options()
    _check_pooling(options.pooling)
    located = locate(name, variant=options.variant)
    directory = located.directory
    files = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    variant = options.variant or (located.entry.variant if located.entry else "")
    layout = layouts.choose(files, variant, str(directory))
    reading = Reading(located, layout, _config(directory), _annotations(directory), options)
    text, image, missing = None, None, []
    try:
        text = _text_tower(reading) if layout.text else None
    except _AbsentLayerError as error:
        missing.append(error.message)
    try:
        image = _image_tower(reading) if layout.image else None
    except _AbsentLayerError as error:
        missing.append(error.message)
    if not (text or image):
        raise ModelFormatError(
            " ".join(missing) or f"{name} has nothing to pool with {options.pooling!r}.",
            hint="`bowerbird inspect --layers` lists its layers.",
        )
    return ModelCard(
        name=located.name,
        source=_source(located),
        directory=directory,
        license=_license(reading),
        text=text,
        image=image,
        options=options,
    )


# One word for the same thing in both towers.
_AS_PLACES = {"mean": "avg"}
_AS_TOKENS = {"avg": "mean"}


def _check_pooling(pooling: str) -> None:
    known = (*PLACE_POOLINGS, *TOKEN_POOLINGS)
    if pooling and pooling not in known:
        raise ModelFormatError(
            f"There is no pooling {pooling!r}.", hint=f"Known: {', '.join(dict.fromkeys(known))}."
        )


def _source(located: Located) -> str:
    """What gives just this model again: of the hub, the commit."""
    if located.receipt:
        return f"{located.receipt.repository}@{located.receipt.commit}"
    embedded = located.directory == locate(EMBEDDED).directory
    return EMBEDDED if embedded else str(located.directory)


@dataclass(frozen=True)
class Picked:
    """Which tensor of a picture graph is the embedding, and how it becomes one vector.

    Attributes:
        output: its name for people; see `ImageTower.output`.
        similarity: the one that compares pictures with pictures best.
        pooling: of tensors with places; empty where nothing says.
        tensors: names that are not outputs of the graph -> tensor.
        features: the axis of `output` that holds the channels; None where the graph does not tell.
    """

    output: str
    similarity: str
    pooling: str = ""
    tensors: tuple[tuple[str, str], ...] = ()
    features: int | None = None


def _image_tower(reading: Reading) -> ImageTower | None:
    notes = _image_notes(reading)
    options, directory = reading.options, reading.directory
    asked = _AS_PLACES.get(options.pooling, options.pooling)
    if asked and asked not in PLACE_POOLINGS:
        return None
    graph = graph_artifact(directory / reading.layout.image)
    picked = _picked(reading, graph, notes)
    if asked:
        _check_unpooled(graph, dict(picked.tensors).get(picked.output, picked.output))
    pooling = asked or str(notes.get("pooling", "")) or picked.pooling
    if pooling and pooling not in PLACE_POOLINGS:
        raise ModelFormatError(
            f"{directory / ANNOTATIONS}: picture pooling {pooling!r} is not known.",
            hint=f"Known: {', '.join(PLACE_POOLINGS)}.",
        )
    ratios, cosine = _scaled_decode(directory / ANNOTATIONS, notes.get("scaled_decode", {}))
    limits = settings()
    return ImageTower(
        graph=graph,
        steps=_steps(reading),
        decode=DecodePolicy(
            max_pixels=limits.max_pixels,
            max_bytes=limits.max_bytes,
            seconds=limits.decode_seconds,
        ),
        output=picked.output,
        similarity_output=picked.similarity,
        pooling=pooling or "avg",
        tensors=picked.tensors,
        features=() if picked.features is None else ((picked.output, picked.features),),
        dimensions=options.dimensions,
        prepared=options.preprocess == PREPARED,
        variant=reading.layout.variant,
        scaled=() if options.preprocess or options.layer else ratios,
        scaled_cosine=cosine,
    )


def _picked(reading: Reading, graph: Artifact, notes: Mapping[str, Any]) -> Picked:
    """What the user asked for, else what `bowerbird.json` names, else what the graph's outputs are called."""
    layer = reading.options.layer
    if "output" in notes and not layer:
        output = str(notes["output"])
        similarity = str(notes.get("similarity_output", output))
        named = PENULTIMATE in (output, similarity)
        return Picked(output, similarity, tensors=_intermediate(graph, (output, similarity)) if named else ())
    facts = read_graph(graph.path, graph.sha256)
    if layer:
        tensor = _tensor(facts, layer, _classifier(reading, facts))
        return Picked(
            layer, layer, _token_pooling(reading), ((layer, tensor),), facts.tensors[tensor].features
        )
    output = _image_output(reading, facts, graph.path)
    if output == PENULTIMATE:
        tensor = resolve(facts, PENULTIMATE, _classifier(reading, facts))
        return Picked(output, output, "", ((output, tensor),), facts.tensors[tensor].features)
    by_token = (
        len(facts.outputs[output].shape) == 3 and "pooling" not in notes and not reading.options.pooling
    )
    pooling = _required_pooling(reading, output) if by_token else ""
    return Picked(output, output, pooling, features=facts.tensors[output].features)


def _steps(reading: Reading) -> Steps:
    if reading.options.preprocess not in ("", PREPARED):
        return Steps.parse(reading.options.preprocess)
    root = reading.directory / reading.layout.image_root
    return read_steps(root if _has_processor(root) else reading.directory, reading.options.profile)


def _has_processor(root: Path) -> bool:
    return any((root / name).is_file() for name in (*layouts.PROCESSORS, "preprocess_cfg.json"))


def _image_output(reading: Reading, facts: GraphFacts, graph: Path) -> str:
    """The output that is the embedding; `penultimate` for a classifier that publishes none."""
    for name in IMAGE_OUTPUTS:
        if name in facts.outputs:
            return name
    scores = _classifier(reading, facts)
    if scores and facts.flow(scores).penultimate:
        return PENULTIMATE
    if len(facts.outputs) == 1:
        return next(iter(facts.outputs))
    raise ModelFormatError(
        f"{graph}: none of its outputs is one we know as an embedding: {', '.join(facts.outputs)}.",
        hint=f'Name it in {ANNOTATIONS}: {{"format": 1, "image": {{"output": "..."}}}}.',
    )


def _classifier(reading: Reading, facts: GraphFacts) -> str:
    """The output that holds a score for each class; empty where there is none."""
    if "logits" in facts.outputs:
        return "logits"
    sole = next(iter(facts.outputs)) if len(facts.outputs) == 1 else ""
    classes = _classes(reading.config)
    return sole if sole and classes and facts.outputs[sole].shape[-1] == classes else ""


def _classes(config: Mapping[str, Any]) -> int:
    """How many classes a classifier tells apart, as transformers and timm write it; 0 where nothing is said."""
    labels = config.get("id2label") or config.get("num_labels") or config.get("num_classes") or 0
    return len(labels) if isinstance(labels, (dict, list)) else int(labels)


def _token_pooling(reading: Reading) -> str:
    kinds = (reading.config, reading.config.get("vision_config") or {})
    return next(
        (TOKEN_POOLING[kind] for c in kinds if (kind := str(c.get("model_type"))) in TOKEN_POOLING), ""
    )


def _required_pooling(reading: Reading, output: str) -> str:
    pooling = _token_pooling(reading)
    if not pooling:
        raise ModelFormatError(
            f"{reading.directory}: {output} holds a vector for each patch, and model_type "
            f"{reading.config.get('model_type')!r} does not tell how they are pooled.",
            hint=f'Say so in {ANNOTATIONS}: {{"format": 1, "image": {{"pooling": "cls"}}}}, or "avg".',
        )
    return pooling


def _text_tower(reading: Reading) -> TextTower | None:
    options, layout, directory = reading.options, reading.layout, reading.directory
    pooling = _AS_TOKENS.get(options.pooling, options.pooling)
    if pooling not in ("", "none", *TOKEN_POOLINGS):
        return None
    notes = dict(reading.notes.get("text", {}))
    output = str(notes.pop("output", ""))
    entry = reading.located.entry
    if entry and entry.pooling:
        notes.setdefault("pooling", entry.pooling)
    rules = read_text_rules(
        directory / layout.text_root, directory, dict(entry.prompts) if entry else None, notes
    )
    graph = graph_artifact(directory / layout.text)
    tensors: tuple[tuple[str, str], ...] = ()
    if options.layer:
        facts = read_graph(graph.path, graph.sha256)
        tensor = _tensor(facts, options.layer)
        output = options.layer
        tensors = ((output, tensor),)
        rules = replace(rules, pooling=rules.pooling or ("mean",), after=(), dimensions=0)
    elif not output:
        facts = read_graph(graph.path, graph.sha256)
        output = _text_output(rules, facts, graph.path)
    elif output == PENULTIMATE:
        tensors = _intermediate(graph, (output,))
    if options.pooling:
        _check_unpooled(graph, dict(tensors).get(output, output))
        rules = replace(rules, pooling=(pooling,), after=())
    return TextTower(
        graph=graph,
        tokenizer=artifact(_tokenizer(directory, layout.text_root)),
        rules=rules,
        output=output,
        tensors=tensors,
        dimensions=options.dimensions or rules.dimensions,
        variant=layout.variant,
    )


def _check_unpooled(graph: Artifact, tensor: str) -> None:
    """Refuse a pooling where there is nothing to pool."""
    found = read_graph(graph.path, graph.sha256).tensors.get(tensor)
    if found and found.shape is not None and len(found.shape) < 3:
        raise ModelFormatError(
            f"{graph.path}: {tensor!r} is one vector for each input already, so no pooling applies.",
            hint="Give `layer` as well: -1 is the last one that has tokens or places.",
        )


def _tokenizer(directory: Path, root: str) -> Path:
    beside = directory / root / "tokenizer.json"
    return beside if beside.is_file() else directory / "tokenizer.json"


def _text_output(rules: TextRules, facts: GraphFacts, graph: Path) -> str:
    """The output that is the embedding, or the token vectors that become it."""
    order = TOKEN_OUTPUTS if rules.pooling else (*POOLED_TEXT_OUTPUTS, *TOKEN_OUTPUTS)
    known = next((name for name in order if name in facts.outputs), "")
    output = known or (next(iter(facts.outputs)) if len(facts.outputs) == 1 else "")
    if not output:
        raise ModelFormatError(
            f"{graph}: none of its outputs is one we know as an embedding: {', '.join(facts.outputs)}.",
            hint=f'Name it in {ANNOTATIONS}: {{"format": 1, "text": {{"output": "..."}}}}.',
        )
    if not rules.pooling and len(facts.outputs[output].shape) == 3:
        raise ModelFormatError(
            f"{graph}: {output!r} holds a vector for each token, and no file says how they are pooled.",
            hint=f'Say so in {ANNOTATIONS}: {{"format": 1, "text": {{"pooling": "mean"}}}}, or "cls", "lasttoken".',
        )
    return output


class _AbsentLayerError(ModelFormatError):
    """A tower has no such layer; the model's other tower may have it."""


def _tensor(facts: GraphFacts, layer: str, scores: str = "") -> str:
    """The tensor that a layer option means. Penultimate is what goes into the classifier, `scores`, if there is one."""
    wanted: int | str = int(layer.removeprefix("layer:")) if re.fullmatch(r"layer:-?\d+", layer) else layer
    try:
        return resolve(facts, wanted, scores if wanted == PENULTIMATE else "")
    except ModelFormatError as error:
        raise _AbsentLayerError(error.message, hint=error.hint) from error


def _intermediate(graph: Artifact, names: Collection[str]) -> tuple[tuple[str, str], ...]:
    facts = read_graph(graph.path, graph.sha256)
    return tuple((name, resolve(facts, name)) for name in dict.fromkeys(names) if name not in facts.outputs)


def _config(directory: Path) -> Mapping[str, Any]:
    path = directory / "config.json"
    if not path.exists():
        return {}
    return _object(path)


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path} cannot be read: {error}.", hint="Fetch the model again.") from error
    if not isinstance(content, dict):
        raise ModelFormatError(f"{path} does not hold a JSON object.", hint="Fetch the model again.")
    return content


def _annotations(directory: Path) -> Mapping[str, Any]:
    path = directory / ANNOTATIONS
    if not path.exists():
        return {}
    notes = _object(path)
    if notes.get("format") != 1:
        raise ModelFormatError(
            f"{path} is of a format this version does not read.", hint="Upgrade bowerbird."
        )
    unknown = set(notes) - {"format", "license", "image", "text"}
    if unknown:
        raise ModelFormatError(
            f"{path}: unknown key {sorted(unknown)[0]!r}.", hint="Known: license, image, text."
        )
    if not all(isinstance(notes.get(tower, {}), dict) for tower in ("image", "text")):
        raise ModelFormatError(f"{path}: `text` and `image` are objects.")
    return notes


def _image_notes(reading: Reading) -> Mapping[str, Any]:
    """The annotations of the image tower, with no key that would be ignored."""
    known = ("output", "similarity_output", "scaled_decode", "pooling")
    notes: Mapping[str, Any] = reading.notes.get("image", {})
    if unknown := sorted(set(notes) - set(known)):
        raise ModelFormatError(
            f"{reading.directory / ANNOTATIONS}: unknown key {unknown[0]!r} in `image`; ignoring it could change every "
            "vector.",
            hint=f"Known: {', '.join(known)}.",
        )
    return notes


def _license(reading: Reading) -> str:
    """From the annotations, the catalogue, or the front matter of the model's README."""
    entry = reading.located.entry
    said = str(reading.notes.get("license", "")) or (entry.license if entry else "")
    if said:
        return said
    try:
        front = (reading.directory / "README.md").read_text("utf-8", "replace")[:4000]
    except OSError:
        return ""
    found = re.search(r"^license:\s*([\w.+-]+)\s*$", front, re.MULTILINE) if front.startswith("---") else None
    return found[1] if found else ""


def _scaled_decode(path: Path, notes: Any) -> tuple[tuple[tuple[str, float], ...], float]:
    """The ratios by precision policy, and the least cosine that was measured; see `docs/model-directory.md`."""
    try:
        ratios = tuple((policy, float(notes[policy])) for policy in ("auto", "fast") if policy in notes)
        cosine = float(notes.get("least_cosine", 1.0))
        unknown = set(notes) - {"auto", "fast", "least_cosine"}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelFormatError(f"{path}: scaled_decode {notes!r} is not understood.") from error
    if unknown or not all(ratio >= 1 for _, ratio in ratios):
        raise ModelFormatError(
            f"{path}: scaled_decode {notes!r} is not understood.",
            hint='Write it like {"auto": 3, "fast": 2, "least_cosine": 0.998}; ratios are at least 1.',
        )
    return ratios, cosine
