"""The frozen towers: which models they are of, and what they give to a head."""

from __future__ import annotations

from dataclasses import dataclass

from bowerbird.errors import LearnError, ModelFormatError
from bowerbird.models.encoder import Encoder, load
from bowerbird.models.network.graph import GraphFacts, read_graph
from bowerbird.settings import settings

Model = str | Encoder

LOGITS = "logits"
"""What the scores of a classifier are called."""

EARLY = 0.4
"""How far into the network the early layer lies."""

_LAYERS = 6


@dataclass(frozen=True)
class Towers:
    """What the frozen towers give, by the names of their tensors.

    Attributes:
        shared: of pictures, in the space that they share with texts, if they do; else as `best`. Empty: no pictures.
        best: of pictures, what compares them best: the penultimate layer, where the model publishes it.
        logits: of pictures, a classifier's; empty: there are none.
        text: of texts; empty: there is no tower for them.
        aligned: whether `shared` and `text` are one space already.
        early: of pictures, a layer before the middle of the network, which knows of colours and textures what later
            ones leave out; empty: there is none.
    """

    shared: str
    best: str
    logits: str = ""
    text: str = ""
    aligned: bool = False
    early: str = ""


@dataclass(frozen=True)
class Models:
    """The models whose towers stay as they are.

    Attributes:
        image: for pictures.
        text: for texts; None: there is none.
        towers: what they give.
    """

    image: Encoder
    text: Encoder | None
    towers: Towers

    @property
    def split_in_two(self) -> bool:
        """Whether both are of one directory, under options that make them two spaces."""
        one = self.text is not None and self.text.card.directory == self.image.card.directory
        return one and not self.towers.aligned


def models_of(model: Model, image_model: Model, text_model: Model, *, by_class: bool) -> Models:
    """Load what was named.

    Args:
        model: for both; empty, and none of the others: `BOWERBIRD_MODEL`.
        image_model: for pictures.
        text_model: for texts.
        by_class: whether classes are learned, so that texts are not needed.

    Raises:
        LearnError: there is none for pictures, or for texts where they are needed.
        ModelError: one cannot be loaded.
    """
    default: Model = model or ("" if image_model or text_model else settings().model)
    for_pictures, for_texts = image_model or default or text_model, text_model or default or image_model
    pictures = _encoder(for_pictures)
    words = pictures if for_texts == for_pictures else _encoder(for_texts)
    if pictures.card.image is None:
        raise LearnError(
            f"{pictures.card.name} takes no pictures.", hint="Name a model for them: --image-model."
        )
    text = words if words.card.text else None
    if text is None and not by_class:
        raise LearnError(
            f"{words.card.name} reads no texts, and pairs have them.",
            hint="Name a model for them: --text-model; or learn classes: --labels.",
        )
    return Models(pictures, text, towers_of(pictures, text))


def _encoder(model: Model) -> Encoder:
    return model if isinstance(model, Encoder) else load(model)


def towers_of(image: Encoder, text: Encoder | None) -> Towers:
    """What the towers of one model, or of two, give."""
    tower = image.image.tower
    facts = read_graph(tower.graph.path)
    own = tower.output == LOGITS or LOGITS in facts.outputs
    return Towers(
        shared=tower.output,
        best=tower.similarity_output,
        logits=LOGITS if own else "",
        text=text.text.tower.output if text else "",
        early=_early(facts, tower.output),
        aligned=text is not None and text.card.space == image.card.space,
    )


def _early(facts: GraphFacts, output: str) -> str:
    """A layer at two fifths of the way; empty where the graph tells of none with channels enough."""
    try:
        layers = facts.layers(output)
    except ModelFormatError:
        return ""
    if len(layers) < _LAYERS:
        return ""
    return layers[round(EARLY * (len(layers) - 1))].name
