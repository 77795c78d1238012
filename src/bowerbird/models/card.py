"""The recipe of a model: everything needed to build it anywhere, and to tell whether two vectors may meet."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bowerbird.errors import BowerbirdError
from bowerbird.media.policy import DecodePolicy
from bowerbird.models.artifact import Artifact
from bowerbird.models.text.rules import TextRules
from bowerbird.models.vision.steps import Steps
from bowerbird.record import Modality

PREPARED = "none"
"""`preprocess`: pictures are given as arrays that are ready for the network."""


@dataclass(frozen=True)
class Options:
    """What the user asked for beyond the model's own conditions. All of it decides what vectors mean.

    Attributes:
        profile: which reference stack's arithmetic prepares pictures; empty takes the one the model's files belong
            to. See `bowerbird.models.vision.processors`.
        variant: which published variant of the graphs, such as `fp16`; empty takes the plain ones.
        preprocess: a recipe as `Steps.parse` reads it, in place of the model's own; `none` for prepared arrays.
        layer: `penultimate`, a tensor's name, or `layer:N` for the N-th layer (see `bowerbird.models.network.graph`).
        pooling: how a tensor with several places or tokens becomes one vector; `none` keeps them all.
        dimensions: vectors are cut to this length and scaled to 1 again; 0 keeps all.
    """

    profile: str = ""
    variant: str = ""
    preprocess: str = ""
    layer: str = ""
    pooling: str = ""
    dimensions: int = 0

    @classmethod
    def of(
        cls,
        *,
        profile: str = "",
        variant: str = "",
        preprocess: Steps | str | None = None,
        layer: int | str | None = None,
        pooling: str = "",
        dimensions: int = 0,
    ) -> Options:
        """The options as users give them: steps as a recipe, layers by number.

        Raises:
            BowerbirdError: a recipe that cannot be read, or something of another type or range.
        """
        if isinstance(preprocess, str) and preprocess != PREPARED:
            preprocess = Steps.parse(preprocess)
        if not (preprocess is None or isinstance(preprocess, (Steps, str))):
            raise BowerbirdError(
                f"preprocess={preprocess!r} is not understood.",
                hint="Give Steps, a recipe of them, or 'none'.",
            )
        if not (layer is None or isinstance(layer, (int, str))) or isinstance(layer, bool):
            raise BowerbirdError(
                f"layer={layer!r} is not understood.",
                hint="Give a number, a tensor's name, or 'penultimate'.",
            )
        if not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 0:
            raise BowerbirdError(
                f"dimensions={dimensions!r} is not a whole number from 0 on.", hint="Give 0 for all of them."
            )
        return cls(
            profile=profile,
            variant=variant,
            preprocess=str(preprocess or ""),
            layer=f"layer:{layer}" if isinstance(layer, int) else layer or "",
            pooling=pooling,
            dimensions=dimensions,
        )

    def over(self, base: Options) -> Options:
        """These options where they say something, else those of `base`."""
        return Options(**{**base.to_dict(), **self.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        """The options that are set, as plain data: `load(name, **options.to_dict())` gives the same model again."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value}


@dataclass(frozen=True)
class TextTower:
    """How a text becomes a vector.

    Attributes:
        graph: the ONNX file.
        tokenizer: `tokenizer.json`.
        rules: from text to tokens, and from token vectors to one vector.
        output: what is the embedding: an output of the graph, or a key of `tensors`.
        tensors: names in `output` that are not outputs of the graph -> intermediate tensor.
        dimensions: vectors are cut to this length; 0 keeps all.
        vocabulary: how many tokens the graph knows; None where it does not tell.
        variant: of the graph; empty for the plain one.
    """

    graph: Artifact
    tokenizer: Artifact
    rules: TextRules
    output: str
    tensors: tuple[tuple[str, str], ...] = ()
    dimensions: int = 0
    vocabulary: int | None = None
    variant: str = ""

    def meaning(self) -> dict[str, Any]:
        """What decides the vectors, without where the files happen to lie."""
        return {
            "graph": self.graph.sha256,
            "tokenizer": self.tokenizer.sha256,
            **self.rules.meaning(),
            "output": dict(self.tensors).get(self.output, self.output),
            **({"dimensions": self.dimensions} if self.dimensions else {}),
        }


