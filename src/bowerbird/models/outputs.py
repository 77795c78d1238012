"""Which tensor of a graph is the embedding, and how it becomes one vector.

What the user asks for comes first, then what `bowerbird.json` names, then the names of the graph's outputs and the
configuration beside it: never a position, never the model's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bowerbird.errors import ModelFormatError
from bowerbird.models.artifact import Artifact
from bowerbird.models.card import Options
from bowerbird.models.network.graph import GraphFacts, resolve
from bowerbird.models.text.rules import TextRules
from bowerbird.models.text.sentence import POOLINGS as TOKEN_POOLINGS
from bowerbird.models.vision.pooling import POOLINGS as PLACE_POOLINGS

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

SENTENCE_OUTPUT = "sentence_embedding"
"""The output of a graph that holds the whole chain of sentence-transformers, pooling included."""

TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings", "hidden_states")
"""Outputs of text graphs that hold a vector for each token."""

PATCH_POOLING = {
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

# One word for the same thing in both towers.
_AS_PLACES = {"mean": "avg"}
_AS_TOKENS = {"avg": "mean"}


class AbsentLayerError(ModelFormatError):
    """A tower has no such layer, or nothing to pool there; the model's other tower may have it."""


@dataclass(frozen=True)
class Picked:
    """What was found.

    Attributes:
        output: the name for people: an output of the graph, or a key of `tensors`.
        similarity: of pictures, the one that compares pictures with pictures best.
        pooling: of pictures with several places; empty where nothing has to be pooled.
        tensors: names that are not outputs of the graph -> tensor.
        features: of pictures, the axis of `output` that holds the channels; None where the graph does not tell.
    """

    output: str
    similarity: str = ""
    pooling: str = ""
    tensors: tuple[tuple[str, str], ...] = ()
    features: int | None = None


def check_pooling(pooling: str) -> None:
    """Refuse a pooling that neither pictures nor texts have.

    Raises:
        ModelFormatError: there is none of that name.
    """
    known = (*PLACE_POOLINGS, *TOKEN_POOLINGS)
    if pooling and pooling not in known:
        raise ModelFormatError(
            f"There is no pooling {pooling!r}.", hint=f"Known: {', '.join(dict.fromkeys(known))}."
        )


def pick_image(
    graph: Artifact, facts: GraphFacts, options: Options, notes: Mapping[str, Any], config: Mapping[str, Any]
) -> Picked:
    """The embedding of a picture graph.

    Args:
        graph: the file.
        facts: of the graph.
        options: of the user.
        notes: `image` of `bowerbird.json`.
        config: `config.json`.

    Raises:
        AbsentLayerError: the graph has no such layer, or what was asked for cannot be pooled so.
        ModelFormatError: `bowerbird.json` names a tensor that is not there, or no output is one we know.
    """
    asked = _AS_PLACES.get(options.pooling, options.pooling)
    if asked and asked not in PLACE_POOLINGS:
        raise AbsentLayerError(
            f"Pictures are not pooled by {asked!r}.", hint=f"Use {', '.join(PLACE_POOLINGS)}."
        )
    noted = str(notes.get("pooling", ""))
    if noted and noted not in PLACE_POOLINGS:
        raise ModelFormatError(
            f"{ANNOTATIONS} beside {graph.path}: picture pooling {noted!r} is not known.",
            hint=f"Known: {', '.join(PLACE_POOLINGS)}.",
        )
    scores = _classifier(facts, config)
    if options.layer:
        output = similarity = options.layer
    else:
        output = str(notes.get("output", "")) or _published_image(graph, facts, scores)
        similarity = str(notes.get("similarity_output", output))
    names = dict.fromkeys((output, similarity))
    tensors = {name: _tensor(facts, name, scores) for name in names if name not in facts.outputs}
    chosen = tensors.get(output, output)
    if asked:
        _require_places(graph, facts, chosen)
    by_patch = _axes(facts, chosen) == 3
    pooling = asked or noted or (_patch_pooling(graph, output, options, config) if by_patch else "")
    made = facts.tensors.get(chosen)
    return Picked(output, similarity, pooling, tuple(tensors.items()), made.features if made else None)


def pick_text(
    graph: Artifact, facts: GraphFacts, options: Options, notes: Mapping[str, Any], rules: TextRules
) -> tuple[Picked, TextRules]:
    """The embedding of a text graph, and the rules of what follows it.

    Args:
        graph: the file.
        facts: of the graph.
        options: of the user.
        notes: `text` of `bowerbird.json`.
        rules: as the model's files say.

    Raises:
        AbsentLayerError: the graph has no such layer, or what was asked for cannot be pooled so.
        ModelFormatError: `bowerbird.json` names a tensor that is not there, no output is one we know, or the graph does
            not give what the files say is done to it.
    """
    asked = _AS_TOKENS.get(options.pooling, options.pooling)
    if asked not in ("", "none", *TOKEN_POOLINGS):
        raise AbsentLayerError(
            f"Texts are not pooled by {asked!r}.", hint=f"Use {', '.join(TOKEN_POOLINGS)}."
        )
    output = options.layer or str(notes.get("output", "")) or _published_text(graph, facts, rules, notes)
    tensors = {} if output in facts.outputs else {output: _tensor(facts, output, "")}
    chosen = tensors.get(output, output)
    if options.layer:
        rules = replace(rules, pooling=rules.pooling or ("mean",), after=(), dimensions=0)
    if asked:
        _require_places(graph, facts, chosen)
        rules = replace(rules, pooling=(asked,), after=rules.after if asked != "none" else ())
    if _axes(facts, chosen) == 3 and not rules.pooling:
        raise ModelFormatError(
            f"{graph.path}: {output!r} holds a vector for each token, and no file says how they are pooled.",
            hint=f'Say so in {ANNOTATIONS}: {{"format": 1, "text": {{"pooling": "mean"}}}}, or "cls", "lasttoken".',
        )
    return Picked(output, tensors=tuple(tensors.items())), rules


