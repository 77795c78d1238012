"""The recipe of a model: everything needed to build it anywhere, and to tell whether two vectors may meet."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bowerbird.errors import BowerbirdError, ModelFormatError
from bowerbird.media.policy import DecodePolicy
from bowerbird.models.text.rules import TextRules
from bowerbird.models.vision.steps import Steps
from bowerbird.record import Modality
from bowerbird.settings import settings

PREPARED = "none"
"""`preprocess`: pictures are given as arrays that are ready for the network."""


@dataclass(frozen=True)
class Artifact:
    """A file of the model.

    Attributes:
        path: where it lies.
        sha256: of its bytes; of a graph with external data, of the hashes of all its files.
        size: in bytes, external data included.
    """

    path: Path
    sha256: str
    size: int


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
            BowerbirdError: a recipe that cannot be read, or a negative number of dimensions.
        """
        if isinstance(preprocess, str) and preprocess != PREPARED and preprocess:
            preprocess = Steps.parse(preprocess)
        if dimensions < 0:
            raise BowerbirdError(f"dimensions={dimensions} is negative.", hint="Give 0 for all of them.")
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
        variant: of the graph; empty for the plain one.
    """

    graph: Artifact
    tokenizer: Artifact
    rules: TextRules
    output: str
    tensors: tuple[tuple[str, str], ...] = ()
    dimensions: int = 0
    variant: str = ""

    def meaning(self) -> dict[str, Any]:
        """What decides the vectors, without where the files happen to lie."""
        return {
            "graph": self.graph.sha256,
            "tokenizer": self.tokenizer.sha256,
            **self.rules.meaning(),
            "output": self.output,
            **({"tensors": dict(self.tensors)} if self.tensors else {}),
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
            "output": self.output,
            "similarity_output": self.similarity_output,
            **({"pooling": self.pooling} if self.pooling != "avg" else {}),
            **({"tensors": dict(self.tensors)} if self.tensors else {}),
            **({"dimensions": self.dimensions} if self.dimensions else {}),
        }


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
    """

    name: str
    source: str
    directory: Path
    license: str
    text: TextTower | None
    image: ImageTower | None
    options: Options = field(default_factory=Options)

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


def artifact(path: Path) -> Artifact:
    """Hash a file of a model; the hash of an unchanged file is remembered in the cache directory.

    Raises:
        ModelFormatError: the file is missing or unreadable.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise ModelFormatError(f"{path} is missing or unreadable.", hint="Fetch the model again.") from error
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
    memo = settings().cache_path / "sha256" / hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    try:
        known = memo.read_text("ascii").strip()
        if re.fullmatch("[0-9a-f]{64}", known):
            return Artifact(path, known, stat.st_size)
    except (OSError, ValueError):
        pass  # Not hashed before, or the cache cannot be read: hash it now.
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error}.", hint="Fetch the model again.") from error
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(digest.hexdigest(), "ascii")
    except OSError:
        pass  # A cache that cannot be written costs time, nothing else.
    return Artifact(path, digest.hexdigest(), stat.st_size)


def graph_artifact(path: Path) -> Artifact:
    """Hash a graph and the external data beside it: `model.onnx_data`, `model.onnx.data` and the like.

    Raises:
        ModelFormatError: a file is missing or unreadable.
    """
    graph = artifact(path)
    beside = sorted(other for other in path.parent.glob(f"{path.name}?*") if other.is_file())
    parts = [artifact(other) for other in beside]
    if not parts:
        return graph
    named: Mapping[str, str] = {part.path.name: part.sha256 for part in (graph, *parts)}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    return Artifact(path, digest, graph.size + sum(part.size for part in parts))