@dataclass(frozen=True)
class ImageTower:
    """How a picture becomes vectors.

    Attributes:
        graph: the ONNX file.
        steps: preprocessing, from the upright RGB picture to the network's input.
        decode: how files become upright RGB pictures.
        output: the embedding, in the space shared with texts if there is one: an output of the graph, or a key of
            `tensors`.
        similarity_output: what compares pictures with pictures best; often the same.
        pooling: how outputs with several places are pooled; one of `bowerbird.models.vision.pooling.POOLINGS`.
        tensors: names in `output` that are not outputs of the graph -> intermediate tensor.
        features: outputs with places -> the axis that holds their channels, where the graph tells.
        dimensions: vectors are cut to this length; 0 keeps all.
        prepared: pictures are given as arrays that are ready for the network; `steps` only says in what range.
        variant: of the graph; empty for the plain one.
        scaled: precision policy -> least ratio of decoded to wanted short side at which JPEG may be decoded at a
            reduced scale; a policy that is not named decodes in full.
        scaled_cosine: least cosine to full decode that was measured under `scaled`.
    """

    graph: Artifact
    steps: Steps
    decode: DecodePolicy
    output: str
    similarity_output: str
    pooling: str = "avg"
    tensors: tuple[tuple[str, str], ...] = ()
    features: tuple[tuple[str, int], ...] = ()
    dimensions: int = 0
    prepared: bool = False
    variant: str = ""
    scaled: tuple[tuple[str, float], ...] = ()
    scaled_cosine: float = 1.0

    def meaning(self) -> dict[str, Any]:
        """What decides the vectors, without where the files happen to lie."""
        return {
            "graph": self.graph.sha256,
            "steps": PREPARED if self.prepared else self.steps.to_json(),
            "decode": self.decode.meaning(),
            "output": dict(self.tensors).get(self.output, self.output),
            "similarity_output": dict(self.tensors).get(self.similarity_output, self.similarity_output),
            **({"pooling": self.pooling} if self.pooling != "avg" else {}),
            **({"dimensions": self.dimensions} if self.dimensions else {}),
        }


@dataclass(frozen=True)
class Calibration:
    """What a fitted model tells of its scores, from the data that it was fitted on. It changes no vector.

    Attributes:
        image_mean: of the pictures' vectors that were learned from; as long as they are, or empty.
        text_mean: of the texts'; likewise.
        corrects: whether moving both by their means ranked held-out pairs no worse; see `bowerbird.search.gap`.
        match: slope and bias: `1 / (1 + exp(-(slope * cosine + bias)))` is the probability that a text and a picture
            belong together, of which as many do as do not; None where too few were held out.
        pairs: how many that belong together were held out.
    """

    image_mean: tuple[float, ...] = ()
    text_mean: tuple[float, ...] = ()
    corrects: bool = False
    match: tuple[float, float] | None = None
    pairs: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain data, without what is empty."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
        return {name: value for name, value in lists.items() if value}


@dataclass(frozen=True)
class ModelCard:
    """A frozen, picklable recipe. Workers build their own `Encoder` from it.

    Attributes:
        name: what the user called the model.
        source: what `load` is given, with `options`, to get this model again.
        directory: where its files lie.
        license: SPDX-like identifier, or empty when the files do not say.
        text: the text tower, if there is one.
        image: the image tower, if there is one.
        options: what was asked for beyond the model's own conditions.
        sigmoid: scale and bias of a model that was trained with a sigmoid for each pair of a text and a picture; it
            changes no vector, so it is not part of the space. See `bowerbird.models.sigmoid`.
        calibration: of a fitted model; no part of the space either.
    """

    name: str
    source: str
    directory: Path
    license: str
    text: TextTower | None
    image: ImageTower | None
    options: Options = field(default_factory=Options)
    sigmoid: tuple[float, float] | None = None
    calibration: Calibration | None = None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the model takes."""
        towers = ((Modality.TEXT, self.text), (Modality.IMAGE, self.image))
        return tuple(modality for modality, tower in towers if tower)

    @property
    def size(self) -> int:
        """Bytes of weights."""
        graphs = {tower.graph.path: tower.graph.size for tower in (self.text, self.image) if tower}
        return sum(graphs.values())

    def meaning(self) -> dict[str, Any]:
        """Everything that changes what the vectors mean, as plain data."""
        return {
            "text": self.text.meaning() if self.text else None,
            "image": self.image.meaning() if self.image else None,
        }

    @property
    def space(self) -> str:
        """Fingerprint of the embedding space: 16 hexadecimal digits of the SHA-256 of `meaning()`.

        Two vectors may be compared only when their models' spaces are equal. Engine, precision and scaled
        decode are left out: they are numerics, recorded beside it.
        """
        text = json.dumps(self.meaning(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