def _published_image(graph: Artifact, facts: GraphFacts, scores: str) -> str:
    """The output that is the embedding; `penultimate` for a classifier that publishes none."""
    for name in IMAGE_OUTPUTS:
        if name in facts.outputs:
            return name
    if scores and scores in facts.flows and facts.flow(scores).penultimate:
        return PENULTIMATE
    return _sole_output(graph, facts, "image")


def _published_text(graph: Artifact, facts: GraphFacts, rules: TextRules, notes: Mapping[str, Any]) -> str:
    """The output that is the embedding, or the token vectors that become it."""
    if not rules.pooling:
        known = (*POOLED_TEXT_OUTPUTS, *TOKEN_OUTPUTS)
        return next((name for name in known if name in facts.outputs), "") or _sole_output(
            graph, facts, "text"
        )
    # A graph with the whole chain inside cannot leave a prompt out of it, nor pool otherwise.
    whole = "pooling" not in notes and (rules.include_prompt or not rules.prompts)
    if whole and SENTENCE_OUTPUT in facts.outputs:
        return SENTENCE_OUTPUT
    output = next((name for name in TOKEN_OUTPUTS if name in facts.outputs), "")
    output = output or _sole_output(graph, facts, "text")
    if _axes(facts, output) == 2:
        modules = ", with modules after it" if rules.after else ""
        raise ModelFormatError(
            f"{graph.path}: the model's files say that token vectors are pooled by {' and '.join(rules.pooling)}"
            f"{modules}, but the graph gives {output!r}, which is pooled already.",
            hint=f'If it is the embedding, say so in {ANNOTATIONS}: {{"format": 1, "text": {{"output": "{output}"}}}}.',
        )
    return output


def _sole_output(graph: Artifact, facts: GraphFacts, tower: str) -> str:
    if len(facts.outputs) == 1:
        return next(iter(facts.outputs))
    raise ModelFormatError(
        f"{graph.path}: none of its outputs is one we know as an embedding: {', '.join(facts.outputs)}.",
        hint=f'Name it in {ANNOTATIONS}: {{"format": 1, "{tower}": {{"output": "..."}}}}.',
    )


def _classifier(facts: GraphFacts, config: Mapping[str, Any]) -> str:
    """The output that holds a score for each class; empty where there is none."""
    if "logits" in facts.outputs:
        return "logits"
    sole = next(iter(facts.outputs)) if len(facts.outputs) == 1 else ""
    classes = _classes(config)
    return sole if sole and classes and facts.outputs[sole].shape[-1:] == (classes,) else ""


def _classes(config: Mapping[str, Any]) -> int:
    """How many classes a classifier tells apart, as transformers and timm write it; 0 where nothing is said."""
    for key in ("id2label", "num_labels", "num_classes"):
        said = config.get(key)
        if isinstance(said, (dict, list)) and said:
            return len(said)
        if isinstance(said, int) and said:
            return said
    return 0


def _patch_pooling(graph: Artifact, output: str, options: Options, config: Mapping[str, Any]) -> str:
    kinds = [
        part.get("model_type") for part in (config, config.get("vision_config")) if isinstance(part, dict)
    ]
    pooling = next((PATCH_POOLING[kind] for kind in kinds if kind in PATCH_POOLING), "")
    if not pooling and not options.layer:
        raise ModelFormatError(
            f"{graph.path}: {output!r} holds a vector for each patch, and model_type {' or '.join(map(str, kinds))} "
            "does not tell how they are pooled.",
            hint=f'Say so in {ANNOTATIONS}: {{"format": 1, "image": {{"pooling": "cls"}}}}, or "avg".',
        )
    return pooling


def _tensor(facts: GraphFacts, name: str, scores: str) -> str:
    """The tensor that a name means. Penultimate is what goes into the classifier, `scores`, if there is one."""
    numbered = re.fullmatch(r"layer:(-?\d+)", name)
    wanted: int | str = int(numbered[1]) if numbered else name
    try:
        return resolve(facts, wanted, scores if wanted == PENULTIMATE else "")
    except ModelFormatError as error:
        raise AbsentLayerError(error.message, hint=error.hint) from error


def _axes(facts: GraphFacts, tensor: str) -> int | None:
    """How many axes a tensor has; None where the graph does not tell."""
    if tensor in facts.outputs and facts.outputs[tensor].shape:
        return len(facts.outputs[tensor].shape)
    made = facts.tensors.get(tensor)
    return len(made.shape) if made and made.shape is not None else None


def _require_places(graph: Artifact, facts: GraphFacts, tensor: str) -> None:
    """Refuse a pooling where there is nothing to pool."""
    axes = _axes(facts, tensor)
    if axes is not None and axes < 3:
        raise AbsentLayerError(
            f"{graph.path}: {tensor!r} is one vector for each input already, so no pooling applies.",
            hint="Give `layer` as well: -1 is the last one that has tokens or places.",
        )
